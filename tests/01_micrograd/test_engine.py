"""Every gradient against PyTorch in float64 and against finite differences, and what a graph may not do: recurse or leak."""

import gc
import math
import operator
import random
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

engine = import_module("01_micrograd.engine")
Value, dot = engine.Value, engine.dot

UNARY = ["exp", "log", "tanh", "sigmoid", "relu", "neg"]
BINARY = ["add", "sub", "mul", "truediv", "pow"]


def apply(name, *operands):
    """One operation, on values or on tensors; `neg` and the binary ones are Python's operators."""
    return getattr(operator, name)(*operands) if name in ("neg", *BINARY) else getattr(operands[0], name)()


def random_steps(rng, n_nodes, numbers):
    """Operations that can be done one after the other, beginning from `numbers`.

    Only such as do not magnify rounding errors, by more than twice each: else two right answers may differ.
    """
    values, steps = [Value(x) for x in numbers], []
    while len(steps) < n_nodes:
        constant = rng.choice([-2.0, -1.0, 0.5, 2.0, 3.0, rng.uniform(-3, 3)])
        kind = rng.choice(["values", "values", "number right", "number left"])
        step = (rng.choice(UNARY + BINARY * 2), rng.randrange(len(values)), rng.randrange(len(values)), constant, kind)
        try:
            result = take(step, values)
        except (ValueError, ZeroDivisionError, OverflowError):
            continue  # outside the operation's domain
        slopes = (result.slope_first, result.slope_second)
        magnified = sum(abs(slope * parent.data) for slope, parent in zip(slopes, result.parents, strict=False))
        shut = step[0] == "relu" and result.data == 0
        if shut or (0.05 < abs(result.data) < 20 and magnified <= 2 * abs(result.data)):
            steps.append(step)
            values.append(result)
    return steps


def take(step, values):
    name, i, j, number, kind = step
    if name in UNARY:
        return apply(name, values[i])
    if kind == "values":
        return apply(name, values[i], values[j])
    return apply(name, values[i], number) if kind == "number right" else apply(name, number, values[i])


def build(steps, leaves):
    """All results of the steps, taken from `leaves`, each squared and added up: every node matters, and nothing cancels."""
    values = list(leaves)
    for step in steps:
        values.append(take(step, values))
    return sum((value * value for value in values[1:]), values[0] * values[0])


@settings(max_examples=1000)
@given(st.integers(0, 2**63), st.integers(5, 200))
def test_every_gradient_equals_pytorchs(seed, n_nodes):
    rng = random.Random(seed)
    numbers = [rng.choice([-1, 1]) * rng.uniform(0.1, 2) for _ in range(4)]
    ours = [Value(x) for x in numbers]
    steps = random_steps(rng, n_nodes, numbers)
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    result, expected = build(steps, ours), build(steps, theirs)
    result.backward()
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad == pytest.approx(other.grad.item(), rel=1e-12, abs=1e-12 * added_up(result, mine))


def added_up(root, leaf):
    """The sum of the absolute values of what was added up to a gradient: rounding errors are relative to it."""
    graph, todo = {root}, [root]
    while todo:
        for parent in todo.pop().parents:
            if parent not in graph:
                graph.add(parent)
                todo.append(parent)
    sums = dict.fromkeys(graph, 0.0)
    sums[root] = 1.0
    for value in sorted(graph, key=lambda v: v.born, reverse=True):
        if value.first is not None:
            sums[value.first] += abs(value.slope_first) * sums[value]
        if value.second is not None:
            sums[value.second] += abs(value.slope_second) * sums[value]
    return sums.get(leaf, 0.0)


@given(st.integers(0, 2**63), st.integers(5, 40))
def test_gradients_equal_central_differences(seed, n_nodes):
    """To what their error allows: the step's square and the rounding of the two results, over graphs of modest size."""
    rng = random.Random(seed)
    numbers = [rng.uniform(0.5, 2) for _ in range(3)]
    steps, leaves = random_steps(rng, n_nodes, numbers), [Value(x) for x in numbers]
    build(steps, leaves).backward()
    for k, leaf in enumerate(leaves):
        estimates = []
        for h in (2e-5, 1e-5):
            up, down = (build(steps, [Value(x + d * (i == k)) for i, x in enumerate(numbers)]).data for d in (h, -h))
            estimates.append((up - down) / (2 * h))
        error = (
            2 * abs(estimates[0] - estimates[1]) + 1e-9 * up
        )  # of the step, which is its square; of rounding: up * 1e-16 / h
        assert abs(leaf.grad - estimates[1]) <= error


