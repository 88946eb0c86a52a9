"""The README's pictures are those of the notebooks."""

import pytest

from shared import pictures
from shared.exercises import ROOT


@pytest.mark.parametrize("name", pictures.FROM_NOTEBOOKS)
def test_a_picture_in_assets_is_the_one_in_the_notebook(name):
    assert (ROOT / "assets" / name).read_bytes() == pictures.picture(name), "python -m shared.pictures copies it anew"


def test_every_picture_in_assets_is_shown_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](assets/{path.name})" in readme for path in (ROOT / "assets").iterdir())


def test_the_command_writes_what_the_notebooks_show(tmp_path, monkeypatch, capsys):
    (tmp_path / "assets").mkdir()
    for stage in {notebook.split("/")[0] for notebook, _ in pictures.FROM_NOTEBOOKS.values()}:
        (tmp_path / stage).symlink_to(ROOT / stage)
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    assert pictures.main([]) == 0
    for name in pictures.FROM_NOTEBOOKS:
        assert (tmp_path / "assets" / name).read_bytes() == (ROOT / "assets" / name).read_bytes()
    assert capsys.readouterr().out.splitlines() == [f"assets/{name}" for name in pictures.FROM_NOTEBOOKS]


def test_a_cell_that_is_gone_is_named(monkeypatch, capsys):
    notebook, _ = pictures.FROM_NOTEBOOKS["chain-rule.png"]
    monkeypatch.setitem(pictures.FROM_NOTEBOOKS, "chain-rule.png", (notebook, "gone"))
    assert pictures.main([]) == 1
    assert capsys.readouterr().err.startswith(f"error: {notebook} has no cell gone with a picture; ")
