"""The parts of a notebook that the rules look at."""

import ast
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from nbformat import NotebookNode, reader


def read(path: Path) -> NotebookNode:
    """A notebook as its file has it; `nbformat.read` would give ids to cells that lack them."""
    return reader.reads(path.read_text(encoding="utf-8"))


def cells(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Each cell with the name that a reader finds it by: "cell 3 (`x = 1`)"."""
    for number, cell in enumerate(notebook.cells, start=1):
        yield f"cell {number} (`{first_line(cell.source)}`)", cell


def code_cells(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """The same for code alone."""
    return ((name, cell) for name, cell in cells(notebook) if cell.cell_type == "code")


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.strip().partition("\n")[0]


def outputs(cell: NotebookNode) -> list[NotebookNode]:
    """What a cell shows; a markdown cell shows nothing."""
    return cell.get("outputs", [])


def texts(cell: NotebookNode) -> Iterator[str]:
    """All that a cell's outputs say, pictures left out."""
    for output in outputs(cell):
        yield output.get("text", "")
        yield from (str(content) for kind, content in output.get("data", {}).items() if not kind.startswith("image/"))


def pictures(cell: NotebookNode) -> Iterator[tuple[str, str]]:
    """Kind and content of each picture among a cell's outputs and attachments."""
    bundles = [output.get("data", {}) for output in outputs(cell)] + list(cell.get("attachments", {}).values())
    for bundle in bundles:
        yield from ((kind, content) for kind, content in bundle.items() if kind.startswith("image/"))


def tokens(source: str) -> list[tokenize.TokenInfo]:
    """The tokens of a cell, none if it is not Python."""
    try:
        return list(tokenize.generate_tokens(StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return []


def imported(source: str) -> set[str]:
    """First names of what a cell imports, by statement or import_module; none if it is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return set()
    names = set()
    for node in nodes:
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name)):
                names.add(name)
            case ast.Call(
                func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(str(name))]
            ):
                names.add(name)
    return {name.partition(".")[0] for name in names}
