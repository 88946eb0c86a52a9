"""The learner's workbook: what is taken out of the notebooks, what is said about each attempt, and every real exercise."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from shared import exercises, workbook
from shared.exercises import Exercise, blank, course_exercises, course_notebooks, exercises_of
from shared.workbook import attempt, main

IMPORTS = "import math\nfrom dataclasses import dataclass"
SOFTPLUS = """# exercise 01.1: the softplus
def softplus(x):
    ### BEGIN SOLUTION
    return math.log(1 + math.exp(x))
    ### END SOLUTION
"""
SOFTPLUS_CHECK = """# check 01.1
print("checking")
got = softplus(0.0)
assert abs(got - math.log(2)) < 1e-9, f"expected 0.693, got {got}"
assert softplus(1.0) > 1
"""
BLANK_SOFTPLUS = """# exercise 01.1: the softplus
def softplus(x):
    raise NotImplementedError("exercise 01.1: the softplus")
"""


def exercise_cells(number, title, cell, check):
    task = f"### Exercise {number}: {title}\n\nWrite it.\n\n<details><summary>Hint</summary>\n\nThink.\n\n</details>"
    return [new_markdown_cell(task), new_code_cell(cell), new_code_cell(check)]


def simple(number, title):
    """An exercise that is solved by the name `answer` for 42, whose check sees whether another one's name is about."""
    cell = f"# exercise {number}: {title}\n### BEGIN SOLUTION\nanswer = 42\n### END SOLUTION"
    return exercise_cells(number, title, cell, f"# check {number}\nassert answer == 42, f'expected 42, got {{answer}}'")


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two stages, three notebooks and four exercises."""
    root = tmp_path / "course"
    shown = new_code_cell("math.pi", execution_count=2, outputs=[new_output("stream", text="3.14")])
    softplus = exercise_cells("01.1", "the softplus", SOFTPLUS, SOFTPLUS_CHECK)
    write(
        root / "01_micrograd/1_values.ipynb", new_code_cell(IMPORTS, execution_count=1), shown, *softplus, *simple("01.2", "b")
    )
    write(root / "01_micrograd/2_more.ipynb", new_code_cell(IMPORTS), *simple("01.3", "c"))
    write(root / "02_makemore/1_reading.ipynb", new_markdown_cell("Nothing to solve."), new_code_cell("1 + 1"))
    write(root / "02_makemore/2_counting.ipynb", new_code_cell(IMPORTS), *simple("02.1", "d"))
    write(root / "01_micrograd/.ipynb_checkpoints/1_values-checkpoint.ipynb", new_code_cell("old"))
    write(root / "notes/1_private.ipynb", new_code_cell("mine"))
    monkeypatch.setattr(exercises, "ROOT", root)
    return root


@pytest.fixture
def book(course, tmp_path, capsys):
    folder = tmp_path / "book"
    assert main(["make", str(folder)]) == 0
    capsys.readouterr()
    return folder


def solve(notebook, old, new):
    """Put `new` in place of the code cell that begins with `old`."""
    content = nbformat.read(notebook, as_version=4)
    [cell] = [cell for cell in content.cells if cell.source.startswith(old)]
    cell.source = new
    nbformat.write(content, notebook)


@pytest.fixture
def told(book, capsys):
    """What the report says about a first exercise that holds the given source, and what stands below."""

    def told(source):
        solve(book / "01_micrograd/1_values.ipynb", "# exercise 01.1", source)
        main(["check", str(book / "01_micrograd/1_values.ipynb")])
        report = capsys.readouterr().out.split("01.2 b: not yet\n")[0]
        first, _, below = report.removeprefix("01.1 the softplus: ").partition("\n")
        return first, below

    return told


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_make_copies_every_notebook_of_every_stage_and_says_how_to_go_on(course, tmp_path, capsys):
    folder = tmp_path / "above" / "my book"
    assert main(["make", str(folder)]) == 0
    assert files(folder) == {
        ".gitignore",
        "01_micrograd/1_values.ipynb",
        "01_micrograd/2_more.ipynb",
        "02_makemore/1_reading.ipynb",
        "02_makemore/2_counting.ipynb",
    }
    assert capsys.readouterr().out == (
        f"{folder}: 4 notebooks, 4 exercises; open them with: jupyter lab '{folder}'\n"
        f"Save what you have solved, then: python -m shared.workbook check '{folder}'\n"
    )


def test_a_copy_differs_in_its_solutions_outputs_and_counts_alone(course, book):
    given, made = (nbformat.read(root / "01_micrograd/1_values.ipynb", as_version=4) for root in (course, book))
    for cell in given.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    given.cells[3].source = BLANK_SOFTPLUS
    given.cells[6].source = '# exercise 01.2: b\nraise NotImplementedError("exercise 01.2: b")'
    assert made == given


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_version_control_does_not_see_the_workbook(book):
    subprocess.run(["git", "init", "-q", book.parent], check=True)
    seen = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=book.parent, capture_output=True, text=True, check=True
    )
    assert "course/" in seen.stdout and "book/" not in seen.stdout


@pytest.mark.parametrize("what", ["a folder with a file in it", "a file"])
def test_make_overwrites_nothing(course, tmp_path, capsys, what):
    target = tmp_path / "taken"
    mine = target if what == "a file" else target / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine", encoding="utf-8")
    before = files(tmp_path)
    assert main(["make", str(target)]) == 2
    assert capsys.readouterr().err == f"error: {target} is there already and nothing is overwritten; name a new folder\n"
    assert files(tmp_path) == before and mine.read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_filled_and_stays_the_same_one(course, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["make", "."]) == 0
    assert "01_micrograd" in os.listdir(".")  # noqa: PTH208, a path would look the folder up by its name


def test_a_make_that_fails_halfway_leaves_nothing(course, tmp_path, monkeypatch, capsys):
    def write_once(notebook, path, written=[]):  # noqa: B006
        if written:
            raise OSError("no space left")
        written.append(path)

    monkeypatch.setattr(nbformat, "write", write_once)
    before = set(tmp_path.rglob("*"))
    assert main(["make", str(tmp_path / "book")]) == 1
    assert capsys.readouterr().err == "error: no space left\n"
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("action", ["make", "check"])
def test_a_course_without_exercises_is_told_in_one_sentence(tmp_path, monkeypatch, capsys, action):
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    assert main([action, str(tmp_path / "book")]) == 2
    assert capsys.readouterr().err.startswith("error: the course's notebooks are not beside this package; ")
    assert not list(tmp_path.iterdir())


def test_a_fresh_workbook_is_not_yet_solved(book, capsys):
    assert main(["check", str(book)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "01.1 the softplus: not yet",
        "01.2 b: not yet",
        "01.3 c: not yet",
        "02.1 d: not yet",
        "01_micrograd: 0 of 3 solved",
        "02_makemore: 0 of 1 solved",
    ]


def test_the_course_itself_is_solved(course, capsys):
    assert main(["check", str(course)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "02.1 d: solved",
        "01_micrograd: 3 of 3 solved",
        "02_makemore: 1 of 1 solved",
    ]


@pytest.mark.parametrize(
    ("cwd", "path", "lines"),
    [
        (".", "02_makemore", ["02.1 d: not yet", "02_makemore: 0 of 1 solved"]),
        ("02_makemore", ".", ["02.1 d: not yet", "02_makemore: 0 of 1 solved"]),
        ("01_micrograd", "2_more.ipynb", ["01.3 c: not yet", "01_micrograd/2_more.ipynb: 0 of 1 solved"]),
    ],
)
def test_a_stage_or_a_notebook_is_checked_alone(book, monkeypatch, capsys, cwd, path, lines):
    monkeypatch.chdir(book / cwd)
    assert main(["check", path]) == 1
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere", "is not there"),
        ("course/notes", "holds no exercises under the course's names"),
        ("book/02_makemore/1_reading.ipynb", "holds no exercises under the course's names"),
        ("book/.gitignore", "holds no exercises under the course's names"),
    ],
)
def test_a_path_that_is_no_workbook_is_wrong_use(book, tmp_path, monkeypatch, capsys, path, problem):
    monkeypatch.chdir(tmp_path)
    assert main(["check", path]) == 2
    way_out = "name a workbook's folder, one of its stages or one of its notebooks"
    assert capsys.readouterr() == ("", f"error: {path} {problem}; {way_out}\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: action, path"),
        (["make"], "the following arguments are required: path"),
        (["grade", "book"], "argument action: invalid choice: 'grade'"),
        (["check", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_words_are_told_in_one_sentence(capsys, argv, message):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["make", "--help"], ["check", "--help"]])
def test_help_shows_examples(capsys, argv):
    with pytest.raises(SystemExit, match="0"):
        main(argv)
    assert "python -m shared.workbook make my-course" in capsys.readouterr().out


def test_a_solution_of_ones_own_is_solved_and_its_output_dropped(told):
    assert told("# exercise 01.1\ndef softplus(x):\n    print(x)\n    return math.log1p(math.exp(x))") == ("solved", "")


def test_what_was_expected_is_said_in_one_sentence_and_what_was_printed_below(told):
    first, below = told("# exercise 01.1: the softplus\ndef softplus(x):\n    print('x is', x)\n    return 0.5")
    assert first == "expected 0.693, got 0.5"
    assert below == "    printed:\n    checking\n    x is 0.0\n"


def test_an_error_is_told_with_the_cells_own_lines(told):
    first, below = told("# exercise 01.1: the softplus\nimport json\ndef softplus(x):\n    return json.loads(x)")
    assert first == "raised TypeError: the JSON object must be str, bytes or bytearray, not float"
    lines = [line for line in below.splitlines() if "^" not in line]
    assert lines == [
        "    Traceback (most recent call last):",
        '      File "check 01.1", line 3, in <module>',
        "        got = softplus(0.0)",
        '      File "exercise 01.1", line 4, in softplus',
        "        return json.loads(x)",
        "    TypeError: the JSON object must be str, bytes or bytearray, not float",
        "    printed:",
        "    checking",
    ]


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ('raise NotImplementedError("exercise 01.2: b")', "raised NotImplementedError: exercise 01.2: b"),
        ("return math.log(2) if x == 0 else 1", "this does not hold: assert softplus(1.0) > 1"),
        ("assert x > 0, 'x is positive'", "x is positive"),
        ("assert x > 0", "this does not hold: assert x > 0"),
        ("exec('assert x > 0')", "this does not hold: exec('assert x > 0')"),
        ("raise AssertionError('\\nfirst\\nsecond')", "first"),
        ("raise ValueError('first\\nsecond')", "raised ValueError: first"),
        ("raise StopIteration", "raised StopIteration"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
        ("exec('1 +')", "raised SyntaxError: invalid syntax (<string>, line 1)"),
        ("return softplus(x)", "raised RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_comes_is_told_in_one_sentence_above_a_short_traceback(told, body, verdict):
    first, below = told(f"# exercise 01.1: the softplus\ndef softplus(x):\n    {body}")
    assert first.startswith(verdict)
    assert below.startswith("    Traceback") or "does not hold: assert softplus" not in verdict
    assert below.count("\n") < 30 and "workbook.py" not in below


def test_functions_that_call_each_other_for_ever_have_a_short_traceback(told):
    source = "def even(x):\n    return odd(x)\ndef odd(x):\n    return even(x)\nsoftplus = even"
    first, below = told(f"# exercise 01.1: the softplus\n{source}")
    assert first.startswith("raised RecursionError") and "    …\n" in below and below.count("\n") < 30


def test_a_syntax_error_is_told_with_its_line(told):
    verdict = "line 3 of exercise 01.1 is not Python ('(' was never closed): return (x"
    assert told("# exercise 01.1: the softplus\ndef softplus(x):\n    return (x") == (verdict, "")
    verdict = "line 2 of exercise 01.1 is not Python ('return' outside function): return 1"
    assert told("# exercise 01.1: the softplus\nreturn 1") == (verdict, "")


def test_lines_of_a_message_after_its_first_are_shown_below(book, course, capsys):
    solve(course / "01_micrograd/2_more.ipynb", "# check", "# check 01.3\nassert answer == 42, 'not close\\nfar off: 1'")
    solve(book / "01_micrograd/2_more.ipynb", "# exercise", "# exercise 01.3: c\nanswer = 43")
    assert main(["check", str(book / "01_micrograd/2_more.ipynb")]) == 1
    assert capsys.readouterr().out.startswith("01.3 c: not close\n    far off: 1\n01_micrograd")


def test_a_cell_whose_first_line_was_changed_is_told(told):
    expected = 'expected one cell that begins with "# exercise 01.1: the softplus", found 0; put that line back'
    assert told("# my softplus\ndef softplus(x):\n    return 1") == (expected, "")


def test_a_cell_that_is_there_twice_is_told(book, capsys):
    solve(book / "01_micrograd/1_values.ipynb", "math.pi", "# exercise 01.1, second try")
    assert main(["check", str(book)]) == 1
    said = (
        '01.1 the softplus: expected one cell that begins with "# exercise 01.1: the softplus", found 2; put that line back\n'
    )
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "\xff"])
def test_a_notebook_that_cannot_be_read_is_told_once(book, capsys, content):
    notebook = book / "01_micrograd/1_values.ipynb"
    notebook.write_bytes(content.encode("latin-1"))
    assert main(["check", str(book)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{notebook} cannot be read as a notebook (")
    assert lines[1] == "01.3 c: not yet" and "01_micrograd: 0 of 3 solved" in lines


def test_a_notebook_that_is_missing_is_told_once(book, capsys):
    notebook = book / "01_micrograd/2_more.ipynb"
    notebook.unlink()
    assert main(["check", str(book)]) == 1
    assert (
        f"{notebook} is not there; python -m shared.workbook make NEW_FOLDER brings a fresh one\n" in capsys.readouterr().out
    )


def test_an_edited_check_does_not_count(book, capsys):
    solve(book / "01_micrograd/2_more.ipynb", "# check", "# check 01.3")
    solve(book / "01_micrograd/2_more.ipynb", "# exercise", "# exercise 01.3: c\nanswer = 41")
    assert main(["check", str(book / "01_micrograd/2_more.ipynb")]) == 1
    assert capsys.readouterr().out.startswith("01.3 c: expected 42, got 41\n")


def test_the_learners_own_imports_count_and_their_errors_are_told(book, capsys):
    notebook = book / "01_micrograd/2_more.ipynb"
    solve(notebook, "# exercise", "# exercise 01.3: c\nanswer = m.floor(42.5)")
    solve(notebook, IMPORTS, "import math as m")
    assert main(["check", str(notebook)]) == 0
    solve(notebook, "import", "import math as m\nimport nonsense_that_is_not_installed")
    assert main(["check", str(notebook)]) == 1
    report = capsys.readouterr().out
    assert "01.3 c: raised ModuleNotFoundError: No module named 'nonsense_that_is_not_installed'\n" in report
    assert 'File "first cell", line 2' in report


def test_a_cell_put_above_the_first_one_does_no_harm(book, capsys):
    notebook = book / "01_micrograd/1_values.ipynb"
    solve(notebook, "# exercise 01.1", SOFTPLUS)
    for above in ("import sys", "%matplotlib inline\n!ls\nimport sys"):
        content = nbformat.read(notebook, as_version=4)
        content.cells.insert(0, new_code_cell(above))
        nbformat.write(content, notebook)
        main(["check", str(notebook)])
        assert capsys.readouterr().out.startswith("01.1 the softplus: solved\n")


@pytest.mark.parametrize(
    "first_line", ["# Exercise 01.1", "#exercise  01.1: my own", "# attempt 3\n\n# exercise 01.1: the softplus"]
)
def test_an_exercise_is_found_by_its_number(book, capsys, first_line):
    solve(
        book / "01_micrograd/1_values.ipynb", "# exercise 01.1", SOFTPLUS.replace("# exercise 01.1: the softplus", first_line)
    )
    main(["check", str(book)])
    assert capsys.readouterr().out.startswith("01.1 the softplus: solved\n")


def test_a_line_that_still_raises_is_told_from_an_untouched_cell(book, capsys):
    cell = BLANK_SOFTPLUS + "    return math.log(1 + math.exp(x))\n"
    solve(book / "01_micrograd/1_values.ipynb", "# exercise 01.1", cell)
    main(["check", str(book)])
    still = "01.1 the softplus: not yet: the line that raises NotImplementedError is still there\n01.2 b: not yet\n"
    assert capsys.readouterr().out.startswith(still)


def test_exercises_do_not_see_each_others_names(book, capsys):
    solve(book / "01_micrograd/1_values.ipynb", "# exercise 01.2", "# exercise 01.2: b\nanswer = 42")
    solve(book / "01_micrograd/2_more.ipynb", "# exercise", "# exercise 01.3: c")
    main(["check", str(book / "01_micrograd")])
    report = capsys.readouterr().out
    assert "01.2 b: solved\n01.3 c: raised NameError: name 'answer' is not defined; only the notebook's first cell, " in report


POINT = """# exercise 01.1: a class
@dataclass
class Point:
    x: "int"
    ### BEGIN SOLUTION
    y: "int" = 2
    ### END SOLUTION
