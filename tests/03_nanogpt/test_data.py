"""Texts, their split, and the windows that training reads."""

from importlib import import_module

import pytest
import torch

from shared import corpora
from shared.cli import UsageError

data = import_module("03_nanogpt.data")


def test_texts_go_by_their_name_or_by_a_file(tmp_path):
    assert data.load_text("tinyshakespeare") == corpora.tinyshakespeare()
    assert data.load_text("shakespeare") == corpora.shakespeare()
    (tmp_path / "my.txt").write_text("né", encoding="utf-8")
    assert data.load_text(str(tmp_path / "my.txt")) == "né"
    with pytest.raises(UsageError, match=r"cannot read .*none\.txt: No such file"):
        data.load_text(str(tmp_path / "none.txt"))


def test_the_last_tenth_is_held_out_and_nothing_is_lost():
    text = "".join(chr(32 + i % 90) for i in range(1003))
    train, val = data.split(text)
    assert train + val == text and len(train) == 902


def test_both_parts_must_be_longer_than_a_window(tmp_path):
    (tmp_path / "my.txt").write_text("a" * 90 + "b" * 10)
    said = []
    assert data.prepare(str(tmp_path / "my.txt"), 9, said.append) == ("a" * 90, "b" * 10)
    assert said == [f"{tmp_path / 'my.txt'}: 90 characters to learn from, 10 to validate on"]
    with pytest.raises(UsageError, match="its 100 characters leave 10 to validate on, and more than the block size of 10"):
        data.prepare(str(tmp_path / "my.txt"), 10, said.append)


def test_windows_line_ends_and_a_byte_order_mark_are_no_characters(tmp_path):
    (tmp_path / "my.txt").write_bytes(b"\xef\xbb\xbf" + b"To be\r\n" * 20)
    said = []
    parts = data.prepare(str(tmp_path / "my.txt"), 5, said.append)
    assert "".join(parts) == "To be\n" * 20
    assert said[0].endswith("20 line ends of two characters became one")


def test_targets_are_the_characters_after_the_inputs_and_windows_reach_both_ends():
    ids = torch.arange(100, 120)
    starts = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        x, y = data.random_batch(ids, 3, 5, generator)
        assert x.shape == y.shape == (3, 5)
        assert torch.equal(y, x + 1) and torch.equal(x, x[:, :1] + torch.arange(5))
        starts |= set(x[:, 0].tolist())
    assert starts == set(range(100, 115))  # the last target is 119


def test_the_same_seed_reads_the_same_windows():
    ids = torch.randint(128, (500,))
    first, again, other = (data.random_batch(ids, 4, 8, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_text_of_one_window_is_enough_and_less_is_refused():
    generator = torch.Generator().manual_seed(0)
    x, y = data.random_batch(torch.arange(6), 2, 5, generator)
    assert x.tolist() == [[0, 1, 2, 3, 4]] * 2 and y.tolist() == [[1, 2, 3, 4, 5]] * 2
    with pytest.raises(ValueError, match="5 characters do not hold a window of block_size 5"):
        data.random_batch(torch.arange(5), 2, 5, generator)
