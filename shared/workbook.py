"""A learner's edition of the notebooks, with each solution taken out, and a report on what the learner put in its place.

The course's own notebooks are the list of all exercises (`exercises.py`), and their checks are the ones that count.

Run it: python -m shared.workbook make my-course
"""

import linecache
import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import TracebackException
from types import ModuleType
from typing import Annotated, Literal

import matplotlib
import nbformat

from .cli import RunError, UsageError, command, parse
from .exercises import EXERCISE, Exercise, blank, cells_of, course_exercises, course_notebooks, first_line

SOLVED, NOT_YET = "solved", "not yet"


@dataclass(frozen=True)
class WorkbookConfig:
    """What `python -m shared.workbook` does."""

    action: Annotated[Literal["make", "check"], "lay out a workbook, or report on one"] = "check"
    path: Annotated[str, "make: a new folder; check: a workbook's folder, one of its stages or one of its notebooks"] = ""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Make a workbook, or report on one; the report's exit status is 1 while something is unsolved."""
    config = parse(
        WorkbookConfig(),
        argv,
        prog="python -m shared.workbook",
        description="Lay out the notebooks without their solutions, and check the ones that you write and save.",
        examples=[
            "python -m shared.workbook make my-course",
            "python -m shared.workbook check my-course",
            "python -m shared.workbook check my-course/01_micrograd",
        ],
        positional="action path",
    )
    try:
        course = course_exercises()
    except ValueError as error:
        raise RunError(str(error)) from None
    if not course:
        raise UsageError(
            "the course's notebooks are not beside this package; clone the course's repository and pip install -e . there"
        )
    if config.action == "make":
        make(Path(config.path), course)
        return 0
    return 0 if check(Path(config.path), course) else 1


def make(folder: Path, course: Sequence[Exercise]) -> None:
    """Write the learner's edition of every notebook into a folder, new or empty, that version control does not see."""
    target = folder.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{folder} is there already and nothing is overwritten; name a new folder")
    notebooks = course_notebooks()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.", suffix=".partial") as scratch:
        partial = Path(scratch)
        (partial / ".gitignore").write_text("*\n", encoding="utf-8")
        for notebook in notebooks:
            copy = partial / notebook.parent.name / notebook.name
            copy.parent.mkdir(exist_ok=True)
            nbformat.write(_learners_edition(notebook), copy)
        target.mkdir(exist_ok=True)
        for part in partial.iterdir():  # an empty folder is kept, not replaced: a shell may stand in it
            part.rename(target / part.name)
    shown = shlex.quote(str(folder))
    print(f"{folder}: {len(notebooks)} notebooks, {len(course)} exercises; open them with: jupyter lab {shown}")
    print(f"Save what you have solved, then: python -m shared.workbook check {shown}")


def check(path: Path, course: Sequence[Exercise]) -> bool:
    """Print a line for each exercise that belongs to `path`, then a sum for each stage -> whether all are solved."""
    folder, chosen = _belonging(path, course)
    solved: Counter[str] = Counter()
    for notebook, group in groupby(chosen, key=lambda exercise: exercise.notebook):
        copy = folder / notebook.parent.name / notebook.name
        try:
            cells = [source for kind, source in cells_of(copy) if kind == "code"]
        except ValueError as error:
            print(f"{error}; python -m shared.workbook make NEW_FOLDER brings a fresh one")
            continue
        for exercise in group:
            print(f"{exercise.number} {exercise.title}: ", end="", flush=True)  # names an endless loop before it begins
            first_lines = re.compile(rf"(\s*#.*\n)*?\s*# *exercise +{re.escape(exercise.number)}\b", re.IGNORECASE)
            own = [cell for cell in cells if first_lines.match(cell)]
            if len(own) == 1:
                imports = "" if cells[0] == own[0] else _without_magics(cells[0])
                learners = replace(exercise, notebook=copy, imports=imports, cell=own[0])
                verdict, below = attempt(learners, before=exercise.imports)
                if verdict == NOT_YET and own[0].strip() != blank(exercise.cell).strip():
                    verdict = "not yet: the line that raises NotImplementedError is still there"
            else:
                verdict = f'expected one cell that begins with "# {exercise.name}", found {len(own)}; put that line back'
                below = ""
            print(verdict)
            print(textwrap.indent(below, "    "), end="", flush=True)
            solved[notebook.parent.name] += verdict == SOLVED
    for stage, n in Counter(exercise.notebook.parent.name for exercise in chosen).items():
        print(f"{f'{stage}/{path.name}' if path.is_file() else stage}: {solved[stage]} of {n} solved")
    return solved.total() == len(chosen)


