"""Counting by array against counting by hand, and the figure that the project's models are held against."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.corpora import tinyshakespeare
from shared.ngrams import bits_per_byte, kneser_ney, probabilities, witten_bell

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


NAMES = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=12)


def rows(names: list[str], n: int) -> list[bytes]:
    """Names between marks for their beginning and end, as stage 02 counts them; a is 27, so that a symbol needs 5 bits."""
    padded = [bytes([0] * (n - 1) + [ord(letter) - 70 for letter in name] + [0]) for name in names]
    return [text[i : i + n] for text in padded for i in range(len(text) - n + 1)]


def as_array(rows: list[bytes]) -> np.ndarray:
    return np.array([list(row) for row in rows])


@given(names=NAMES, wanted=NAMES.map(lambda names: [name + "d" for name in names[:3]]), n=st.integers(1, 6))
def test_rows_of_symbols_equal_a_count_by_hand(names, wanted, n):
    seen = rows(names, n)

    def expected(row):
        context, symbol = row[:-1], row[-1]
        shorter = expected(row[1:]) if context else 1 / 31
        follow = [other[-1] for other in seen if other[:-1].endswith(context)]
        if not follow:
            return shorter
        return (follow.count(symbol) + len(set(follow)) * shorter) / (len(follow) + len(set(follow)))

    got = witten_bell(as_array(seen), as_array(rows(wanted, n)), 31)
    assert got == pytest.approx([expected(row) for row in rows(wanted, n)], rel=1e-12)


@given(names=NAMES, wanted=NAMES.map(lambda names: [name + "d" for name in names[:3]]), n=st.integers(1, 5))
def test_kneser_and_neys_rule_equals_a_count_by_hand(names, wanted, n):
    seen = rows(names, n)

    def counts(length):
        """n-gram -> how often it counts: each time at the greatest length, else once for each symbol before it."""
        if length == n:
            return Counter(seen)
        return Counter(gram[1:] for gram in {row[-length - 1 :] for row in seen})

    def expected(row):
        count = counts(len(row))
        shorter = expected(row[1:]) if len(row) > 1 else 1 / 31
        follow = {gram: times for gram, times in count.items() if gram[:-1] == row[:-1]}
        if not follow:
            return shorter
        once, twice = (sum(times == m for times in count.values()) for m in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        left = max(follow.get(row, 0) - discount, 0)
        return (left + discount * len(follow) * shorter) / sum(follow.values())

    got = kneser_ney(as_array(seen), as_array(rows(wanted, n)), 31)
    assert got == pytest.approx([expected(row) for row in rows(wanted, n)], rel=1e-12)


@pytest.mark.parametrize("rule", [witten_bell, kneser_ney])
def test_nothing_is_impossible(rule):
    assert rule(np.array([[1, 1]] * 5), np.array([[0, 0], [1, 0], [1, 1]]), 3).min() > 0


@pytest.mark.parametrize("rule", [witten_bell, kneser_ney])
def test_thirty_three_symbols_are_kept_apart(rule):
    """They need 6 bits; with 5, (1, 0) and (0, 32) would be one code."""
    p = rule(np.array([[1, 0], [1, 0], [1, 3]]), np.array([[0, 32], [1, 0]]), 33)
    assert p[0] < 0.1 < p[1]


@pytest.mark.parametrize("rule", [witten_bell, kneser_ney])
@given(names=NAMES, context=st.text("abcd", min_size=3, max_size=3))
def test_the_probabilities_of_all_symbols_add_up_to_one(rule, names, context):
    wanted = np.array([[*(ord(letter) - 70 for letter in context), symbol] for symbol in range(31)])
    assert rule(as_array(rows(names, 4)), wanted, 31).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("train", "wanted", "message"),
    [
        ([[1, 2]], [[1, 2, 0]], "rows of 2 and 3 symbols"),
        ([[1] * 13], [[1] * 13], "rows of 13 and 13 symbols; as many in both are expected, 1 to 12"),
        ([[1, 27]], [[1, 2]], "1 rows; at least one, with symbols from 0 to 26"),
        ([[1, 2]], [[-1, 2]], "symbols from 0 to 26"),
        (np.zeros((0, 2), int), [[1, 2]], "0 rows; at least one"),
    ],
)
@pytest.mark.parametrize("rule", [witten_bell, kneser_ney])
def test_rows_that_cannot_be_counted_are_refused(train, wanted, message, rule):
    with pytest.raises(ValueError, match=message):
        rule(np.array(train), np.array(wanted), 27)


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
