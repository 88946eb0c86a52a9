"""Shards hold the tokens in the order in which they came, and a kill at any moment changes no byte of what follows."""

import json
import random
import struct
import sys
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.cli import UsageError

shard_writer = import_module("04_gpt2.shard_writer")
shards = import_module("04_gpt2.shards")
sealed = import_module("04_gpt2.sealed")
ShardWriter = shard_writer.ShardWriter

SIZES = st.lists(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 30)), max_size=8)


def random_pieces(sizes):
    return [(split, np.random.default_rng().integers(2**16, size=n, dtype=np.uint16)) for split, n in sizes]


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected_files(pieces, shard_tokens):
    """What llm.c's writer makes of each split's tokens one after the other."""
    files = {}
    for split in ("train", "val"):
        tokens = [int(token) for of, piece in pieces if of == split for token in piece]
        for index, start in enumerate(range(0, len(tokens), shard_tokens)):
            part = tokens[start : start + shard_tokens]
            header = struct.pack("<256i", 20240520, 1, len(part), *[0] * 253)
            files[f"{split}_{index:06}.bin"] = header + struct.pack(f"<{len(part)}H", *part)
    return files


@settings(max_examples=60)
@given(SIZES, st.integers(3, 12))
def test_any_appends_become_shards_of_one_size_but_for_the_last(tmp_path_factory, sizes, shard_tokens):
    folder, pieces = tmp_path_factory.mktemp("shards"), random_pieces(sizes)
    writer = ShardWriter(folder, shard_tokens)
    for split, tokens in pieces:
        writer.append(split, tokens)
    entries = writer.finish()
    files = expected_files(pieces, shard_tokens)
    assert files_in(folder) == files
    assert [entry.name for entry in entries] == sorted(files)
    for entry in entries:
        assert entry.tokens == shards.count_tokens(folder / entry.name)
        assert entry.sha256 == sealed.digest_of(folder / entry.name)


def test_tokens_of_any_integer_type_are_written_alike(tmp_path):
    tokens = random.sample(range(2**16), 50)
    for dtype in ("<u2", ">u2", "<i4", "<i8"):
        (tmp_path / dtype).mkdir()
        writer = ShardWriter(tmp_path / dtype, 100)
        writer.append("train", np.array(tokens, dtype=dtype))
        writer.finish()
        assert files_in(tmp_path / dtype) == expected_files([("train", tokens)], 100)


def test_what_is_not_finished_bears_another_name(tmp_path):
    writer = ShardWriter(tmp_path, 10)
    writer.append("train", np.arange(25, dtype=np.uint16))
    assert sorted(files_in(tmp_path)) == ["train_000000.bin", "train_000001.bin", "train_000002.bin.partial"]
    assert [entry.name for entry in writer.finished["train"]] == ["train_000000.bin", "train_000001.bin"]


class Killed(BaseException):
    """In the place of SIGKILL: nothing in the code under test catches it."""


class Kill:
    """Python announces each file operation to audit hooks, which stay for ever; this one acts while it has a folder."""

    folder, operations_left = None, 0

    @classmethod
    def hook(cls, event, arguments):
        if cls.folder and event in ("open", "os.rename", "os.remove", "os.truncate") and cls.folder in str(arguments[0]):
            cls.operations_left -= 1
            if cls.operations_left < 0:
                cls.folder = None
                raise Killed

    @classmethod
    def before(cls, operation, folder, action):
        """Do `action`, killed before the file operation of that number -> whether it came so far."""
        cls.folder, cls.operations_left = str(folder), operation
        try:
            action()
        except Killed:
            return True
        finally:
            cls.folder = None
        return False


sys.addaudithook(Kill.hook)


def lose_what_was_not_flushed(folder, state):
    """A power cut leaves of a partial file what `state` says was flushed, and of the rest anything."""
    for split in ("train", "val"):
        path = folder / f"{split}_{len(state['finished'][split]):06}.bin.partial"
        if path.exists() and random.random() < 0.5:
            kept = 1024 + 2 * state["begun"][split]
            whole = path.read_bytes()
            path.write_bytes(whole[:kept] + random.randbytes(random.randrange(len(whole[kept:]) + 1)))


