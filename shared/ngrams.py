"""Counting, the oldest language model: how often did this symbol follow these? What no network should lose against."""

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
        p[n - 1 :] = _with_longer(_codes(train, n), _codes(text, n), 8, p[n - 1 :])  # the first n - 1 have no such context
    return p


def witten_bell(train: NDArray[np.int64], wanted: NDArray[np.int64], n_symbols: int) -> NDArray[np.float64]:
    """The same for rows of n symbols, the last of which is predicted from those before: (N, n), (M, n) -> (M,)

    Here every symbol has a whole context, be it of marks for the beginning; below the empty context all `n_symbols` are alike.
    Raises ValueError if there is no row, if the rows are not equally long or too long, or if a symbol is not below n_symbols.
    """
    bits, n = max(n_symbols - 1, 1).bit_length(), train.shape[1]
    if wanted.shape[1] != n or not 1 <= n * bits < 64:
        raise ValueError(f"rows of {n} and {wanted.shape[1]} symbols; as many in both are expected, 1 to {63 // bits}")
    for rows in (train, wanted):
        if not rows.size or rows.min() < 0 or rows.max() >= n_symbols:
            raise ValueError(f"{len(rows)} rows; at least one, with symbols from 0 to {n_symbols - 1}, is expected")
    p = np.full(len(wanted), 1 / n_symbols)
    for shorter in range(1, n + 1):
        p = _with_longer(_row_codes(train[:, -shorter:], bits), _row_codes(wanted[:, -shorter:], bits), bits, p)
    return p


def _with_longer(
    seen: NDArray[np.int64], wanted: NDArray[np.int64], bits: int, shorter: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One more symbol of context: codes of n-grams seen and wanted, and what one symbol less says of those wanted -> (M,)"""
    grams, counts = np.unique(seen, return_counts=True)
    contexts, first = np.unique(grams >> bits, return_index=True)  # grams are sorted, so a context's stand side by side
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(first, append=len(grams))
    c, k = _look_up(wanted >> bits, contexts, totals), _look_up(wanted >> bits, contexts, kinds)
    return np.where(c > 0, (_look_up(wanted, grams, counts) + k * shorter) / np.maximum(c + k, 1), shorter)


def _codes(text: bytes, n: int) -> NDArray[np.int64]:
    """Each sequence of `n` bytes in `text` as one number, its last byte the lowest -> (len(text) - n + 1,)"""
    letters = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    return _row_codes(np.lib.stride_tricks.sliding_window_view(letters, n), 8)


def _row_codes(rows: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Each row of symbols as one number, `bits` for a symbol, the last the lowest: (N, n) -> (N,)"""
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        codes = codes << bits | column
    return codes


def _look_up(wanted: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each key in `wanted`, 0 where it is not among `keys`, which are sorted."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
