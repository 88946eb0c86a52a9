"""The exercises of the notebooks: where they stand, what belongs to each, and how its solution is taken out.

An exercise is a task, a code cell with its solution between two marks, and a check cell, in this order. The course's own
notebooks are the list of all exercises; `workbook.py` gives them to learners.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]

EXERCISE = re.compile(r"# (exercise (\d\d\.\d+): (.*\S))\s*")
_SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION[ \t]*\n(?:.*\n)*?[ \t]*### END SOLUTION[ \t]*$", re.MULTILINE)
_PART_OF_ONE = re.compile(r"\A#+ *(exercise|check) *\d|(BEGIN|END) SOLUTION", re.IGNORECASE)


@dataclass(frozen=True)
class Exercise:
    """One exercise: its name, where it stands, and the three code cells that run it."""

    number: str  # "01.2"
    title: str  # "the softplus"
    notebook: Path
    imports: str  # the notebook's first code cell
    cell: str
    check: str

    @property
    def name(self) -> str:
        """As in the cell's first line and in a blank cell's error: "exercise 01.2: the softplus"."""
        return f"exercise {self.number}: {self.title}"


def course_notebooks() -> list[Path]:
    """All notebooks of all stages, in the course's order."""
    return sorted(ROOT.glob("[0-9][0-9]_*/[!.]*.ipynb"))


def course_exercises() -> list[Exercise]:
    """All exercises of the course, in order. Raises ValueError as `exercises_of` does, and if two share a number."""
    return _numbered_once([exercise for notebook in course_notebooks() for exercise in exercises_of(notebook)])


def exercises_of(path: Path) -> list[Exercise]:
    """The exercises of a notebook, in order.

    Raises ValueError, naming notebook and exercise: no heading right before it or no check cell right after it, a number that
    was there before, a cell that `blank` refuses, marks or first lines of an exercise where there is none.
    """
    cells = cells_of(path)
    first_lines = [(kind, source.split("\n")[0].rstrip()) for kind, source in cells]
    found: list[Exercise] = []
    seen: set[int] = set()
    for i, (kind, line) in enumerate(first_lines):
        match = EXERCISE.fullmatch(line)
        if kind != "code" or not match:
            continue
        name, number, title = match.groups()
        heading, check_line = f"### Exercise {number}: {title}", f"# check {number}"
        around = [(kind, line.replace("`", "")) for kind, line in first_lines[i - 1 : i + 2 : 2]]
        if around != [("markdown", heading.replace("`", "")), ("code", check_line)]:
            raise ValueError(f'{path}: {name} needs the text "{heading}" right before it and "{check_line}" right after it')
        try:
            blank(cells[i][1])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        imports = next(source for kind, source in cells if kind == "code")
        found.append(Exercise(number, title, path, imports, cells[i][1], cells[i + 1][1]))
        seen |= {i - 1, i, i + 1}
    for i, (kind, line) in enumerate(first_lines):
        if i not in seen and _PART_OF_ONE.search(cells[i][1] if kind == "code" else line):
            raise ValueError(f'{path}: the cell that begins with "{line}" is part of no exercise')
    return _numbered_once(found)


def blank(source: str) -> str:
    """An exercise's cell with each solution replaced by one line, indented like its BEGIN mark, that raises its name.

    Raises ValueError, naming the exercise, if there is no solution, a mark has no partner or the blank would not compile.
    """
    match = EXERCISE.match(source)
    if not match:
        raise ValueError(f'"{first_line(source)}" is not the first line of an exercise')
    name = match[1]
    not_yet = f"raise NotImplementedError({json.dumps(name, ensure_ascii=False)})"
    blanked, replaced = _SOLUTION.subn(lambda solution: solution[1] + not_yet, source)
    if not source.count("BEGIN SOLUTION") == source.count("END SOLUTION") == replaced > 0:
        raise ValueError(f"{name} needs a solution, from a line ### BEGIN SOLUTION to a line ### END SOLUTION")
    try:
        compile(blanked, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ValueError(f"{name} does not compile without its solution ({error.msg}, line {error.lineno})") from None
    return blanked


def cells_of(path: Path) -> list[tuple[str, str]]:
    """Kind and source of each cell. Raises ValueError, naming the notebook, if it cannot be read."""
    try:
        return [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except Exception as error:  # nbformat lets through whatever it stumbles over in a damaged file
        raise ValueError(f"{path} cannot be read as a notebook ({first_line(str(error))})") from None


def first_line(text: str) -> str:
    """The first line that is not blank, or nothing."""
    return next(iter(text.strip().splitlines()), "")


def _numbered_once(found: list[Exercise]) -> list[Exercise]:
    first: dict[str, Exercise] = {}
    for exercise in found:
        twin = first.setdefault(exercise.number, exercise)
        if twin is not exercise:
            raise ValueError(f"{exercise.notebook}: {exercise.name} has the number of {twin.name} in {twin.notebook.name}")
    return found