def test_the_classic_example():
    """a = -4, b = 2 through additions, products, powers and relu; figures by PyTorch."""

    def f(a, b):
        c = a + b
        d = a * b + b**3
        c = c + c + 1
        c = c + 1 + c + (-a)
        d = d + d * 2 + (b + a).relu()
        d = d + 3 * d + (b - a).relu()
        e = c - d
        g = e**2 / 2.0
        return g + 10.0 / e**2

    ours = Value(-4.0), Value(2.0)
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-4.0, 2.0)]
    f(*ours).backward()
    f(*theirs).backward()
    assert [v.grad for v in ours] == pytest.approx([t.grad.item() for t in theirs], rel=1e-14)


def test_a_second_backward_adds_to_the_leaves_only():
    """PyTorch with a retained graph says 24, then 48; inner nodes that keep their gradient would make it 72."""
    x = Value(2.0)
    y = x * x
    z = y * 3 * x * 1.0 - y * 3
    expected = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    t = expected * expected
    u = t * 3 * expected * 1.0 - t * 3
    for _ in range(2):
        z.backward()
        u.backward(retain_graph=True)
        assert x.grad == expected.grad.item()
    assert x.grad == 48.0
    x.backward()
    assert x.grad == 49.0  # a leaf depends on itself


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), max_size=20),
    st.floats(-3, 3),
    st.sampled_from(["tanh", "relu", "exp"]),
)
def test_dot_is_the_sum_of_products_and_bias(terms, b, activation):
    w, x = (torch.tensor([term[i] for term in terms], dtype=torch.float64, requires_grad=True) for i in (0, 1))
    bias = torch.tensor(b, dtype=torch.float64, requires_grad=True)
    weights, inputs, my_bias = [Value(t[0]) for t in terms], [Value(t[1]) for t in terms], Value(b)
    result = dot(weights, inputs, my_bias)
    expected = w @ x + bias
    assert result.data == pytest.approx(expected.item(), abs=1e-12)
    assume(abs(result.data) > 1e-9)  # on the edge of relu rounding decides
    getattr(result, activation)().backward()
    getattr(expected, activation)().backward()
    gradients = [*w.grad.tolist(), *x.grad.tolist(), bias.grad.item()]
    assert [v.grad for v in (*weights, *inputs, my_bias)] == pytest.approx(gradients, rel=1e-12, abs=1e-12)


def test_a_second_backward_through_dots_adds_to_the_leaves_only():
    x, one, zero = Value(2.0), Value(1.0), Value(0.0)
    inner = dot([x], [x], zero)
    outer = dot([inner], [Value(6.0)], zero) * one
    for expected in (24.0, 48.0):
        outer.backward()
        assert x.grad == expected


def test_what_has_parents_is_a_result_whatever_it_is_called():
    x = Value(2.0)
    y = Value(4.0, "", x, 3.0)
    for expected in (15.0, 30.0):
        (y * 5).backward()
        assert x.grad == expected
    named = Value(3.0, "w")
    for expected in (2.0, 4.0):
        (named * 2).backward()
        assert named.grad == expected


@pytest.mark.parametrize(("a", "b"), [(1e-200, -1.0), (-1e-200, -1.0), (-1e-110, -2.0), (1e-309, 0.0), (2.0, 0.0)])
def test_slopes_too_large_for_a_float_are_infinite_as_in_pytorch(a, b):
    ours, theirs = Value(a), torch.tensor(a, dtype=torch.float64, requires_grad=True)
    (ours**b).backward()
    (theirs**b).backward()
    assert ours.grad == theirs.grad.item()


def test_a_value_used_twice_in_a_dot_gets_both_shares():
    a = Value(3.0)
    dot([a, a], [a, Value(2.0)], a).backward()
    assert a.grad == 2 * 3.0 + 2.0 + 1.0