"""
POINT_CHECK = """# check 01.1
assert pickle.loads(pickle.dumps(Point(1))) == Point(1, 2)
assert inspect.getsource(area) == "def area(p):\\n    return p.x * p.y\\n"
assert Path.cwd().name == "01_micrograd"
display(Point(1), area(Point(3)))
"""


def test_cells_run_as_they_do_in_a_notebook(tmp_path):
    imports = "import inspect, pickle\nfrom dataclasses import dataclass\nfrom pathlib import Path"
    cell = POINT + "\ndef area(p):\n    return p.x * p.y\n"
    cells = new_code_cell(imports), *exercise_cells("01.1", "a class", cell, POINT_CHECK)
    [exercise] = exercises_of(write(tmp_path / "01_micrograd/1_values.ipynb", *cells))
    before = Path.cwd()
    assert attempt(exercise) == (workbook.SOLVED, "") and Path.cwd() == before


def test_ctrl_c_stops_the_report(book, capsys):
    solve(book / "01_micrograd/1_values.ipynb", "# exercise 01.1", "# exercise 01.1\nraise KeyboardInterrupt")
    assert main(["check", str(book)]) == 130
    assert capsys.readouterr() == ("01.1 the softplus: ", "stopped\n")


@pytest.fixture
def installed(course):
    """The environment of a course that holds its own copy of `shared`, as a clone does."""
    shutil.copytree(Path(workbook.__file__).parent, course / "shared", ignore=shutil.ignore_patterns("__pycache__"))
    return {**os.environ, "PYTHONPATH": str(course)}


def test_make_and_check_run_from_any_folder(installed, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "shared.workbook", *arguments]
        done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=installed, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines(), done.stderr

    (tmp_path / "elsewhere").mkdir()
    assert run("make", "book")[::2] == (0, "")
    solve(tmp_path / "elsewhere/book/01_micrograd/1_values.ipynb", "# exercise 01.2", "# exercise 01.2: b\nanswer = 42")
    lines = ["01.1 the softplus: not yet", "01.2 b: solved", "01.3 c: not yet", "01_micrograd: 1 of 3 solved"]
    assert run("check", "book/01_micrograd") == (1, lines, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
def test_an_endless_loop_is_named_before_ctrl_c_stops_it(installed, book, tmp_path):
    solve(book / "01_micrograd/1_values.ipynb", "# exercise 01.1", "# exercise 01.1\nwhile True:\n    pass")
    command = [sys.executable, "-m", "shared.workbook", "check", str(book)]
    with subprocess.Popen(command, cwd=tmp_path, env=installed, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.read(len("01.1 the softplus: ")) == b"01.1 the softplus: "
        run.send_signal(signal.SIGINT)
        assert (run.wait(60), run.stderr.read()) == (130, b"stopped\n")


def test_exercises_are_read_in_order(course):
    first, second = exercises_of(course / "01_micrograd/1_values.ipynb")
    path = course / "01_micrograd/1_values.ipynb"
    assert first == Exercise("01.1", "the softplus", path, IMPORTS, SOFTPLUS, SOFTPLUS_CHECK)
    assert (second.number, second.name) == ("01.2", "exercise 01.2: b")


def test_a_heading_may_set_code_in_its_title(course):
    _, cell, check = simple("01.4", "your own relu")
    path = write(course / "01_micrograd/3_code.ipynb", new_markdown_cell("### Exercise 01.4: your own `relu`"), cell, check)
    assert [exercise.title for exercise in exercises_of(path)] == ["your own relu"]


HEADING, CELL, CHECK = simple("01.1", "b")


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ([HEADING, CELL], "exercise 01.1: b needs the text"),
        ([HEADING, CELL, new_markdown_cell("# check 01.1")], "exercise 01.1: b needs the text"),
        ([HEADING, CELL, new_code_cell("# check 01.2")], "exercise 01.1: b needs the text"),
        ([CELL, CHECK], "exercise 01.1: b needs the text"),
        ([new_markdown_cell("### Exercise 01.1: c"), CELL, CHECK], "exercise 01.1: b needs the text"),
        ([HEADING, CELL, CHECK, *simple("01.1", "c")], "exercise 01.1: c has the number of exercise 01.1: b"),
        ([HEADING, new_code_cell("# exercise 01.1: b\n### BEGIN SOLUTION"), CHECK], "exercise 01.1: b needs a solution"),
        ([HEADING, new_code_cell("# exercise 1.1: b"), CHECK], 'begins with "### Exercise 01.1: b" is part of no exercise'),
        ([CHECK], 'begins with "# check 01.1" is part of no exercise'),
        ([new_code_cell("x = 1\n### BEGIN SOLUTION\n### END SOLUTION")], 'begins with "x = 1" is part of no exercise'),
    ],
)
def test_a_malformed_exercise_is_refused_with_its_notebook_and_name(course, tmp_path, capsys, cells, problem):
    path = write(course / "01_micrograd/3_bad.ipynb", *cells)
    with pytest.raises(ValueError, match=r"3_bad\.ipynb") as caught:
        exercises_of(path)
    assert problem in str(caught.value)
    assert main(["make", str(tmp_path / "book")]) == 1
    assert capsys.readouterr().err == f"error: {caught.value}\n" and not (tmp_path / "book").exists()


def test_two_notebooks_may_not_share_a_number(course, tmp_path, capsys):
    write(course / "01_micrograd/3_twin.ipynb", *simple("01.2", "twin"))
    assert main(["make", str(tmp_path / "book")]) == 1
    said = capsys.readouterr().err
    assert said.endswith("3_twin.ipynb: exercise 01.2: twin has the number of exercise 01.2: b in 1_values.ipynb\n")


def test_a_blank_keeps_everything_but_the_solutions():
    two = """# exercise 03.2: the "causal" mask
