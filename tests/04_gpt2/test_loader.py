"""Which windows come in which order, for which rank."""

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

loader = import_module("04_gpt2.loader")


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 80), st.integers(0, 2**32))
def test_an_epoch_reads_windows_side_by_side_once_each_and_targets_are_the_next_tokens(block_size, batch_size, extra, seed):
    tokens = np.arange(block_size + 1 + extra, dtype=np.uint16)
    batches = loader.Loader(tokens, batch_size, block_size, seed)
    n = batches.n_windows
    rows = []
    for _ in range(-(-3 * n // batch_size)):  # three epochs, rounded up to whole batches
        x, y = next(batches)
        assert x.shape == y.shape == (batch_size, block_size) and x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        rows += x.tolist()
    for epoch in range(3):
        read = sorted(rows[epoch * n : (epoch + 1) * n])
        first = read[0][0]
        assert [i for row in read for i in row] == list(range(first, first + n * block_size))
        assert first < block_size and len(tokens) - 1 - n * block_size < 2 * block_size


def test_epochs_begin_at_every_place_of_a_window():
    batches = loader.Loader(np.arange(1001, dtype=np.uint16), 1, 8, seed=1)
    firsts = {min(next(batches)[0][0, 0].item() for _ in range(batches.n_windows)) for _ in range(100)}
    assert firsts == set(range(8))


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    tokens = np.arange(4001, dtype=np.uint16)

    def order(seed, batch_size=5):
        batches = loader.Loader(tokens, batch_size, 8, seed)
        return torch.cat([next(batches)[0] for _ in range(1000 // batch_size)])

    assert torch.equal(order(3), order(3))
    assert torch.equal(order(3), order(3, batch_size=10))
    assert not torch.equal(order(3), order(4))
    assert not torch.equal(order(3)[:500], order(3)[500:])


def test_too_few_tokens_for_a_window_are_refused():
    with pytest.raises(ValueError, match="8 tokens do not hold one window of 8 tokens and the one that follows"):
        loader.Loader(np.arange(8, dtype=np.uint16), 1, 8, 0)
