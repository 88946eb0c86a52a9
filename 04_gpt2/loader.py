"""Batches from an array of tokens: which windows, in which order, and which of them are this rank's.

An epoch cuts the tokens into windows side by side and reads each once, in an order that is a function of the seed. Windows
are numbered on from epoch to epoch. Of those that all ranks take at a time the first `batch_size` are rank 0's, the next rank
1's, so that what an update learns from depends on neither the number of ranks nor the size of their batches.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import OrderName


class Tokens(Protocol):
    """(N,) token ids: an array, or the shards of a prepared folder."""

    def __len__(self) -> int: ...
    def __getitem__(self, which: slice, /) -> NDArray[Any]: ...


class Loader:
    """Micro-batches of `batch_size` windows of `block_size` tokens, without end: `x, y = next(loader)`, both (B, T).

    x are inputs; y are targets, the token after each input; both are on `device`. With `ahead`, as is the rule but on a CPU,
    a thread reads the next batch while this one is worked on, and copies it to a CUDA device from pinned memory.

    order   "windows": one permutation of the windows of all shards, 4 bytes each in memory. "shards": shards in random order,
            the windows of each in random order, for disks across a network; only one shard's permutation is held.
    Raises ValueError if `tokens` does not hold a single window.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        block_size: int,
        seed: int,
        *,
        order: OrderName = "windows",
        rank: int = 0,
        n_ranks: int = 1,
        device: torch.device | str = "cpu",
        ahead: bool | None = None,
    ):
        self.tokens, self.batch_size, self.block_size = tokens, batch_size, block_size
        self.rank, self.n_ranks, self.device = rank, n_ranks, torch.device(device)
        shard_ends = getattr(tokens, "ends", ()) if order == "shards" else ()
        self._order = Order(len(tokens), block_size, seed, shard_ends)
        self._same_order = {"order": order, "seed": seed, "block_size": block_size, "tokens": len(tokens)}
        if order == "shards":
            self._same_order["shard_ends"] = sha256(repr(list(shard_ends)).encode()).hexdigest()[:16]
        self._taken = 0  # windows, by all ranks together
        ahead = self.device.type != "cpu" if ahead is None else ahead
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="loader") if ahead else None
        self._ahead: Future[tuple[Tensor, torch.Event | None]] | None = None
        if self.device.type == "cuda":
            current = torch.cuda.current_device()  # of this thread; another thread's may differ
            self.device = torch.device("cuda", current if self.device.index is None else self.device.index)
            self._stream = torch.cuda.Stream(self.device)

    @property
    def n_windows(self) -> int:
        """Windows in an epoch."""
        return self._order.n_windows

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        window, copied = self._ahead.result() if self._ahead else self._read(self._taken)
        self._taken += self.batch_size * self.n_ranks
        if self._reader is not None:
            self._ahead = self._reader.submit(self._read, self._taken)
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            window.record_stream(stream)
        return window[:, :-1], window[:, 1:]

    def state(self) -> dict[str, Any]:
        """Where this loader stands, the same on every rank: `load_state` goes on from there, on any number of ranks."""
        return self._same_order | {"windows": self._taken}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError if it is of another number of tokens or another order."""
        differing = [name for name, value in self._same_order.items() if state.get(name) != value]
        if differing:
            listed = ", ".join(f"{name} was {state.get(name)} and is {self._same_order[name]}" for name in differing)
            raise ValueError(f"the state is of another order of the data: {listed}")
        if self._ahead is not None and not self._ahead.cancel():
            wait([self._ahead])  # two threads may not read at once
        self._taken, self._ahead = state["windows"], None

    def _read(self, taken: int) -> tuple[Tensor, torch.Event | None]:
        starts = self._order.starts(taken + self.rank * self.batch_size, self.batch_size)
        rows = np.stack([self.tokens[start : start + self.block_size + 1] for start in starts])
        window = torch.from_numpy(rows.astype(np.int64))  # (B, T + 1)
        if self.device.type != "cuda":
            return window.to(self.device), None
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            return window.pin_memory().to(self.device, non_blocking=True), self._stream.record_event()


class Order:
    """Where the windows begin that are read one after the other: 0, 1, 2, … through all epochs.

    The first window of an epoch begins a few tokens earlier or later than that of another, so that a token is not always seen
    at the same position. At both ends together fewer than two windows' tokens stay unread in an epoch.

    With `shard_ends` a window belongs to the shard in which it begins, and all of a shard's are read before the next shard's.
    """

    def __init__(self, n_tokens: int, block_size: int, seed: int, shard_ends: Sequence[int] = ()):
        n_inputs = n_tokens - 1  # a window's targets reach one token past its inputs
        if n_inputs < block_size:
            raise ValueError(f"{n_tokens} tokens do not hold one window of {block_size} tokens and the one that follows")
        self.block_size, self.seed = block_size, seed
        # One window fewer than fit leaves room for the first one to begin at any of block_size places.
        self.n_windows = max(1, (n_inputs + 1) // block_size - 1)
        self._first_starts = min(block_size, n_inputs - self.n_windows * block_size + 1)
        self._shard_ends = shard_ends
        self._epoch = -1

    def starts(self, first: int, count: int) -> Iterator[int]:
        """Where the windows number first, first + 1, … begin; those that follow on the ones asked for before come quickly."""
        while count:
            epoch, place = divmod(first, self.n_windows)
            self._go_to(epoch, place)
            # A copy: what is yielded must not keep this permutation in memory while the next one is made.
            group = self._permutation[place - self._group_start :][:count].astype(np.int64)
            yield from self._offset + self.block_size * (self._group_first + group)
            first, count = first + len(group), count - len(group)

    def _go_to(self, epoch: int, place: int) -> None:
        """Have the permutation of the group of windows at hand that `place` of `epoch` falls into."""
        if epoch != self._epoch or place < self._group_start:
            self._random = np.random.default_rng([self.seed, epoch])
            self._epoch, self._offset = epoch, int(self._random.integers(self._first_starts))
            firsts = [bisect_left(range(self.n_windows), end, key=self._start) for end in self._shard_ends[:-1]]
            groups = list(pairwise([0, *firsts, self.n_windows]))
            self._groups = iter([groups[i] for i in self._random.permutation(len(groups))])
            self._group_start, self._permutation = 0, np.empty(0, np.uint32)
        while place >= self._group_start + len(self._permutation):
            self._group_start += len(self._permutation)
            self._group_first, end = next(self._groups)
            del self._permutation  # before the next one is made
            self._permutation = np.arange(end - self._group_first, dtype=np.uint32)
            self._random.shuffle(self._permutation)

    def _start(self, window: int) -> int:
        return self._offset + self.block_size * window
