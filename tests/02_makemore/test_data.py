"""Names as numbers: every prediction once, in both directions, and no name in two parts."""

import random
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.cli import UsageError

data = import_module("02_makemore.data")

NAMES = st.lists(st.text("abcxyz", min_size=1, max_size=6), min_size=1, max_size=20)


@given(names=NAMES, block_size=st.integers(1, 8))
def test_examples_are_those_of_a_loop_over_the_letters(names, block_size):
    expected = []
    for name in names:
        context = "." * block_size
        for letter in name + ".":
            expected.append((context, letter))
            context = context[1:] + letter
    contexts, targets = data.examples(names, block_size)
    assert contexts.shape == (len(expected), block_size) and contexts.dtype == targets.dtype == torch.int64
    assert [(data.decode(x), data.decode([y])) for x, y in zip(contexts.tolist(), targets.tolist(), strict=True)] == expected


@given(text=st.text(data.SYMBOLS))
def test_decoding_undoes_encoding(text):
    assert data.decode(data.encode(text)) == text
    assert all(0 <= i < 27 for i in data.encode(text))


def test_a_dot_is_0_and_z_is_26():
    assert data.encode(".az") == [0, 1, 26]


def test_the_embedded_names_are_lower_case_and_distinct():
    names = data.names()
    assert len(set(names)) == len(names) == 29_910 and names[:3] == ["emma", "olivia", "ava"]
    assert len(data.names(distinct=False)) == 32_469
    data.encode("".join(names))  # no other characters


def test_a_split_keeps_each_distinct_name_in_one_part_whatever_the_order():
    names = data.names(distinct=False)
    parts = data.split(names)
    assert [len(part) for part in parts] == [23_928, 2_991, 2_991]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted(set(names))
    random.Random(random.random()).shuffle(names)
    assert data.split(names) == parts
    assert data.split(names, seed=2) != parts


def test_ten_names_are_enough_for_a_split():
    assert [len(part) for part in data.split("abcdefghij")] == [8, 1, 1]


def test_a_split_is_no_selection_by_letter_or_length():
    """Parts of one population: shares of first letters and mean lengths agree within four standard errors."""
    train, val, _ = data.split(data.names())
    for measure in (len, lambda name: name[0] == "a", lambda name: name[-1] == "n"):
        (a, b) = (torch.tensor([float(measure(name)) for name in part]) for part in (train, val))
        assert abs(a.mean() - b.mean()) < 4 * (a.var() / len(a) + b.var() / len(b)) ** 0.5


def test_a_file_of_names_is_read_as_it_is(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfmia\r\n liam\n\nmia\n")
    assert data.read_names(tmp_path / "names.txt") == ["mia", "liam", "mia"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mia\n\nLiam\n", "line 3: 'Liam' has other"),
        ("mary ann\n", "line 1: 'mary ann' has other characters than a to z"),
        ("zoë\n", "line 1: 'zoë'"),
        ("\n\n", "holds no name"),
        ("", "is empty"),
    ],
)
def test_a_file_that_holds_no_such_names_is_refused(tmp_path, content, message):
    (tmp_path / "names.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        data.read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.encode("Mia"), "'M' in 'Mia' is not one of the 27 symbols"),
        (lambda: data.examples(["mia"], 0), "block_size is 0"),
        (lambda: data.examples([], 3), "no name"),
        (lambda: data.examples(["mia", ""], 3), "an empty one"),
        (lambda: data.examples(["m.a"], 3), "'m.a'"),
        (lambda: data.examples("mia", 2), "'mia' is one text; a list of names"),
        (lambda: data.decode([1, -1]), "the id -1 is none of the 27 symbols"),
        (lambda: data.decode([27]), "the id 27"),
        (lambda: data.split(["mia"] * 100), "1 distinct names cannot be split"),
        (lambda: data.split("abcdefghi"), "9 distinct names"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
