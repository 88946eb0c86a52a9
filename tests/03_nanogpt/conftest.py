"""One short finished run that many tests look at."""

from importlib import import_module

import pytest

SHORT = "--device cpu --n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4 --steps 30 --warmup-steps 3"
SHORT += " --eval-every 10 --eval-chars 500"


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A short text of many words."""
    file = tmp_path_factory.mktemp("texts") / "numbers.txt"
    file.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(300)))
    return file


@pytest.fixture(scope="session")
def short(text_file):
    """Flags of a training that takes a second."""
    return [*SHORT.split(), "--data", str(text_file)]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, short):
    """The folder of such a training."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    assert import_module("03_nanogpt.train").main(["--run", str(folder), "-q", *short]) == 0
    return folder
