"""Which windows come in which order, for which rank; where a reader goes on; what it holds in memory."""

import gc
import json
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
from importlib import import_module
from itertools import accumulate, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.cli import UsageError

Loader = import_module("04_gpt2.loader").Loader
Shards = import_module("04_gpt2.shards").Shards

ROOT = Path(__file__).parents[2]
ORDERS = ("windows", "shards")
VOCABULARY = 2**16  # tokens of these tests are their own place, modulo this


def header(n_tokens):
    return struct.pack("<256i", 20240520, 1, n_tokens, *[0] * 253)


def write_shards(folder, sizes):
    """Shards of these sizes; each token is its place among all, modulo 65,536."""
    places = np.arange(sum(sizes)).astype("<u2")
    paths = [folder / f"train_{i:06}.bin" for i in range(len(sizes))]
    for path, part in zip(paths, np.split(places, list(accumulate(sizes))[:-1]), strict=True):
        path.write_bytes(header(len(part)) + part.tobytes())
    return paths


def open_shards(folder, sizes, vocab_size=VOCABULARY):
    return Shards(write_shards(folder, sizes), vocab_size)


def read(loaders, n_batches):
    """The next batches of all ranks, as the tokens of windows (n, T + 1), in the order in which they count."""
    rows = []
    for _ in range(n_batches):
        for loader in loaders:
            x, y = next(loader)
            assert x.shape == y.shape == (loader.batch_size, loader.block_size) and x.dtype == y.dtype == torch.int64
            assert torch.equal(x[:, 1:], y[:, :-1])
            rows += torch.cat([x, y[:, -1:]], dim=1).tolist()
    return rows


def ranks(tokens, n_ranks, batch_size, block_size, seed, order, state=None):
    """A loader for each rank, gone on from `state` if there is one; whether a thread reads ahead is left to chance."""
    loaders = [
        Loader(tokens, batch_size, block_size, seed, order=order, rank=i, n_ranks=n_ranks, ahead=random.random() < 0.5)
        for i in range(n_ranks)
    ]
    for loader in loaders if state else ():
        loader.load_state(state)
    return loaders


def assert_an_epoch(windows, n_tokens, block_size):
    """Windows side by side, each once, that leave fewer than two windows' tokens unread; in each the tokens follow."""
    starts = sorted(window[0] for window in windows)
    assert starts == list(range(starts[0], starts[0] + block_size * len(starts), block_size))
    assert starts[0] < block_size and 0 <= n_tokens - 1 - block_size * len(starts) < 2 * block_size
    assert all(window == list(range(window[0], window[0] + block_size + 1)) for window in windows)


class Recording:
    """Tokens that note where they were read, and say so."""

    def __init__(self, n_tokens):
        self.tokens, self.starts, self.noted = np.arange(n_tokens), [], threading.Condition()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, which):
        with self.noted:
            self.starts.append(which.start)
            self.noted.notify_all()
        return self.tokens[which]

    def wait_for(self, n_reads):
        with self.noted:
            assert self.noted.wait_for(lambda: len(self.starts) >= n_reads, timeout=60)


@st.composite
def layouts(draw):
    """Sizes of shards, empty ones too, and a block size that they have room for, often longer than several of them."""
    sizes = draw(st.lists(st.integers(0, 25), min_size=1, max_size=8))
    block_size = draw(st.integers(1, 12))
    assume(sum(sizes) > block_size)
    return sizes, block_size


SEEDS = st.integers(0, 2**63 - 1)


