"""What a tidy notebook is: one function for each rule, which takes a notebook and its path and says what to change where."""

import ast
import re
import tokenize
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from nbformat import NotebookNode
from nbformat.validator import iter_validate

from shared.exercises import exercises_of

from .reading import cells, code_cells, first_line, imported, pictures, texts, tokens

Rule = Callable[[NotebookNode, Path], Iterator[str]]

ROOT = Path(__file__).parents[2]
FILE_BYTES, PICTURE_BYTES, LINE_LENGTH = 1_000_000, 150_000, 100
MARKER = "# NBVAL_CHECK_OUTPUT"
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|Users|tmp|work|var/folders)/\S*|\b[A-Za-z]:\\+Users\\\S*")
CHANGING_TEXT = re.compile(r"0x[0-9a-fA-F]{9,}|<Figure ")  # an address in memory; a figure's size differs between displays
TIMES = re.compile(
    r"^(?=.*\bread(?:s|ing)?\b)(?=.*\brun(?:s|ning)?\b).*\d\s*(?:s|seconds?|min|minutes?|h|hours?)\b",
    re.IGNORECASE | re.MULTILINE,
)


def cells_ran_from_top_to_bottom(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Execution counts are 1, 2, 3, … and no code cell is empty."""
    count = 0
    for name, cell in code_cells(notebook):
        if not cell.source.strip():
            yield f"{name} is empty: delete it"
            continue
        count += 1
        if cell.execution_count != count:
            yield f"{name} ran as number {cell.execution_count} instead of {count}: restart the kernel and run all cells"
            return


def nothing_went_wrong(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """No errors, and nothing on stderr, where warnings and progress bars go."""
    for name, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{name} ends in a {output.ename}: mend it, or catch the error and print it"
            elif output.get("name") == "stderr":
                yield f"{name} writes to stderr: remove the cause of `{first_line(output.text)}`"


def markers_stand_alone(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """nbval overlooks a marker with other text on its line; the markers that skip checks are not used."""
    for name, cell in code_cells(notebook):
        for line in re.findall(r".*(?:NBVAL|PYTEST_VALIDATE)_.*", cell.source, re.IGNORECASE):
            if MARKER[2:] not in line.upper():
                yield f"{name} switches a check off: remove `{line.strip()}`"
            elif line.strip() != MARKER:
                yield f"{name} is not compared: write `{MARKER}` on a line of its own instead of `{line.strip()}`"


def marked_outputs_can_be_compared(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """nbval compares neither pictures nor what was never stored, and what changes from run to run would fail."""
    for name, cell in code_cells(notebook):
        if MARKER not in map(str.strip, cell.source.splitlines()):
            continue
        if not cell.outputs:
            yield f"{name} is marked but has no stored output: run it, or remove the marker"
        for kind in sorted(
            {kind for output in cell.outputs for kind in output.get("data", {}) if not kind.startswith("text/")}
        ):
            yield f"{name} is marked but shows {kind}, which is not compared: print the numbers in a cell of their own"
        for found in map(CHANGING_TEXT.search, texts(cell)):
            if found:
                yield f"{name} is marked but shows `{found[0]}`, which changes from run to run: print something else"


def no_line_ends_with_a_semicolon(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A semicolon hides a cell's value in Jupyter but not in nbval, which would then see another output."""
    for name, cell in code_cells(notebook):
        for token, after in pairwise(tokens(cell.source)):
            if token.string == ";" and after.type in (tokenize.NEWLINE, tokenize.COMMENT):
                yield f"{name} ends a line with a semicolon: remove it from `{token.line.strip()}`"


def no_path_of_a_machine(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Neither words nor code nor outputs name a folder that only the author has."""
    for name, cell in cells(notebook):
        for text in [cell.source, *texts(cell)]:
            if found := MACHINE_PATH.search(text):
                yield f"{name} names a path of one machine: remove `{found[0]}`"


def files_are_small(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The file has at most 1 MB, each picture at most 150 kB."""
    if (size := path.stat().st_size) > FILE_BYTES:
        yield f"the file has {size / 1e6:.1f} MB: show less, at most {FILE_BYTES / 1e6:.0f} MB"
    for name, cell in cells(notebook):
        for kind, content in pictures(cell):
            size = len(content.encode() if kind == "image/svg+xml" else b64decode(content))
            if size > PICTURE_BYTES:
                yield f"{name} shows a picture of {size / 1e3:.0f} kB: draw less in it, at most {PICTURE_BYTES / 1e3:.0f} kB"


def cells_are_plain_python(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Cells also run where there is no Jupyter: no magics, no shell commands."""
    for name, cell in code_cells(notebook):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"{name} is not plain Python: {error.msg} in `{(error.text or '').strip()}`"


def code_lines_fit_the_page(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """At most 100 characters: a page shows no more without scrolling sideways."""
    for name, cell in code_cells(notebook):
        for line in cell.source.splitlines():
            if len(line) > LINE_LENGTH:
                yield f"{name} has a line of {len(line)} characters, and {LINE_LENGTH} fit: break `{line.strip()[:40]}…`"


def nothing_is_left_in_metadata(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """The kernel is python3; editors leave times, folded cells, tags and widgets, none of which the course reads."""
    if (kernel := notebook.metadata.get("kernelspec", {}).get("name")) != "python3":
        yield f"the notebook asks for the kernel {kernel}: choose python3"
    for key in notebook.metadata.keys() - {"kernelspec", "language_info"}:
        yield f"the notebook's metadata hold {key}: remove it"
    for name, cell in cells(notebook):
        for key in cell.metadata:
            yield f"{name} has {key} in its metadata: remove it"


def format_is_valid(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Version 4.5 of the format, whose cells have ids, each its own."""
    if (version := (notebook.nbformat, notebook.nbformat_minor)) != (4, 5):
        yield f"the notebook's format is {version[0]}.{version[1]}: convert it to 4.5"
        return
    for error in iter_validate(notebook):
        yield f"the notebook is not valid at {'.'.join(map(str, error.path)) or 'its top'}: {error.message.splitlines()[0]}"
    for cell_id, times in Counter(cell.id for cell in notebook.cells if "id" in cell).items():
        if times > 1:
            yield f"{times} cells have the id {cell_id}: give each its own"


def opens_with_a_title_and_times(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A reader knows at once what this is and how long it takes."""
    first = notebook.cells[0] if notebook.cells else NotebookNode(cell_type="", source="")
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "cell 1 is not a markdown cell that begins with a title: write `# …` on its first line"
    elif not TIMES.search(first.source):
        yield "cell 1 does not say how long the notebook takes: write a line such as `15 minutes to read, 30 seconds to run.`"


def closes_with_words(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What was proved, what comes next, what to read."""
    if not notebook.cells or notebook.cells[-1].cell_type != "markdown":
        yield "the last cell is not a markdown cell: close with what was proved and what comes next"


def commands_exist(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """Each `python -m` in the text is a module of this repository."""
    for name, cell in cells(notebook):
        for module in re.findall(r"\bpython3? -m ([\w.]*\w)", cell.source if cell.cell_type == "markdown" else ""):
            if not (ROOT / module.replace(".", "/")).with_suffix(".py").is_file():
                yield f"{name} names a command that does not exist: correct `python -m {module}`"


def stages_are_opened_by_import_module(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """A kernel also finds `engine` in the folder it runs in, but as a second copy of 01_micrograd.engine and its classes."""
    for name, cell in code_cells(notebook):
        if "sys.path" in cell.source:
            yield f'{name} touches sys.path: open modules with import_module("01_micrograd.engine") and the like'
        for module in sorted(imported(cell.source) & {file.stem for file in (ROOT / path.parent.name).glob("*.py")}):
            yield f'{name} imports {module} from its own folder: write import_module("{path.parent.name}.{module}")'


def exercises_are_complete(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """At least two exercises, each a heading with a folded hint, a cell with its solution and a check, in this order."""
    try:
        found = exercises_of(path)
    except ValueError as error:
        yield str(error)
        return
    if len(found) < 2:
        yield f"the notebook has {len(found)} exercises: ask at least two"
    for exercise in found:
        heading = next(cell.source for cell in notebook.cells if cell.source.startswith(f"### Exercise {exercise.number}:"))
        if not re.search(r"<details>\s*<summary>.+?</summary>.+?</details>", heading, re.DOTALL):
            yield f"{exercise.name} has no hint: write <details><summary>Hint</summary> … </details> below its heading"


RULES: tuple[Rule, ...] = (
    cells_ran_from_top_to_bottom,
    nothing_went_wrong,
    markers_stand_alone,
    marked_outputs_can_be_compared,
    no_line_ends_with_a_semicolon,
    no_path_of_a_machine,
    files_are_small,
    cells_are_plain_python,
    code_lines_fit_the_page,
    nothing_is_left_in_metadata,
    format_is_valid,
    opens_with_a_title_and_times,
    closes_with_words,
    commands_exist,
    stages_are_opened_by_import_module,
    exercises_are_complete,
)
