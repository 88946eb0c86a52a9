"""A tidy notebook, and ways to change it."""

from base64 import b64encode
from collections.abc import Callable

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

Change = Callable[[NotebookNode], object]

HEADING = "### Exercise 01.{0}: the softplus\n\nWrite it.\n\n<details><summary>Hint</summary>\n\nUse `log`.\n\n</details>"
EXERCISE = "# exercise 01.{0}: the softplus\ndef softplus(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION"
CHECK = "# check 01.{0}\nassert softplus(1) == 1"


def tidy_notebook() -> NotebookNode:
    """A small notebook with all that a notebook of the course has."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell(
                "# How does it learn?\n\n15 minutes to read, 30 seconds to run.\n\nTrain: `python -m 04_gpt2.train`"
            ),
            new_code_cell('from importlib import import_module\n\nengine = import_module("01_micrograd.engine")'),
            new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(1 + 1)", outputs=[prints("2\n")]),
            new_code_cell("figure", outputs=[shows("image/png", picture(1000)), shows("text/html", "<b>/tmpl</b>")]),
            new_code_cell('a = 1; b = """\none;\n"""  # no;'),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}},
    )
    for count in (1, 2):
        notebook.cells.append(new_markdown_cell(HEADING.format(count)))
        notebook.cells += [new_code_cell(EXERCISE.format(count)), new_code_cell(CHECK.format(count))]
    notebook.cells.append(new_markdown_cell("## What was proved"))
    renumber(notebook)
    return notebook


def renumber(notebook: NotebookNode) -> None:
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count


def prints(text: str, stream: str = "stdout") -> NotebookNode:
    return new_output("stream", name=stream, text=text)


def shows(kind: str, content: str) -> NotebookNode:
    return new_output("display_data", data={kind: content})


def picture(size: int) -> str:
    return b64encode(bytes(size)).decode()


def runs(source: str, *outputs: NotebookNode) -> Change:
    """The notebook gets one more code cell, and runs."""

    def change(notebook: NotebookNode) -> None:
        notebook.cells.insert(2, new_code_cell(source, outputs=list(outputs)))
        renumber(notebook)

    return change


def says(text: str) -> Change:
    """The notebook gets one more markdown cell."""
    return lambda notebook: notebook.cells.insert(2, new_markdown_cell(text))


def replaces(old: str, new: str) -> Change:
    """The first cell that says `old` says `new` instead."""

    def change(notebook: NotebookNode) -> None:
        cell = next(cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)

    return change


def sets(cell: int, **values: object) -> Change:
    """A cell's fields get other values."""
    return lambda notebook: notebook.cells[cell].update(values)


def without_exercises(notebook: NotebookNode) -> None:
    del notebook.cells[-7:-1]
