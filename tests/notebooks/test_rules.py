"""Each rule catches the notebooks that break it, and no other rule complains about them."""

import json
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from . import rules
from .example import picture, prints, replaces, runs, says, sets, shows, tidy_notebook, without_exercises
from .reading import read

BROKEN = {
    rules.cells_ran_from_top_to_bottom: {
        "a cell ran again": sets(1, execution_count=7),
        "a cell did not run": sets(1, execution_count=None),
        "an empty cell": lambda notebook: notebook.cells.insert(2, new_code_cell(" \n")),
    },
    rules.nothing_went_wrong: {
        "an error": runs("1 / 0", new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])),
        "a warning": runs("warn()", prints("UserWarning: beware\n", "stderr")),
    },
    rules.markers_stand_alone: {
        "text after the marker": runs("# NBVAL_CHECK_OUTPUT of the sum\n3", prints("3\n")),
        "code before the marker": runs("3  # NBVAL_CHECK_OUTPUT", prints("3\n")),
        "a marker in lower case": runs("# nbval_check_output\n3", prints("3\n")),
        "a skipped cell": runs("# NBVAL_SKIP\n3", prints("3\n")),
        "an unchecked output": runs("# NBVAL_IGNORE_OUTPUT\n3", prints("3\n")),
        "an expected error": runs("# NBVAL_RAISES_EXCEPTION\n1 / 0"),
    },
    rules.marked_outputs_can_be_compared: {
        "no output": runs("# NBVAL_CHECK_OUTPUT\nx = 3"),
        "a picture": runs("# NBVAL_CHECK_OUTPUT\nfigure", shows("image/png", picture(10))),
        "an address": runs("# NBVAL_CHECK_OUTPUT\nprint(print)", prints("<function f at 0x7f3a12b4c5d0>\n")),
        "a figure's text": runs("# NBVAL_CHECK_OUTPUT\nfigure", shows("text/plain", "<Figure size 640x480 with 1 Axes>")),
    },
    rules.no_line_ends_with_a_semicolon: {
        "the last line": runs("x = 3\nx;"),
        "a line before a comment": runs("x = 3;  # three"),
        "a line in a block": runs("if True:\n    x = 3;\n"),
    },
    rules.no_path_of_a_machine: {
        "in words": says("Look into `/home/ada/course`."),
        "in code": runs('folder = "/tmp/run"'),
        "in what is printed": runs("print(folder)", prints("saved in /root/course/run\n")),
        "in a table": runs("table", shows("text/html", "<td>/Users/ada/run</td>")),
        "on Windows": runs("print(folder)", prints("C:\\Users\\Ada\\run\n")),
    },
    rules.files_are_small: {
        "a long output": runs("print(text)", prints("x" * 1_000_000)),
        "a large picture": runs("figure", shows("image/png", picture(150_001))),
        "a large drawing": runs("figure", shows("image/svg+xml", "<svg>" + " " * 150_000)),
        "a large attachment": sets(0, attachments={"graph.png": {"image/png": picture(150_001)}}),
    },
    rules.cells_are_plain_python: {
        "a magic": runs("%matplotlib inline\nx = 3"),
        "a shell command": runs("!ls"),
        "a cell magic": runs("%%time\nx = 3"),
    },
    rules.code_lines_fit_the_page: {
        "a long line": runs("x = " + "1 + " * 24 + "1"),
        "a long comment": runs("x = 1\n# " + "y" * 99),
    },
    rules.nothing_is_left_in_metadata: {
        "another kernel": lambda notebook: notebook.metadata.kernelspec.update(name="course"),
        "no kernel": lambda notebook: notebook.metadata.pop("kernelspec"),
        "widgets": lambda notebook: notebook.metadata.update(widgets={}),
        "times": sets(1, metadata={"execution": {"iopub.status.busy": "2025-01-01T00:00:00Z"}}),
        "a folded cell": sets(1, metadata={"collapsed": True}),
        "a tag that nbval obeys": sets(1, metadata={"tags": ["nbval-skip"]}),
    },
    rules.format_is_valid: {
        "an older version": lambda notebook: notebook.update(nbformat_minor=4),
        "a cell without id": lambda notebook: notebook.cells[1].pop("id"),
        "two cells with one id": lambda notebook: notebook.cells[1].update(id=notebook.cells[2].id),
        "a field that is not in the format": sets(1, prompt_number=1),
    },
    rules.opens_with_a_title_and_times: {
        "no title": replaces("# How does it learn?", "How does it learn?"),
        "no times": replaces("15 minutes to read, 30 seconds to run.", "Already it runs in 30 seconds."),
        "code first": lambda notebook: notebook.cells.append(notebook.cells.pop(0)),
    },
    rules.closes_with_words: {
        "code last": lambda notebook: notebook.cells.pop(),
    },
    rules.commands_exist: {
        "a module that is not there": replaces("04_gpt2.train", "04_gpt2.trian"),
        "a stage that is not there": replaces("04_gpt2.train", "05_gpt3.train"),
    },
    rules.stages_are_opened_by_import_module: {
        "a path": runs('import sys\n\nsys.path.append("..")'),
        "a module of the folder": runs("import engine"),
        "a name of a module of the folder": runs("from engine import Value"),
        "import_module without the stage": runs('import_module("engine")'),
    },
    rules.exercises_are_complete: {
        "none": without_exercises,
        "no hint": replaces("<details><summary>Hint</summary>", "Hint:"),
        "no check": replaces("# check 01.1", "# to be checked"),
        "another title": replaces("### Exercise 01.1: the softplus", "### Exercise 01.1: the soft plus"),
        "no solution": replaces("### BEGIN SOLUTION", "# the solution"),
    },
}


def complaints(notebook: NotebookNode, folder: Path) -> dict[rules.Rule, list[str]]:
    """What each rule has to say about the notebook, as one of stage 01's."""
    path = folder / "01_micrograd" / "1_example.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(notebook), encoding="utf-8")
    found = {rule: list(rule(read(path), path)) for rule in rules.RULES}
    return {rule: sentences for rule, sentences in found.items() if sentences}


def test_no_rule_complains_about_a_tidy_notebook(tmp_path):
    assert complaints(tidy_notebook(), tmp_path) == {}


@pytest.mark.filterwarnings("ignore::nbformat.warnings.MissingIDFieldWarning")  # the workbook's reader mends these ids
@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
@pytest.mark.parametrize(
    ("rule", "change"),
    [
        pytest.param(rule, change, id=f"{rule.__name__}-{name}")
        for rule, cases in BROKEN.items()
        for name, change in cases.items()
    ],
)
def test_a_broken_rule_is_noticed_by_that_rule_alone(rule, change, tmp_path):
    notebook = tidy_notebook()
    change(notebook)
    assert complaints(notebook, tmp_path).keys() == {rule}


def test_every_rule_has_an_example():
    assert BROKEN.keys() == set(rules.RULES)
