"""A number that remembers how it was computed, and therefore how it depends on every number it was computed from.

This is the whole of reverse-mode automatic differentiation, what `loss.backward()` does in PyTorch, on single numbers instead
of tensors. The names are PyTorch's. First file of the stage; `nn.py` builds networks from it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter, mul

_births = count()
_age = attrgetter("born")


class Value:
    """A number in a graph of computations.

    data    the number
    grad    after `z.backward()`: how fast z changes with this number, dz/d(self)
    op      the operation that made it, empty for a number that was simply given
    born    its place in the order in which all values were made: a result is always younger than what it was made from

    A result remembers up to two values that it was made from, its parents, and with each its *local derivative*: how fast the
    result changes with that parent alone. The chain rule needs nothing else. Plain numbers on either side are constants: they
    take part in the arithmetic and are not in the graph.
    """

    __slots__ = ("born", "data", "first", "grad", "op", "second", "slope_first", "slope_second")

    def __init__(
        self,
        data: float,
        op: str = "",
        first: "Value | None" = None,
        slope_first: float = 0.0,
        second: "Value | None" = None,
        slope_second: float = 0.0,
    ):
        self.data = float(data)
        self.grad = 0.0
        self.op = op
        self.born = next(_births)
        self.first, self.slope_first = first, slope_first
        self.second, self.slope_second = second, slope_second

    def __repr__(self) -> str:
        return f"Value(data={self.data:.6g}, grad={self.grad:.6g})"

    @property
    def parents(self) -> "tuple[Value, ...]":
        """The values that this one was made from."""
        if self.second is not None:
            return self.first, self.second  # pyright: ignore[reportReturnType]
        return () if self.first is None else (self.first,)

    @property
    def slopes(self) -> tuple[float, ...]:
        """For each parent its local derivative, d(self)/d(parent)."""
        return (self.slope_first, self.slope_second)[: len(self.parents)]

    def __add__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            return Value(self.data + other.data, "+", self, 1.0, other, 1.0)
        if isinstance(other, (int, float)):
            return Value(self.data + other, f"+ {other:g}", self, 1.0)
        return NotImplemented

    def __mul__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            return Value(self.data * other.data, "*", self, other.data, other, self.data)
        if isinstance(other, (int, float)):
            return Value(self.data * other, f"* {other:g}", self, other)
        return NotImplemented

    def __sub__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            return Value(self.data - other.data, "-", self, 1.0, other, -1.0)
        if isinstance(other, (int, float)):
            return Value(self.data - other, f"- {other:g}", self, 1.0)
        return NotImplemented

    def __truediv__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            quotient = _divide(self.data, other.data)
            return Value(quotient, "/", self, 1 / other.data, other, -quotient / other.data)
        if isinstance(other, (int, float)):
            return Value(_divide(self.data, other), f"/ {other:g}", self, 1 / other)
        return NotImplemented

    def __pow__(self, other: "Value | float") -> "Value":
        if isinstance(other, Value):
            power = _power(self.data, other.data)
            slope_self, slope_other = _power_slope(self.data, other.data), _exponent_slope(self.data, other.data, power)
            return Value(power, "**", self, slope_self, other, slope_other)
        if isinstance(other, (int, float)):
            return Value(_power(self.data, other), f"** {other:g}", self, _power_slope(self.data, other))
        return NotImplemented

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Value":
        return Value(-self.data, "-", self, -1.0)

    def __rsub__(self, other: float) -> "Value":
        if isinstance(other, (int, float)):
            return Value(other - self.data, f"{other:g} -", self, -1.0)
        return NotImplemented

    def __rtruediv__(self, other: float) -> "Value":
        if isinstance(other, (int, float)):
            quotient = _divide(other, self.data)
            return Value(quotient, f"{other:g} /", self, -quotient / self.data)
        return NotImplemented

    def __rpow__(self, other: float) -> "Value":
        if isinstance(other, (int, float)):
            power = _power(other, self.data)
            return Value(power, f"{other:g} **", self, _exponent_slope(other, self.data, power))
        return NotImplemented

    def exp(self) -> "Value":
        """e to the power of the value. Raises OverflowError beyond about 709."""
        power = _or_overflow(math.exp, self.data, f"exp of {self.data}")
        return Value(power, "exp", self, power)

    def log(self) -> "Value":
        """Natural logarithm. Raises ValueError if the value is not above 0."""
        if self.data <= 0:
            raise ValueError(f"log of {self.data}: only numbers above 0 have a logarithm")
        return Value(math.log(self.data), "log", self, 1 / self.data)

    def tanh(self) -> "Value":
        """Hyperbolic tangent: squashes into -1 to 1."""
        t = math.tanh(self.data)
        return Value(t, "tanh", self, 1 - t * t)

    def sigmoid(self) -> "Value":
        """1 / (1 + exp(-x)): squashes into 0 to 1."""
        small = math.exp(-abs(self.data))  # at most 1, so nothing overflows
        s = 1 / (1 + small) if self.data >= 0 else small / (1 + small)
        return Value(s, "sigmoid", self, s * (1 - s))

    def relu(self) -> "Value":
        """The value where it is positive, else 0; its derivative at 0 is taken as 0, as in PyTorch."""
        return Value(0.0, "relu", self, 0.0) if self.data <= 0 else Value(self.data, "relu", self, 1.0)

    def backward(self) -> None:
        """Set the gradients of everything that this value was computed from.

        Gradients of given numbers (leaves) add up over several calls, as in PyTorch, until somebody sets them to 0; those of
        results are of the last call. Visits each value once, the youngest first: then every value that it went into has
        already passed its share on.
        """
        known: set[Value] = {self}
        to_visit: list[Value] = [self]
        results: list[Value] = []
        while to_visit:
            value = to_visit.pop()
            results.append(value)
            value._find_results(known, to_visit)
        self.grad = self.grad + 1.0 if self.first is None else 1.0
        results.sort(key=_age, reverse=True)
        for value in results:
            value._pass_on()

    def _find_results(self, known: "set[Value]", to_visit: "list[Value]") -> None:
        """Add the parents that are not known yet; those that are results themselves are still to be visited."""
        for parent in (self.first, self.second):
            if parent is not None and parent not in known:
                known.add(parent)
                if parent.first is not None:
                    parent.grad = 0.0
                    to_visit.append(parent)

    def _pass_on(self) -> None:
        """The chain rule: a parent's gradient grows by its local derivative times the gradient of the result."""
        if self.first is not None:
            self.first.grad += self.slope_first * self.grad
        if self.second is not None:
            self.second.grad += self.slope_second * self.grad