@settings(max_examples=60)
@given(SIZES.filter(len), st.integers(3, 12), st.data())
def test_after_a_kill_at_any_file_operation_the_rest_makes_the_same_files(tmp_path_factory, sizes, shard_tokens, data):
    """The kill falls upon any operation after the last state was saved, and upon those of the way back too."""
    pieces, saved_at = random_pieces(sizes), data.draw(st.integers(0, len(sizes)))
    folder = tmp_path_factory.mktemp("killed")
    writer = ShardWriter(folder, shard_tokens)
    for split, tokens in pieces[:saved_at]:
        writer.append(split, tokens)
    state = json.loads(json.dumps(writer.state()))

    def go_on():
        for split, tokens in pieces[saved_at:]:
            writer.append(split, tokens)
        writer.finish()

    Kill.before(data.draw(st.integers(0, 60)), folder, go_on)
    for _ in range(data.draw(st.integers(0, 2))):
        lose_what_was_not_flushed(folder, state)
        writer = ShardWriter(folder, shard_tokens)
        if not Kill.before(data.draw(st.integers(0, 8)), folder, partial(writer.restore, state)):
            Kill.before(data.draw(st.integers(0, 60)), folder, go_on)
    lose_what_was_not_flushed(folder, state)
    writer = ShardWriter(folder, shard_tokens)
    writer.restore(state)
    go_on()
    assert files_in(folder) == expected_files(pieces, shard_tokens)


@settings(max_examples=60)
@given(SIZES, st.integers(3, 12), st.data())
def test_going_back_removes_all_that_came_after(tmp_path_factory, sizes, shard_tokens, data):
    """Also when the way back is killed and begun again, and when nothing is written after it."""
    pieces, saved_at = random_pieces(sizes), data.draw(st.integers(0, len(sizes)))
    folder = tmp_path_factory.mktemp("back")
    writer = ShardWriter(folder, shard_tokens)
    for split, tokens in pieces[:saved_at]:
        writer.append(split, tokens)
    state = writer.state()
    for split, tokens in pieces[saved_at:]:
        writer.append(split, tokens)
    if data.draw(st.booleans()):
        writer.finish()
    for _ in range(data.draw(st.integers(0, 2))):
        Kill.before(data.draw(st.integers(0, 8)), folder, partial(ShardWriter(folder, shard_tokens).restore, state))
    writer = ShardWriter(folder, shard_tokens)
    writer.restore(state)
    assert writer.state() == state
    writer.finish()
    assert files_in(folder) == expected_files(pieces[:saved_at], shard_tokens)


@pytest.fixture
def written(tmp_path):
    """Two whole shards and a begun one to learn from, a begun one to validate on -> the folder, and the writer's state."""
    writer = ShardWriter(tmp_path, 10)
    writer.append("train", np.arange(25, dtype=np.uint16))
    writer.append("val", np.arange(4, dtype=np.uint16))
    return tmp_path, writer.state()


@pytest.mark.parametrize(
    "name", ["train_000000.bin", "train_000001.bin", "train_000002.bin.partial", "val_000000.bin.partial"]
)
def test_a_file_that_is_gone_is_named_and_nothing_else_is_touched(written, name):
    folder, state = written
    (folder / name).unlink()
    before = files_in(folder)
    with pytest.raises(
        UsageError, match=rf"{name} is gone since it was written; bring it back, or begin again with --overwrite"
    ):
        ShardWriter(folder, 10).restore(state)
    assert files_in(folder) == before


@pytest.mark.parametrize("size", [0, 500, 1024, 1033])
def test_a_begun_file_that_was_cut_off_is_named(written, size):
    folder, state = written
    path = folder / "train_000002.bin.partial"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match=r"train_000002\.bin\.partial has been cut off since it was written; .* --overwrite"):
        ShardWriter(folder, 10).restore(state)
