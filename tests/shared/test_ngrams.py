"""Counting by array against counting by hand, and the figure that the project's models are held against."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.corpora import tinyshakespeare
from shared.ngrams import bits_per_byte, probabilities

FEW_LETTERS = st.lists(st.sampled_from([0, 1, 97, 255]), min_size=1, max_size=40).map(bytes)


def by_hand(train: bytes, context: bytes, byte: int) -> float:
    """Witten and Bell's formula, counting by looking at every place of the text."""
    shorter = by_hand(train, context[1:], byte) if context else 1 / 256
    follow = [train[i + len(context)] for i in range(len(train) - len(context)) if train[i:].startswith(context)]
    if not follow:
        return shorter
    return (follow.count(byte) + len(set(follow)) * shorter) / (len(follow) + len(set(follow)))


@given(train=FEW_LETTERS | st.binary(min_size=1), text=FEW_LETTERS, order=st.integers(1, 7))
def test_probabilities_equal_a_count_by_hand(train, text, order):
    expected = [by_hand(train, text[max(0, i - order + 1) : i], text[i]) for i in range(len(text))]
    assert probabilities(train, text, order) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=20)
@given(train=FEW_LETTERS, context=FEW_LETTERS)
def test_the_probabilities_of_all_bytes_add_up_to_one(train, context):
    assert sum(probabilities(train, context + bytes([byte]))[-1] for byte in range(256)) == pytest.approx(1)


def test_five_grams_are_the_best_at_tiny_shakespeare_and_need_2_41_bits():
    """2.408 bits per byte on the classic file; the embedded edition differs from it in 93 of 40,000 lines."""
    raw = tinyshakespeare().encode()
    cut = len(raw) * 9 // 10
    scores = {order: bits_per_byte(raw[:cut], raw[cut:], order) for order in (4, 5, 6)}
    assert scores[5] == pytest.approx(2.408, abs=0.01) and scores[5] == min(scores.values())


@pytest.mark.parametrize(
    ("train", "text", "order", "message"),
    [
        (b"a", b"a", 0, "order is 0; 1 to 7"),
        (b"a", b"a", 8, "order is 8"),
        (b"", b"a", 5, "an empty"),
        (b"a", b"", 5, "an empty"),
    ],
)
def test_what_cannot_be_counted_is_refused(train, text, order, message):
    with pytest.raises(ValueError, match=message):
        probabilities(train, text, order)