class _Dot(Value):
    """A result with any number of parents."""

    __slots__ = ("all_parents", "all_slopes")

    def __init__(self, data: float, parents: tuple[Value, ...], slopes: tuple[float, ...]):
        self.data = data
        self.grad = 0.0
        self.op = "dot"
        self.born = next(_births)
        self.first = parents[0]  # a result has one, a leaf has none
        self.all_parents = parents
        self.all_slopes = slopes

    @property
    def parents(self) -> tuple[Value, ...]:
        return self.all_parents

    @property
    def slopes(self) -> tuple[float, ...]:
        return self.all_slopes

    def _find_results(self, known: set[Value], to_visit: list[Value]) -> None:
        if not known.issuperset(self.all_parents):
            for parent in self.all_parents:
                if parent not in known:
                    known.add(parent)
                    if parent.first is not None:
                        parent.grad = 0.0
                        to_visit.append(parent)

    def _pass_on(self) -> None:
        grad = self.grad
        if grad:  # half of all neurons stand before a relu that is shut
            for parent, slope in zip(self.all_parents, self.all_slopes, strict=True):
                parent.grad += slope * grad


def dot(weights: Sequence[Value], inputs: Sequence[Value], bias: Value) -> Value:
    """weights[0] * inputs[0] + weights[1] * inputs[1] + … + bias as one node in place of 2n.

    A node may be as large as you like, as long as it knows its local derivatives; a tensor operation is such a node. Raises
    ValueError if there are not as many weights as inputs, TypeError if there are plain numbers among them.
    """
    if len(weights) != len(inputs):
        raise ValueError(f"{len(weights)} weights cannot be multiplied with {len(inputs)} inputs; as many are expected")
    try:
        ws, xs = [w.data for w in weights], [x.data for x in inputs]
        total = sum(map(mul, ws, xs), bias.data)
    except (AttributeError, TypeError):
        raise TypeError("dot takes values only; Value(x) makes one of a plain number") from None
    return _Dot(total, (bias, *weights, *inputs), (1.0, *xs, *ws))


def _divide(a: float, b: float) -> float:
    if b == 0:
        raise ZeroDivisionError(f"{a} / {b}: division by zero")
    return a / b


def _power(a: float, b: float) -> float:
    if a == 0 and b < 0:
        raise ZeroDivisionError(f"{a} ** {b}: zero has no negative powers")
    if a < 0 and not float(b).is_integer():
        raise ValueError(f"({a}) ** {b}: a negative number has whole powers only")
    return _or_overflow(lambda x: x**b, a, f"{a} ** {b}")


def _power_slope(a: float, b: float) -> float:
    """d(a ** b)/da"""
    if b == 0:
        return 0.0
    if a == 0 and b < 1:
        return math.inf
    try:
        return b * a ** (b - 1)
    except OverflowError:
        return math.inf * b * (1 if a > 0 or b % 2 else -1)


def _exponent_slope(a: float, b: float, power: float) -> float:
    """d(a ** b)/db, where `power` is a ** b"""
    if a < 0:
        raise ValueError(f"({a}) ** Value({b}): a negative number to a power that varies has no derivative")
    return power * math.log(a) if a > 0 else 0.0


def _or_overflow(f: Callable[[float], float], x: float, name: str) -> float:
    try:
        return f(x)
    except OverflowError:
        raise OverflowError(f"{name}: the result is too large for a float") from None
