"""One finished debug run that many tests look at."""

from importlib import import_module

import pytest


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a debug run of the training command."""
    folder = tmp_path_factory.mktemp("runs") / "debug"
    assert import_module("04_gpt2.train").main(["--preset", "debug", "--run", str(folder), "-q"]) == 0
    return folder
