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
        grams, counts = np.unique(_codes(train, n), return_counts=True)
        p[n - 1 :] = _mixed(grams, counts, _codes(text, n), 8, p[n - 1 :])  # the first n - 1 bytes have no such context
    return p


def witten_bell(train: NDArray[np.int64], wanted: NDArray[np.int64], n_symbols: int) -> NDArray[np.float64]:
    """The same for rows of n symbols, the last of which is predicted from those before: (N, n), (M, n) -> (M,)

    Here every symbol has a whole context, be it of marks for the beginning; below the empty context all `n_symbols` are alike.
    Raises ValueError if there is no row, if the rows are not equally long or too long, or if a symbol is not below n_symbols.
    """
    bits = _bits(train, wanted, n_symbols)
    p = np.full(len(wanted), 1 / n_symbols)
    for n in range(1, train.shape[1] + 1):
        grams, counts = np.unique(_row_codes(train[:, -n:], bits), return_counts=True)
        p = _mixed(grams, counts, _row_codes(wanted[:, -n:], bits), bits, p)
    return p


def kneser_ney(train: NDArray[np.int64], wanted: NDArray[np.int64], n_symbols: int) -> NDArray[np.float64]:
    """A better rule (Kneser and Ney 1995, interpolated as by Chen and Goodman 1999); arguments, result and errors as above.

    From each count a discount is taken, and what was taken goes by the context that is one symbol shorter. In all but the
    longest context an n-gram counts once for each different symbol seen before it, not once for each time it was seen. The
    discount is n1 / (n1 + 2 n2), with n1 and n2 the numbers of n-grams that count once and twice; where one of them is 0, 1/2.
    """
    bits = _bits(train, wanted, n_symbols)
    p = np.full(len(wanted), 1 / n_symbols)
    longest = train.shape[1]
    for n in range(1, longest + 1):
        grams, counts = np.unique(_row_codes(train[:, -n:], bits), return_counts=True)
        if n < longest:
            one_longer = np.unique(_row_codes(train[:, -n - 1 :], bits))
            grams, counts = np.unique(one_longer & ((1 << n * bits) - 1), return_counts=True)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once and twice else 0.5
        p = _mixed(grams, counts, _row_codes(wanted[:, -n:], bits), bits, p, discount)
    return p


def _bits(train: NDArray[np.int64], wanted: NDArray[np.int64], n_symbols: int) -> int:
    """Bits that a symbol needs; ValueError if the rows do not fit together, or into 63 bits."""
    bits, n = max(n_symbols - 1, 1).bit_length(), train.shape[1]
    if wanted.shape[1] != n or not 1 <= n * bits < 64:
        raise ValueError(f"rows of {n} and {wanted.shape[1]} symbols; as many in both are expected, 1 to {63 // bits}")
    for rows in (train, wanted):
        if not rows.size or rows.min() < 0 or rows.max() >= n_symbols:
            raise ValueError(f"{len(rows)} rows; at least one, with symbols from 0 to {n_symbols - 1}, is expected")
    return bits


def _mixed(
    grams: NDArray[np.int64],
    counts: NDArray[np.int64],
    wanted: NDArray[np.int64],
    bits: int,
    shorter: NDArray[np.float64],
    discount: float | None = None,
) -> NDArray[np.float64]:
    """How likely the last symbol of each n-gram `wanted` is: its share of the counts, mixed with what one symbol less says.

    Witten and Bell's rule, or with a discount Kneser and Ney's. n-grams are codes, sorted in `grams`: (G,), (G,), (M,) -> (M,)
    """
    contexts, first = np.unique(grams >> bits, return_index=True)  # grams are sorted, so a context's stand side by side
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(first, append=len(grams))
    c, k = _look_up(wanted >> bits, contexts, totals), _look_up(wanted >> bits, contexts, kinds)
    n = _look_up(wanted, grams, counts)
    if discount is None:
        return np.where(c > 0, (n + k * shorter) / np.maximum(c + k, 1), shorter)
    return np.where(c > 0, (np.maximum(n - discount, 0) + discount * k * shorter) / np.maximum(c, 1), shorter)


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
