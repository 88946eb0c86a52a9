"""Every notebook of the course is tidy, as rules.py has it. That they run and still say the same is nbval's to check."""

import pytest

from shared.exercises import course_notebooks, exercises_of

from .reading import read
from .rules import RULES

NOTEBOOKS = course_notebooks()
STAGES = sorted({path.parent for path in NOTEBOOKS})


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_pytest_runs_every_notebook(pytestconfig):
    collected = {path for pattern in pytestconfig.getini("testpaths") for path in pytestconfig.rootpath.glob(pattern)}
    assert set(NOTEBOOKS) <= collected
    assert {"--nbval-lax", "--nbval-current-env"} <= set(pytestconfig.getini("addopts"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_notebook_is_tidy(path):
    notebook = read(path)
    if complaints := [complaint for rule in RULES for complaint in rule(notebook, path)]:
        pytest.fail("\n".join([f"{path.parent.name}/{path.name}", *complaints]), pytrace=False)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_exercise_numbers_run_on_through_a_stage(stage):
    numbers = [exercise.number for path in NOTEBOOKS if path.parent == stage for exercise in exercises_of(path)]
    assert numbers == [f"{stage.name[:2]}.{count}" for count in range(1, len(numbers) + 1)]