class Mask:
    def rows(self):
        ### BEGIN SOLUTION
        rows = 1

        return rows
        ### END SOLUTION

\tx = 1
    ### BEGIN SOLUTION
    ### END SOLUTION
    y = 2""".replace("\t", "    ")
    assert (
        blank(two)
        == """# exercise 03.2: the "causal" mask
class Mask:
    def rows(self):
        raise NotImplementedError("exercise 03.2: the \\"causal\\" mask")

    x = 1
    raise NotImplementedError("exercise 03.2: the \\"causal\\" mask")
    y = 2"""
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("x = 1", "needs a solution"),
        ("### BEGIN SOLUTION\nx = 1", "needs a solution"),
        ("x = 1\n### END SOLUTION", "needs a solution"),
        ("### END SOLUTION\n### BEGIN SOLUTION", "needs a solution"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "needs a solution"),
        ("### BEGIN SOLUTION\n### END SOLUTION\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION", "needs a solution"),
        ("x = (\n    ### BEGIN SOLUTION\n    1\n    ### END SOLUTION\n)", "does not compile without its solution"),
    ],
)
def test_a_cell_that_cannot_be_blanked_is_refused_by_name(body, problem):
    with pytest.raises(ValueError, match=f"exercise 01.1: b {problem}"):
        blank(f"# exercise 01.1: b\n{body}")
    with pytest.raises(ValueError, match="not the first line of an exercise"):
        blank(body)
    with pytest.raises(ValueError, match="not the first line of an exercise"):
        blank("")


def readable(notebook):
    """A notebook's exercises; none of a malformed one, so that it fails one test and not all of this file."""
    try:
        return exercises_of(notebook)
    except ValueError:
        return []


REAL = [exercise for notebook in course_notebooks() for exercise in readable(notebook)]
each_exercise = pytest.mark.parametrize("exercise", REAL, ids=lambda e: f"{e.notebook.parent.name}/{e.number}")


def test_the_course_has_exercises_and_all_are_well_formed():
    assert REAL and course_exercises() == REAL


@each_exercise
def test_a_solved_exercise_passes_its_check(exercise):
    assert attempt(exercise) == (workbook.SOLVED, "")


@each_exercise
def test_a_blank_exercise_fails_with_its_own_name(exercise):
    assert attempt(replace(exercise, cell=blank(exercise.cell))) == (workbook.NOT_YET, "")
