"""Batches from an array of tokens: which windows, in which order. The order is a function of the seed, so it has no state."""

import numpy as np
import torch
from torch import Tensor

from .data import Tokens


class Loader:
    """Micro-batches of `batch_size` windows of `block_size` tokens.

    An epoch cuts the tokens into windows side by side and reads each once, in random order. The next epoch begins its first
    window a few tokens earlier or later, so that a token is not always seen at the same position. At both ends together
    fewer than two windows' tokens stay unread in an epoch.

    Batch i is the same whenever it is asked for, so the number of batches taken is all that a resumed run must remember.
    Raises ValueError if `tokens` does not hold a single window.
    """

    def __init__(self, tokens: Tokens, batch_size: int, block_size: int, seed: int):
        self.tokens, self.batch_size, self.block_size, self.seed = tokens, batch_size, block_size, seed
        n_inputs = len(tokens) - 1  # a window's targets reach one token past its inputs
        if n_inputs < block_size:
            raise ValueError(f"{len(tokens)} tokens do not hold one window of {block_size} tokens and the one that follows")
        # One window fewer than fit leaves room for the first one to begin at any of block_size places.
        self.n_windows = max(1, (n_inputs + 1) // block_size - 1)
        self._first_starts = min(block_size, n_inputs - self.n_windows * block_size + 1)
        self._orders: dict[int, np.ndarray] = {}  # epoch -> starts, for the last two: a batch may span both

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of micro-batch `i` = 0, 1, 2, …, both (B, T); a target is the token after its input."""
        rows = []
        for n in range(i * self.batch_size, (i + 1) * self.batch_size):
            epoch, place = divmod(n, self.n_windows)
            start = self._order(epoch)[place]
            rows.append(self.tokens[start : start + self.block_size + 1])
        window = torch.from_numpy(np.stack(rows).astype(np.int64))  # (B, T + 1)
        return window[:, :-1], window[:, 1:]

    def _order(self, epoch: int) -> np.ndarray:
        """Where the windows of `epoch` begin, in the order in which they are read (n_windows,)"""
        if epoch not in self._orders:
            rng = np.random.default_rng([self.seed, epoch])
            starts = rng.integers(self._first_starts) + self.block_size * rng.permutation(self.n_windows)
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1} | {epoch: starts}
        return self._orders[epoch]
