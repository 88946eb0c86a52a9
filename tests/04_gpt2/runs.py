"""What several tests ask of a run's folder and of a disk."""

import json
from contextlib import contextmanager
from importlib import import_module

checkpoint = import_module("04_gpt2.checkpoint")

STATE = ("tokenizer.json", "model.safetensors", "optimizer.safetensors", "random.safetensors")  # equal to the bit


def metrics(folder):
    """All that was recorded, but for the time that it took."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "tokens_per_second"} for record in records]


def assert_same_run(folder, other):
    """The newest checkpoints are equal to the bit, and so is all that was told on the way."""
    a, b = checkpoint.checkpoints(folder)[-1], checkpoint.checkpoints(other)[-1]
    assert a.name == b.name
    for name in STATE:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert metrics(folder) == metrics(other)
    assert (folder / "samples.txt").read_bytes() == (other / "samples.txt").read_bytes()


@contextmanager
def no_file_beyond(limit):
    """The operating system refuses to let a file of this process grow beyond `limit` bytes, as a full disk would."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
