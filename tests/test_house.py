"""The rules of the house: who may import whom, what `shared` means, what the README promises."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ["01_micrograd", "02_makemore", "03_nanogpt", "04_gpt2"]
MODULES = [path for folder in [*STAGES, "shared"] for path in sorted((ROOT / folder).glob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    """First names of what a module imports, "." for its own siblings, ".." for anything above."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found.add("import_module")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_their_siblings_shared_and_third_parties_only(path):
    assert not imported_packages(path) & {*STAGES, "..", "import_module"}
    if path.parent.name == "shared":
        assert "shared" not in imported_packages(path)


@pytest.mark.parametrize("name", ["shared", *STAGES])
def test_packages_resolve_to_this_repository(name):
    package = importlib.import_module(name)
    assert package.__file__ is not None and Path(package.__file__).parent == ROOT / name


@pytest.mark.parametrize("name", ["shared", *STAGES])
def test_package_files_hold_a_docstring_and_nothing_else(name):
    body = ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


def test_importing_every_module_has_no_effect():
    names = [f"{path.parent.name}.{path.stem}" for path in MODULES if path.stem != "__init__"]
    program = (
        "import importlib, sys, torch; before = torch.initial_seed(), torch.get_default_device(), torch.get_num_threads();"
        f"[importlib.import_module(name) for name in {names}];"
        "assert before == (torch.initial_seed(), torch.get_default_device(), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_files_can_be_read_in_one_sitting():
    long = {path.name: n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long


def test_readme_names_every_notebook_and_only_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((?!https?://)([^)#]+)\)", readme))
    assert all((ROOT / path).exists() for path in linked)
    assert linked >= {str(path.relative_to(ROOT)) for path in ROOT.glob("[0-9][0-9]_*/*.ipynb")}


def test_readme_names_only_commands_and_flags_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    used: dict[str, set[str]] = {}
    for module, arguments in re.findall(r"python -m ((?:\d\d_\w+|shared)\.\w+)(.*)", readme):
        used.setdefault(module, set()).update(re.findall(r"--[a-z-]+", arguments))
    assert used.keys() >= {
        "01_micrograd.benchmark",
        "02_makemore.benchmark",
        "shared.workbook",
        "04_gpt2.train",
        "04_gpt2.generate",
        "04_gpt2.benchmark",
    }
    for module, flags in used.items():
        command = [sys.executable, "-m", module, "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for flag in flags:
            assert re.search(rf"{flag}\b(?!-)", shown), f"{module} has no {flag}"