def test_a_million_operations_neither_recurse_nor_leave_anything_behind():
    """Freed by reference counting alone, when the last name is gone: there are no cycles for the collector to find."""
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        x = Value(1.0)
        y = x
        for _ in range(1_000_000):
            y = y + x * 0.0
        y.backward()
        assert x.grad == 1.0 and len(gc.get_objects()) > before + 1_900_000
        del y
        assert len(gc.get_objects()) < before + 100
    finally:
        gc.enable()


def test_numpys_numbers_work_on_both_sides():
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
        for three in (np.float64(3), np.float32(3), np.int64(3)):
            for left, right in ((Value(2.0), three), (three, Value(2.0))):
                [x] = [v for v in (left, right) if isinstance(v, Value)]
                t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
                result, expected = operation(left, right), operation(t, 3.0) if x is left else operation(3.0, t)
                result.backward()
                expected.backward()
                assert (result.data, x.grad) == pytest.approx((expected.item(), t.grad.item()))


def test_what_is_no_number_is_refused_by_python():
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
            operation(Value(1.0), "2")
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply|not all arguments|concatenate"):
            operation([1], Value(2.0))


@pytest.mark.parametrize(
    ("compute", "kind", "message"),
    [
        (lambda: Value(-2).log(), ValueError, r"log of -2\.0: only numbers above 0"),
        (lambda: Value(0).log(), ValueError, r"log of 0\.0"),
        (lambda: Value(1) / Value(0), ZeroDivisionError, r"1\.0 / 0\.0: division by zero"),
        (lambda: Value(1) / 0, ZeroDivisionError, r"1\.0 / 0: division by zero"),
        (lambda: 1 / Value(0), ZeroDivisionError, r"1 / 0\.0: division by zero"),
        (lambda: Value(0) ** -1, ZeroDivisionError, r"0\.0 \*\* -1: zero has no negative powers"),
        (lambda: 0.0 ** Value(-1), ZeroDivisionError, r"0\.0 \*\* -1\.0"),
        (lambda: Value(-2) ** 0.5, ValueError, r"\(-2\.0\) \*\* 0\.5: a negative number has whole powers only"),
        (lambda: Value(-2) ** Value(2), ValueError, r"\(-2\.0\) \*\* Value\(2\.0\): .* has no derivative"),
        (lambda: Value(1000).exp(), OverflowError, r"exp of 1000\.0: the result is too large"),
        (lambda: Value(1e200) ** 2, OverflowError, r"1e\+200 \*\* 2: the result is too large"),
        (lambda: dot([Value(1)], [Value(1), Value(2)], Value(0)), ValueError, "1 weights cannot be multiplied with 2 inputs"),
        (lambda: dot([Value(1)], [2.0], Value(0)), TypeError, "dot takes values only"),
        (lambda: dot([Value(1)], [np.float64(2)], Value(0)), TypeError, "dot takes values only"),
        (lambda: dot([Value(1)], [Value(2)], 0.0), TypeError, "dot takes values only"),
    ],
)
def test_operations_outside_their_domain_name_themselves_and_the_value(compute, kind, message):
    with pytest.raises(kind, match=message):
        compute()


def test_extreme_numbers_go_through_the_squashing_functions():
    for x in (-1e4, -745.2, 745.2, 1e4):
        squashed = Value(x).sigmoid()
        assert squashed.data == torch.tensor(x, dtype=torch.float64).sigmoid().item() and math.isfinite(squashed.slope_first)
        assert Value(x).tanh().data == math.copysign(1, x)


def test_powers_at_zero_have_pytorchs_derivatives():
    for exponent in (0.0, 0.5, 1.0, 2.0):
        base, power = Value(0.0), Value(exponent)
        (base**power).backward()
        tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.0, exponent)]
        (tensors[0] ** tensors[1]).backward()
        assert power.grad == tensors[1].grad.item() or exponent == 0
        assert base.grad == tensors[0].grad.item()


def test_a_value_shows_its_number_and_gradient():
    assert repr(Value(1 / 3)) == "Value(data=0.333333, grad=0)"