def attempt(exercise: Exercise, before: str = "") -> tuple[str, str]:
    """Run an exercise, after what `before` says -> what came of it in one sentence, and what to show below that."""
    number = exercise.number
    cells = {
        "the course's first cell": before,
        "first cell": exercise.imports,
        f"exercise {number}": exercise.cell,
        f"check {number}": exercise.check,
    }
    module = sys.modules["exercise"] = ModuleType("exercise")  # registered: dataclasses and pickle look classes up there
    module.__dict__["display"] = print  # which is what IPython's does outside of Jupyter
    printed = StringIO()
    matplotlib.use("agg")  # plt.show() is to open no window, which would wait to be closed
    try:
        with chdir(exercise.notebook.parent), redirect_stdout(printed), redirect_stderr(printed):
            for name, source in cells.items():
                linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
                exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        verdict, traceback = _told(error, number, set(cells))
        # What a failing attempt printed is often there to find the mistake; of the others it would only hide the report.
        shown = printed.getvalue() and verdict != NOT_YET
        return verdict, traceback + ("printed:\n" + _shortened(printed.getvalue()) if shown else "")
    return SOLVED, ""


def _belonging(path: Path, course: Sequence[Exercise]) -> tuple[Path, list[Exercise]]:
    """The workbook that `path` is, or is in, and the exercises that it stands for."""
    here = path.resolve()
    if here.is_file():
        folder, chosen = here.parent.parent, [each for each in course if each.notebook.parts[-2:] == here.parts[-2:]]
    elif any((here / each.notebook.parent.name).is_dir() for each in course):
        folder, chosen = here, list(course)
    else:
        folder, chosen = here.parent, [each for each in course if here.is_dir() and each.notebook.parent.name == here.name]
    if not chosen:
        problem = "holds no exercises under the course's names" if here.exists() else "is not there"
        raise UsageError(f"{path} {problem}; name a workbook's folder, one of its stages or one of its notebooks")
    return folder, chosen


def _without_magics(source: str) -> str:
    """Jupyter's own lines, `%matplotlib inline` and the like, mean nothing here; the others keep their numbers."""
    return "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())


def _learners_edition(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = blank(cell.source) if EXERCISE.match(cell.source) else cell.source
    return notebook


def _told(error: BaseException, number: str, cells: set[str]) -> tuple[str, str]:
    """What an error says in one sentence, and a traceback of the cells' own lines, unless that sentence says it all."""
    details = TracebackException.from_exception(error)
    message, last_line = str(details).strip(), next(frame.line for frame in reversed(details.stack) if frame.line)
    details.stack[:] = [frame for frame in details.stack if frame.filename in cells]
    if isinstance(error, NotImplementedError) and message.startswith(f"exercise {number}:"):
        return NOT_YET, ""
    if isinstance(error, SyntaxError) and error.filename in cells:
        line = linecache.getline(error.filename, error.lineno or 1).strip()
        return f"line {error.lineno} of {error.filename} is not Python ({error.msg}): {line}", ""
    if isinstance(error, AssertionError):
        verdict = first_line(message) or f"this does not hold: {last_line}"
        if message and {frame.filename for frame in details.stack} == {f"check {number}"}:
            return verdict, _shortened("\n".join(message.splitlines()[1:]))
    else:
        verdict = f"raised {type(error).__name__}" + (f": {first_line(message)}" if message else "")
        if isinstance(error, NameError):
            verdict += "; only the notebook's first cell, the exercise and its check are run"
    return verdict, _shortened("".join(details.format(chain=False)))


def _shortened(text: str, most: int = 20) -> str:
    """The text without its middle, where endless recursions and loops repeat themselves."""
    lines = [line[:200] + "\n" for line in text.strip("\n").splitlines()]
    if len(lines) > most:
        lines[most // 2 : -most // 2] = ["…\n"]
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
