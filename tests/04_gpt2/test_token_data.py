"""What a run learns from: where a text is cut, what is encoded; the shards of a folder."""

import random
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cli import UsageError

data = import_module("04_gpt2.token_data")
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


def test_the_digest_knows_every_token_of_both_parts():
    prepared = data.prepare("to be or not to be, that is the question\n" * 30, "bpe", 270)
    digests = {prepared.sha256, replace(prepared, text="").sha256}
    for name in ("train", "val"):
        tokens = getattr(prepared, name).copy()
        tokens[random.randrange(len(tokens))] += 1
        digests.add(replace(prepared, **{name: tokens}).sha256)
    assert len(digests) == 3