@given(layouts(), st.integers(1, 4), st.integers(1, 5), SEEDS, st.sampled_from(ORDERS))
def test_all_ranks_together_read_each_window_once_in_an_epoch_and_targets_are_the_next_tokens(
    layout, n_ranks, batch_size, seed, order
):
    sizes, block_size = layout
    with TemporaryDirectory() as folder:
        loaders = ranks(open_shards(Path(folder), sizes), n_ranks, batch_size, block_size, seed, order)
        n = loaders[0].n_windows
        windows = read(loaders, -(-3 * n // (n_ranks * batch_size)))  # three epochs, rounded up to whole batches
    for epoch in range(3):
        assert_an_epoch(windows[epoch * n : (epoch + 1) * n], sum(sizes), block_size)


@given(layouts(), st.sampled_from([1, 2, 4, 6, 12, 24]), SEEDS, st.sampled_from(ORDERS), st.data())
def test_an_update_reads_the_same_windows_whatever_it_is_split_into(layout, n_windows, seed, order, data):
    """An update is `n_windows` = ranks x rows x micro-batches; four updates."""
    sizes, block_size = layout
    n_ranks = data.draw(st.sampled_from([r for r in range(1, 5) if n_windows % r == 0]))
    batch_size = data.draw(st.sampled_from([b for b in range(1, 25) if n_windows % (n_ranks * b) == 0]))
    with TemporaryDirectory() as folder:
        tokens = open_shards(Path(folder), sizes)
        whole = ranks(tokens, 1, n_windows, block_size, seed, order)
        parts = ranks(tokens, n_ranks, batch_size, block_size, seed, order)
        for _ in range(4):
            assert read(whole, 1) == read(parts, n_windows // (n_ranks * batch_size))


@given(layouts(), SEEDS)
def test_the_order_shards_reads_all_windows_that_begin_in_a_shard_before_those_of_another(layout, seed):
    sizes, block_size = layout
    with TemporaryDirectory() as folder:
        [loader] = ranks(open_shards(Path(folder), sizes), 1, 1, block_size, seed, "shards")
        for _ in range(3):
            starts = [window[0] for window in read([loader], loader.n_windows)]
            shards = np.searchsorted(list(accumulate(sizes)), starts, side="right").tolist()
            turns = [shard for shard, before in zip(shards, [None, *shards], strict=False) if shard != before]
            assert len(turns) == len(set(turns)), (starts, shards)


@pytest.mark.parametrize("order", ORDERS)
def test_windows_of_one_array_are_read_like_those_of_shards(tmp_path, order):
    """A text's tokens are one array: one shard."""
    n_tokens, seed = 1000, random.randrange(2**63)
    shards = open_shards(tmp_path, [n_tokens])
    array = np.arange(n_tokens).astype(random.choice([np.uint16, np.uint32]))
    assert read(ranks(array, 1, 3, 7, seed, order), 150) == read(ranks(shards, 1, 3, 7, seed, order), 150)


@pytest.mark.parametrize("order", ORDERS)
def test_shards_larger_than_a_vocabulary_are_read_whole(tmp_path, order):
    """150,000 tokens; where a window begins is known modulo 65,536, so how often each token is read is counted."""
    sizes = [70_001, 9, 1, 40_000, 39_989]
    loader = Loader(open_shards(tmp_path, sizes), 16, 64, random.randrange(2**63), order=order)
    for _ in range(2):
        windows = np.array(read([loader], loader.n_windows // 16 + 1)[: loader.n_windows])
        loader.load_state(loader.state() | {"windows": loader.n_windows})
        assert ((np.diff(windows) % VOCABULARY) == 1).all()
        first = windows[0, 0] % 64
        assert (windows[:, 0] % 64 == first).all()
        expected = np.arange(first, first + 64 * loader.n_windows) % VOCABULARY
        found = np.bincount(windows[:, :-1].ravel(), minlength=VOCABULARY)
        assert np.array_equal(found, np.bincount(expected, minlength=VOCABULARY))


@pytest.mark.parametrize("order", ORDERS)
def test_the_seed_decides_the_order_and_each_epoch_has_its_own(tmp_path, order):
    tokens, seed = open_shards(tmp_path, [500, 300, 700, 500]), random.randrange(2**62)

    def epochs(seed):
        [loader] = ranks(tokens, 1, 1, 5, seed, order)
        # Counted from the epoch's first window: where that one begins is no part of the order.
        return [
            [(window[0] - min(windows)[0]) // 5 for window in windows]
            for windows in (read([loader], loader.n_windows) for _ in range(4))
        ]

    found = epochs(seed)
    assert found == epochs(seed)
    assert len({tuple(epoch) for epoch in [*found, *epochs(seed + 1)]}) == 8
    assert list(range(len(found[0]))) not in found


def test_both_shards_and_the_windows_within_them_come_in_random_order(tmp_path):
    [loader] = ranks(open_shards(tmp_path, [400] * 6), 1, 1, 4, random.randrange(2**63), "shards")
    turns, within = set(), 0
    for _ in range(5):
        starts = np.array(read([loader], loader.n_windows))[:, 0]
        shards = starts // 400
        turns.add(tuple(dict.fromkeys(shards.tolist())))
        within += sum((np.diff(starts[shards == shard]) > 0).all() for shard in range(6))
    assert all(set(turn) == set(range(6)) for turn in turns)
    assert len(turns) > 1 and within == 0


@pytest.mark.parametrize("order", ORDERS)
def test_epochs_begin_at_every_place_of_a_window(tmp_path, order):
    [loader] = ranks(open_shards(tmp_path, [30, 21]), 1, 1, 4, random.randrange(2**63), order)
    firsts = [min(read([loader], loader.n_windows))[0] for _ in range(200)]
    assert set(firsts) == set(range(4))


def test_too_few_tokens_for_a_window_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 tokens do not hold one window of 8 tokens and the one that follows"):
        Loader(np.arange(8, dtype=np.uint16), 1, 8, 0)
    with pytest.raises(ValueError, match="8 tokens do not hold one window of 8 tokens and the one that follows"):
        Loader(open_shards(tmp_path, [3, 0, 5]), 1, 8, 0)
    loader = Loader(open_shards(tmp_path, [3, 0, 6]), 1, 8, 0)
    assert read([loader], 2) == [list(range(9))] * 2


@given(layouts(), SEEDS, st.sampled_from(ORDERS), st.data())
def test_other_ranks_go_on_from_a_state_with_exactly_the_windows_that_follow(layout, seed, order, data):
    """Some batches on some ranks; then the states, as a checkpoint's JSON keeps them, on any other number of ranks."""
    sizes, block_size = layout
    before, after, n_batches = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), data.draw(st.integers(0, 6))
    rows_before, rows_after = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    taken = before * rows_before * n_batches
    with TemporaryDirectory() as folder:
        tokens = open_shards(Path(folder), sizes)
        loaders = ranks(tokens, before, rows_before, block_size, seed, order)
        read(loaders, n_batches)
        states = [json.dumps(loader.state()) for loader in loaders]
        assert len(set(states)) == 1 and len(states[0]) < 200
        [one] = ranks(tokens, 1, 1, block_size, seed, order)
        follow = read([one], taken + 5 * after * rows_after)[taken:]
        state = json.loads(states[0])
        assert read(ranks(tokens, after, rows_after, block_size, seed, order, state), 5) == follow


@given(layouts(), SEEDS, st.sampled_from(ORDERS), st.lists(st.integers(0, 60), min_size=2, max_size=4))
def test_a_loader_goes_to_any_moment_before_or_after_its_own(layout, seed, order, moments):
    sizes, block_size = layout
    with TemporaryDirectory() as folder:
        tokens = open_shards(Path(folder), sizes)
        [one, other] = (Loader(tokens, 1, block_size, seed, order=order) for _ in range(2))
        whole = read([one], max(moments) + 3)
        for moment in moments:
            other.load_state(other.state() | {"windows": moment})
            assert read([other], 3) == whole[moment : moment + 3]


def test_a_state_counts_what_was_handed_out_and_not_what_was_read_ahead():
    tokens = Recording(1000)
    loader = Loader(tokens, 4, 8, seed=1, ahead=True)
    assert loader.state()["windows"] == 0 and tokens.starts == []
    for n_batches in range(1, 60):  # beyond the first epoch
        next(loader)
        tokens.wait_for(4 * (n_batches + 1))
        assert loader.state()["windows"] == 4 * n_batches
    ahead = tokens.starts[-4:]
    loader.load_state(loader.state())
    x, _ = next(loader)
    assert x[:, 0].tolist() == ahead


def test_a_state_that_is_loaded_while_a_batch_is_being_read_decides_what_comes_next():
    class Slow(Recording):
        """Tokens that can be held back, and that know how many threads read them at once."""

        may_go, readers, most_readers = threading.Event(), 0, 0

        def __getitem__(self, which):
            self.readers += 1
            self.most_readers = max(self.most_readers, self.readers)
            rows = super().__getitem__(which)
            assert self.may_go.wait(timeout=60)
            self.readers -= 1
            return rows

    tokens = Slow(1000)
    tokens.may_go.set()
    loader = Loader(tokens, 2, 8, seed=3, ahead=True)
    beginning = loader.state()
    expected = read([loader], 10)
    tokens.wait_for(2 * 11)
    tokens.may_go.clear()
    next(loader)
    tokens.wait_for(2 * 11 + 1)  # the batch after it is being read
    threading.Timer(0.1, tokens.may_go.set).start()
    loader.load_state(beginning)
    assert read([loader], 10) == expected
    assert tokens.most_readers == 1


def test_a_state_of_another_order_of_the_data_is_refused_with_what_differs(tmp_path):
    tokens = open_shards(tmp_path, [100, 50])
    state = Loader(tokens, 2, 8, seed=1).state()
    for changes, said in [
        ({"seed": 2}, "seed was 2 and is 1"),
        ({"order": "shards"}, "order was shards and is windows"),
        ({"block_size": 9}, "block_size was 9 and is 8"),
        ({"tokens": 151}, "tokens was 151 and is 150"),
        ({"seed": 5, "tokens": 7}, "seed was 5 and is 1, tokens was 7 and is 150"),
    ]:
        loader = Loader(tokens, 2, 8, seed=1)
        whole = read([loader], 3)
        with pytest.raises(ValueError, match=f"^the state is of another order of the data: {said}$"):
            loader.load_state(state | changes)
        assert loader.state()["windows"] == 6
        loader.load_state(state)
        assert read([loader], 3) == whole
    with pytest.raises(ValueError, match="seed was None and is 1"):
        loader.load_state({"windows": 4})


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_an_id_beyond_the_vocabulary_is_an_error_of_next_that_names_the_shard(tmp_path, order, ahead):
    """All batches before it come, and so do those after it, if one goes there."""
    sizes, seed = [60, 40, 70], random.randrange(2**63)
    good = read([Loader(open_shards(tmp_path, sizes), 2, 4, seed, order=order)], 100)
    paths, place = write_shards(tmp_path, sizes), random.randrange(10, 150)
    index = int(np.searchsorted(list(accumulate(sizes)), place, side="right"))
    with paths[index].open("r+b") as file:
        file.seek(1024 + 2 * (place - sum(sizes[:index])))
        file.write(struct.pack("<H", 999))
    loader = Loader(Shards(paths, 500), 2, 4, seed, order=order, ahead=ahead)
    n_good = next(i for i in range(100) if any(place in window for window in good[2 * i : 2 * i + 2]))
    assert read([loader], n_good) == good[: 2 * n_good]
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"{paths[index].name} holds the id 999, beyond the 500 ids of its tokenizer"):
            next(loader)
        assert loader.state()["windows"] == 2 * n_good
    after = next(i for i in range(n_good, 100) if not any(place in window for window in good[2 * i : 2 * i + 2]))
    loader.load_state(loader.state() | {"windows": 2 * after})
    x, _ = next(loader)
    assert x.tolist() == [window[:-1] for window in good[2 * after : 2 * after + 2]]


def test_the_thread_that_reads_ahead_ends_with_its_loader_and_there_is_none_for_a_cpu():
    def readers():
        return {thread for thread in threading.enumerate() if thread.name.startswith("loader")}

    before = readers()
    next(Loader(np.arange(100), 2, 8, seed=1))
    assert readers() <= before
    loader = Loader(np.arange(100), 2, 8, seed=1, ahead=True)
    next(loader)
    [reader] = readers() - before
    del loader
    gc.collect()
    reader.join(timeout=60)
    assert not reader.is_alive()


def sparse_shards(folder, n_shards, n_tokens):
    """Shards of zeros that take no room on the disk."""
    for i in range(n_shards):
        with (folder / f"{i}.bin").open("wb") as file:
            file.write(header(n_tokens))
            file.truncate(1024 + 2 * n_tokens)
    return Shards([folder / f"{i}.bin" for i in range(n_shards)], VOCABULARY)


def most_memory(loader, moments):
    """The most bytes that Python and NumPy come to hold while the loader reads 30 batches from each moment on."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for moment in moments:
            loader.load_state(loader.state() | {"windows": moment})
            for _ in islice(loader, 30):
                pass
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def large_folder(tmp_path):
    """One that is emptied at once: a file of four gigabytes is none, but looks like one."""
    yield tmp_path
    gc.collect()
    for path in tmp_path.iterdir():
        path.unlink()


MEBI = 2**20


def test_four_bytes_a_window_and_the_batches_in_flight_are_all_that_is_held(large_folder):
    """The largest shard there can be; from the first epoch into the second, amid a batch."""
    loader = Loader(sparse_shards(large_folder, 1, 2**31 - 1), 32, 64, seed=1)
    n = loader.n_windows
    assert n > 33_000_000
    assert most_memory(loader, [0, n - 500]) < 4 * n + 4 * MEBI


def test_the_order_shards_holds_the_windows_of_one_shard_only(large_folder):
    n_shards, shard_tokens = 6, 2**28
    loader = Loader(sparse_shards(large_folder, n_shards, shard_tokens), 32, 64, seed=1, order="shards")
    n, of_shard = loader.n_windows, shard_tokens // 64
    assert n == n_shards * of_shard - 1
    assert most_memory(loader, [0, of_shard - 500, n - 500]) < 4 * of_shard + 4 * MEBI


READER = """
import json, sys
from importlib import import_module
from pathlib import Path
import numpy as np
folder, rank, n_ranks, n_batches, out = sys.argv[1:]
tokens = import_module("04_gpt2.shards").Shards(sorted(Path(folder).glob("*.bin")), 2**16)
for order in ("windows", "shards"):
    loader = import_module("04_gpt2.loader").Loader(tokens, 3, 8, 11, order=order, rank=int(rank), n_ranks=int(n_ranks))
    batches = [next(loader) for _ in range(int(n_batches))]
    np.save(f"{out}-{order}.npy", np.stack([np.concatenate([x, y[:, -1:]], axis=1) for x, y in batches]))
    print(json.dumps(loader.state()))
"""


def test_four_processes_read_an_epoch_and_one_goes_on(tmp_path):
    """Each knows its rank and the shards, and nothing of the others."""
    folder, sizes = tmp_path / "shards", [333, 5, 1, 700, 250, 3]
    folder.mkdir()
    tokens = open_shards(folder, sizes)
    n = Loader(tokens, 1, 8, 11).n_windows
    n_batches = -(-n // (4 * 3))
    processes = []
    for rank in range(4):
        arguments = [folder, str(rank), "4", str(n_batches), tmp_path / str(rank)]
        command = [sys.executable, "-c", READER, *arguments]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(said)) == 1
    for order, state in zip(ORDERS, said[0].splitlines(), strict=True):
        of_ranks = [np.load(tmp_path / f"{rank}-{order}.npy") for rank in range(4)]
        windows = np.stack(of_ranks, axis=1).reshape(-1, 9).tolist()  # (n_batches, ranks, B, T + 1) -> (n, T + 1)
        assert_an_epoch(windows[:n], sum(sizes), 8)
        one, whole = ranks(tokens, 1, 5, 8, 11, order, json.loads(state)), ranks(tokens, 1, 1, 8, 11, order)
        assert windows + read(one, 4) == read(whole, len(windows) + 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("order", ORDERS)
def test_batches_arrive_on_a_cuda_device_as_on_the_cpu_without_a_wait_between_steps(tmp_path, order):
    """The device is kept busy, so that a batch whose memory were used again too early would be seen."""
    tokens, seed = open_shards(tmp_path, [30_000, 1, 20_000]), random.randrange(2**63)
    [here, there] = (Loader(tokens, 16, 64, seed, order=order, device=device) for device in ("cpu", "cuda"))
    expected = [next(here) for _ in range(100)]
    found = []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(100):
            x, y = next(there)
            assert x.device.type == y.device.type == "cuda"
            torch.cuda._sleep(2_000_000)  # cycles: about a millisecond
            found.append((x * 1, y * 1))
            del x, y
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (x_there, y_there) in zip(expected, found, strict=True):
        assert torch.equal(x, x_there.cpu()) and torch.equal(y, y_there.cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has no two CUDA devices")
def test_batches_arrive_on_the_cuda_device_that_is_named():
    for named in (0, 1):
        for current in (0, 1):
            with torch.cuda.device(current):
                loader = Loader(np.arange(1000), 2, 8, seed=1, device=f"cuda:{named}")
                assert loader.device == next(loader)[0].device == torch.device("cuda", named)
