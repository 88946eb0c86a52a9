"""From a text to batches: where it is cut, what is encoded, which windows come in which order."""

import random
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.cli import UsageError

data = import_module("04_gpt2.data")
loader = import_module("04_gpt2.loader")
bpe = import_module("04_gpt2.bpe")


@given(st.text(min_size=1, max_size=300))
def test_a_text_is_cut_once_at_nine_tenths_of_its_bytes(text):
    size = len(text.encode())
    if size < 2:
        with pytest.raises(UsageError, match="too short to be split"):
            data.split(text)
        return
    try:
        train, val = data.split(text)
    except UsageError:  # what follows the cut is one character
        assert len(text[-1].encode()) >= size - int(size * 0.9)
        return
    assert train + val == text
    assert int(size * 0.9) <= len(train.encode()) < int(size * 0.9) + 4


def test_the_tokenizer_sees_the_training_part_only():
    text = "ab " * 90 + "xyxyxyxyxy" * 3
    prepared = data.prepare(text, "bpe", 300)
    assert not any(b"xy" in token for token in prepared.tokenizer.tokens)
    assert prepared.tokenizer.decode(prepared.train[1:]) + prepared.tokenizer.decode(prepared.val[1:]) == text
    assert prepared.train[0] == prepared.val[0] == prepared.tokenizer.specials[bpe.END_OF_TEXT]
    assert prepared.train.dtype == np.uint16


def test_the_markers_text_inside_a_document_is_ordinary_text():
    prepared = data.prepare("so it <|endoftext|> goes " * 20, "gpt2", 50257)
    assert (prepared.train == 50256).sum() == 1


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(UsageError, match="--vocab-size 50256 is smaller than GPT-2's tokenizer, which has 50257 ids"):
        data.prepare("some text " * 9, "gpt2", 50256)
    with pytest.raises(UsageError, match="--vocab-size: a vocabulary of 12 is too small"):
        data.prepare("some text " * 9, "bpe", 12)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 80), st.integers(0, 2**32))
def test_an_epoch_reads_windows_side_by_side_once_each_and_targets_are_the_next_tokens(block_size, batch_size, extra, seed):
    tokens = np.arange(block_size + 1 + extra, dtype=np.uint16)
    batches = loader.Loader(tokens, batch_size, block_size, seed)
    n = batches.n_windows
    rows = []
    for i in range(-(-3 * n // batch_size)):  # three epochs, rounded up to whole batches
        x, y = batches.batch(i)
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
    firsts = {
        min(batches.batch(e * batches.n_windows + i)[0][0, 0].item() for i in range(batches.n_windows)) for e in range(100)
    }
    assert firsts == set(range(8))


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    tokens = np.arange(4001, dtype=np.uint16)

    def order(seed, batch_size=5, first=0):
        batches = loader.Loader(tokens, batch_size, 8, seed)
        return torch.cat([batches.batch(i)[0] for i in range(first, 1000 // batch_size)])

    assert torch.equal(order(3), order(3))
    assert torch.equal(order(3), order(3, batch_size=10))
    assert torch.equal(order(3)[500:], order(3, first=100))
    assert not torch.equal(order(3), order(4))
    assert not torch.equal(order(3)[:500], order(3)[500:])


def test_the_digest_knows_every_token_of_both_parts():
    prepared = data.prepare("to be or not to be, that is the question\n" * 30, "bpe", 270)
    digests = {prepared.sha256, replace(prepared, text="").sha256}
    for name in ("train", "val"):
        tokens = getattr(prepared, name).copy()
        tokens[random.randrange(len(tokens))] += 1
        digests.add(replace(prepared, **{name: tokens}).sha256)
    assert len(digests) == 3


def test_too_few_tokens_for_a_window_are_refused():
    with pytest.raises(ValueError, match="8 tokens do not hold one window of 8 tokens and the one that follows"):
        loader.Loader(np.arange(8, dtype=np.uint16), 1, 8, 0)
