"""NonaGPT once more, number by number: no tensors, no library; only +, ×, **, exp, log and tanh.

It computes with whatever knows these: hand it stage 01's `Value`, and one `backward()` gives every gradient of a GPT. A vector
is a list of numbers, a matrix a list of rows. Notebook 4 reads this file; `model.py` says the same in tensors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Protocol, TypeVar


class Number(Protocol):
    """What a number must know; on the right a plain number may stand, a constant."""

    def __add__(self: "N", other: "N | float", /) -> "N": ...
    def __mul__(self: "N", other: "N | float", /) -> "N": ...
    def __pow__(self: "N", other: float, /) -> "N": ...
    def exp(self: "N") -> "N": ...
    def log(self: "N") -> "N": ...
    def tanh(self: "N") -> "N": ...


N = TypeVar("N", bound=Number)


class Nested(Protocol):
    """What a weight must know: itself as nested lists of plain numbers, as a tensor does."""

    def tolist(self) -> Any: ...


def lift(weights: Mapping[str, Nested], number: Callable[[float], N]) -> dict[str, Any]:
    """A NonaGPT's state dict as lists of numbers of another kind, each made by `number`; the tied head is left out."""
    return {name: _lifted(tensor.tolist(), number) for name, tensor in weights.items() if name != "lm_head.weight"}


def numbers(weights: Mapping[str, Any]) -> list[Any]:
    """All the numbers in what `lift` has made, tensor by tensor in the order of PyTorch's `flatten`."""
    found = []
    for matrix_or_vector in weights.values():
        for row in matrix_or_vector:
            found += row if isinstance(row, list) else [row]
    return found


def logits(weights: Mapping[str, Any], ids: Sequence[int], n_head: int) -> list[list[Any]]:
    """A score for each character that could come after each of `ids`: T rows of V numbers. `weights` as `lift` makes them.

    Raises ValueError if `n_head` does not divide C, for more ids than positions, and for an id that the table does not have.
    """
    tokens, positions = weights["token_embedding_table.weight"], weights["position_embedding_table.weight"]
    if len(tokens[0]) % n_head:
        raise ValueError(f"n_head {n_head} does not divide the width {len(tokens[0])}")
    if len(ids) > len(positions):
        raise ValueError(f"{len(ids)} characters in a row, but these weights have {len(positions)} positions")
    if not all(0 <= i < len(tokens) for i in ids):
        raise ValueError(f"ids {list(ids)}; each from 0 to {len(tokens) - 1} is expected")
    xs = [plus(tokens[i], positions[t]) for t, i in enumerate(ids)]  # the residual stream: T vectors of C numbers
    n_layer = sum(name.endswith("ln1.weight") for name in weights)
    for layer in range(n_layer):
        xs = block(weights, f"blocks.{layer}.", xs, n_head)
    return [linear(normalise(weights, "ln_f.", x), tokens) for x in xs]  # the token table again, as the head


def cross_entropy(rows: Sequence[Sequence[N]], targets: Sequence[int]) -> N:
    """Mean over positions of -log softmax(row)[target], in nats."""
    losses = [total([x.exp() for x in row]).log() + row[target] * -1 for row, target in zip(rows, targets, strict=True)]
    return total(losses) * (1 / len(losses))


def block(weights: Mapping[str, Any], name: str, xs: list[list[Any]], n_head: int) -> list[list[Any]]:
    """Attention, then feed-forward; each reads a normalised copy of the stream and adds to the stream itself."""
    attended = self_attention(weights, name + "sa.", [normalise(weights, name + "ln1.", x) for x in xs], n_head)
    xs = [plus(x, y) for x, y in zip(xs, attended, strict=True)]
    return [plus(x, feed_forward(weights, name + "ffwd.", normalise(weights, name + "ln2.", x))) for x in xs]


def self_attention(weights: Mapping[str, Any], name: str, xs: list[list[Any]], n_head: int) -> list[list[Any]]:
    """Each position gathers values from itself and the positions before it, once per head."""
    C = len(xs[0])
    D = C // n_head
    qkvs = [affine(weights, name + "qkv.", x) for x in xs]  # of each position 3 C numbers: query, key, value
    gathered: list[list[Any]] = [[] for _ in xs]
    for start in range(0, C, D):
        for t in range(len(xs)):
            query = qkvs[t][start : start + D]
            keys = [qkv[C + start : C + start + D] for qkv in qkvs[: t + 1]]
            values = [qkv[2 * C + start : 2 * C + start + D] for qkv in qkvs[: t + 1]]
            shares = softmax([dot(query, key) * D**-0.5 for key in keys])
            gathered[t] += [dot(shares, column) for column in zip(*values, strict=True)]
    return [affine(weights, name + "proj.", y) for y in gathered]


def feed_forward(weights: Mapping[str, Any], name: str, x: list[Any]) -> list[Any]:
    """Widen four times, bend, narrow again."""
    return affine(weights, name + "narrow.", [gelu(h) for h in affine(weights, name + "widen.", x)])


def normalise(weights: Mapping[str, Any], name: str, x: list[Any]) -> list[Any]:
    """LayerNorm (Ba, Kiros and Hinton 2016): mean 0 and variance 1, then a scale and a shift that are learned."""
    C = len(x)
    minus_mean = total(x) * (-1 / C)
    centred = [a + minus_mean for a in x]
    one_over_std = (dot(centred, centred) * (1 / C) + 1e-5) ** -0.5
    gains, biases = weights[name + "weight"], weights[name + "bias"]
    return [a * one_over_std * gain + bias for a, gain, bias in zip(centred, gains, biases, strict=True)]


def affine(weights: Mapping[str, Any], name: str, x: list[Any]) -> list[Any]:
    """A linear layer with bias: as many numbers as its matrix has rows."""
    return plus(linear(x, weights[name + "weight"]), weights[name + "bias"])


def linear(x: Sequence[N], rows: Sequence[Sequence[N]]) -> list[N]:
    """The dot product of `x` with each row."""
    return [dot(x, row) for row in rows]


def softmax(scores: Sequence[N]) -> list[N]:
    """Positive shares that add up to 1."""
    exponentials = [score.exp() for score in scores]
    one_over_sum = total(exponentials) ** -1
    return [e * one_over_sum for e in exponentials]


def gelu(x: N) -> N:
    """The Gaussian error linear unit in the tanh form of GPT-2 (Hendrycks and Gimpel 2016)."""
    return x * 0.5 * (((x + x**3 * 0.044715) * math.sqrt(2 / math.pi)).tanh() + 1)


def dot(a: Sequence[N], b: Sequence[N]) -> N:
    """a[0] b[0] + a[1] b[1] + …"""
    return total([x * y for x, y in zip(a, b, strict=True)])


def plus(a: Sequence[N], b: Sequence[N]) -> list[N]:
    """Two vectors, number by number."""
    return [x + y for x, y in zip(a, b, strict=True)]


def total(xs: Sequence[N]) -> N:
    """The sum of at least one number."""
    return reduce(add, xs)


def _lifted(nested: Any, number: Callable[[float], N]) -> Any:
    return [_lifted(part, number) for part in nested] if isinstance(nested, list) else number(nested)
