"""Counting, the oldest language model: how often did this byte follow these bytes? What no network should lose against."""

import numpy as np
from numpy.typing import NDArray

ORDER = 5  # bytes: the best on a megabyte of English (4 and 6 are worse)
LONGEST = 7  # bytes that fit into an int64 beside its sign


def bits_per_byte(train: bytes, held_out: bytes, order: int = ORDER) -> float:
    """Mean surprise of n-grams counted in `train` at each byte of `held_out`, in bits. Arguments as for `probabilities`."""
    return -float(np.log2(probabilities(train, held_out, order)).mean())


def probabilities(train: bytes, text: bytes, order: int = ORDER) -> NDArray[np.float64]:
    """Probability of each byte of `text`, given the up to `order - 1` bytes before it, from the counts of `train` -> (N,)

    Witten-Bell smoothing (Witten and Bell 1991, method C), recursive: after a context that was seen c times with k kinds of
    next byte, a share of c / (c + k) goes by the counts and k / (c + k) by the context that is one byte shorter; below the
    empty context all 256 bytes are alike. A context that was never seen leaves all to the shorter one.
    Raises ValueError if a text is empty or `order` is not within 1 to 7.
    """
    if not 1 <= order <= LONGEST:
        raise ValueError(f"order is {order}; 1 to {LONGEST} bytes are expected")
    if not train or not text:
        raise ValueError("an empty text has no n-grams; at least one byte is expected")
    p = np.full(len(text), 1 / 256)
    for n in range(1, min(order, len(train), len(text)) + 1):
        grams, counts = np.unique(_codes(train, n), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)  # grams are sorted, so a context's stand side by side
        seen = np.add.reduceat(counts, first)
        kinds = np.diff(first, append=len(grams))
        wanted = _codes(text, n)
        c, k = _look_up(wanted >> 8, contexts, seen), _look_up(wanted >> 8, contexts, kinds)
        shorter = p[n - 1 :]  # the first n - 1 bytes have no context of this length
        p[n - 1 :] = np.where(c > 0, (_look_up(wanted, grams, counts) + k * shorter) / np.maximum(c + k, 1), shorter)
    return p


def _codes(text: bytes, n: int) -> NDArray[np.int64]:
    """Each sequence of `n` bytes in `text` as one number, its last byte the lowest -> (len(text) - n + 1,)"""
    letters = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    codes = np.zeros(len(letters) - n + 1, dtype=np.int64)
    for i in range(n):
        codes = codes << 8 | letters[i : i + len(codes)]
    return codes


def _look_up(wanted: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each key in `wanted`, 0 where it is not among `keys`, which are sorted."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
