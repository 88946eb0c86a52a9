"""Names as numbers: a letter's id, the contexts and targets that a model learns from, and a split by distinct name."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_lowercase

import torch
from torch import Tensor

from shared import corpora
from shared.cli import UsageError

# N examples, T = block_size letters of context, V = 27 symbols

SYMBOLS = "." + ascii_lowercase  # id 0, the dot, begins and ends every name
ID = {symbol: i for i, symbol in enumerate(SYMBOLS)}

Split = tuple[list[str], list[str], list[str]]


def names(distinct: bool = True) -> list[str]:
    """The 29,910 distinct first names of 2017 (United States) in lower case; not `distinct`, the table's 32,469 rows."""
    return [name.lower() for name in corpora.names(distinct)]


def read_names(path: str | Path) -> list[str]:
    """The names of a text file, one on each line, in their order, duplicates too. Raises UsageError for other files."""
    lines = corpora.read_text(path).removeprefix("\ufeff").splitlines()
    names = {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip()}
    if not names:
        raise UsageError(f"{path} holds no name; one a line is expected")
    for number, name in names.items():
        if not set(name) <= set(ascii_lowercase):
            raise UsageError(f"{path}, line {number}: {name!r} has other characters than a to z; one name a line is expected")
    return list(names.values())


def split(names: Iterable[str], seed: int = 1337) -> Split:
    """80% of the distinct names to learn from, 10% to choose by (validation), 10% to report on (test), at random.

    A name that is given twice, to girls and to boys say, is one name: none is in two parts. The order of `names` changes
    nothing. Raises ValueError if there are fewer than 10.
    """
    distinct = sorted(set(names))
    if len(distinct) < 10:
        raise ValueError(f"{len(distinct)} distinct names cannot be split into 80%, 10% and 10%; at least 10 are expected")
    random.Random(seed).shuffle(distinct)
    return cut(distinct)


def cut(names: Sequence[str]) -> Split:
    """The first 80%, the next 10% and the last 10%, in the order in which they are given."""
    first, second = int(0.8 * len(names)), int(0.9 * len(names))
    return list(names[:first]), list(names[first:second]), list(names[second:])


def encode(text: str) -> list[int]:
    """Ids of letters and dots: `encode("ab.")` is [1, 2, 0]. Raises ValueError for any other character."""
    for character in text:
        if character not in ID:
            raise ValueError(f"{character!r} in {text!r} is not one of the 27 symbols; a to z and the dot are expected")
    return [ID[character] for character in text]


def decode(ids: Iterable[int]) -> str:
    """The text of ids: `decode([1, 2, 0])` is "ab.". Raises ValueError for an id outside 0 to 26."""
    ids = list(ids)
    for i in ids:
        if not 0 <= i < len(SYMBOLS):
            raise ValueError(f"the id {i} is none of the 27 symbols; 0 to 26 are expected")
    return "".join(SYMBOLS[i] for i in ids)


def examples(names: Iterable[str], block_size: int) -> tuple[Tensor, Tensor]:
    """Each letter of the names, and the dot after each name, with the `block_size` symbols before it -> (N, T), (N,) int64

    Before its first letter a name has dots: "ab" makes `..` → a, `.a` → b and `ab` → . at block_size 2.
    Raises ValueError if there are no names, an empty one or one with other characters than a to z, or a block_size below 1.
    """
    if isinstance(names, str):
        raise ValueError(f"{names!r} is one text; a list of names is expected")
    names = list(names)
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; at least 1 letter of context is expected")
    if not names or not all(names):
        raise ValueError("no name, or an empty one, has no letters to learn from; names of at least one letter are expected")
    if dotted := [name for name in names if "." in name]:
        raise ValueError(f"{dotted[0]!r} has a dot inside, where a name would end; names of a to z are expected")
    dots = "." * block_size
    row = torch.tensor(encode(dots + dots.join(names) + "."))
    windows = row.unfold(0, block_size + 1, 1)  # (all places, T + 1): a view onto the row
    is_letter, after_letter = windows[:, -1] > 0, windows[:, -2] > 0  # a dot after a dot is not to be predicted
    windows = windows[is_letter | after_letter]
    return windows[:, :-1].contiguous(), windows[:, -1].contiguous()
