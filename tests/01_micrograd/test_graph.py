"""Pictures of expressions: every value, every gradient and every local derivative is in them, and nothing covers a box."""

import random
from importlib import import_module
from itertools import pairwise

import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

engine = import_module("01_micrograd.engine")
graph = import_module("01_micrograd.graph")
Value = engine.Value


def random_expression(n: int, seed: int) -> "Value":
    """A value computed from 3 given numbers by about n operations, with shared values and long ways round."""
    rng = random.Random(seed)
    values = [Value(rng.uniform(-1, 1)) for _ in range(3)]
    for _ in range(n):
        a, b = rng.choice(values), rng.choice(values[-4:])
        values.append(rng.choice([lambda a=a, b=b: a + b, lambda a=a, b=b: a * b, lambda a=a: a.tanh()])())
    return sum(values, Value(0.0))


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def boxes(figure) -> list[tuple[float, float, float, float]]:
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    return [(p.get_x(), p.get_y(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in patches]


def points_on(arrow):
    """Points on an arrow's cubic Bézier curves, but for its ends, which touch their boxes; its head comes after them."""
    vertices, codes = arrow.get_path().vertices, arrow.get_path().codes.tolist()
    length = codes.index(Path.MOVETO, 1)
    assert codes[1:length] == [Path.CURVE4] * (length - 1)
    for i in range(0, length - 1, 3):
        a, b, c, d = vertices[i : i + 4]
        for t in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
            u = 1 - t
            yield u**3 * a + 3 * u**2 * t * b + 3 * u * t**2 * c + t**3 * d


def test_names_data_gradients_and_local_derivatives_are_shown():
    a, b = Value(2.0), Value(-3.5)
    product = a * b
    result = product.relu()
    result.backward()
    figure = graph.draw(result, a=a, b=b)
    rows = [text for text in texts(figure) if text not in ("", "data", "grad")]
    assert sorted(rows) == sorted(["a", "2", "0", "b", "-3.5", "0", "*", "-7", "0", "relu", "0", "1", "× -3.5", "× 2", "× 0"])


def test_a_value_used_twice_shows_both_shares_on_one_arrow():
    a = Value(3.0)
    figure = graph.draw(a * a)
    assert "× (3 + 3)" in texts(figure)
    assert sum(isinstance(patch, FancyArrowPatch) for patch in figure.axes[0].patches) == 1


@pytest.mark.parametrize("seed", range(8))
def test_boxes_keep_apart_and_inside_and_no_arrow_runs_through_one(seed):
    result = random_expression(20, seed)
    figure = graph.draw(result)
    axes, found = figure.axes[0], boxes(figure)
    assert len(found) == len(graph.values_of(result))
    for i, (left, bottom, right, top) in enumerate(found):
        assert left >= 0 and bottom >= 0 and right <= axes.get_xlim()[1] and top <= axes.get_ylim()[1]
        for other in found[i + 1 :]:
            assert right < other[0] or other[2] < left or top < other[1] or other[3] < bottom
    for patch in axes.patches:
        if isinstance(patch, FancyArrowPatch):
            for x, y in points_on(patch):
                assert not any(left < x < right and bottom < y < top for left, bottom, right, top in found)


def test_every_arrow_points_to_the_right():
    result = random_expression(30, seed=1)
    columns, paths = graph._columns(graph.values_of(result))
    place = {node: x for x, column in enumerate(columns) for node in column}
    assert {(parent, value) for parent, value in paths} == {(p, v) for v in graph.values_of(result) for p in v.parents}
    assert all(place[b] == place[a] + 1 for path in paths.values() for a, b in pairwise(path))


def test_the_picture_shows_itself_in_a_notebook_and_becomes_a_file(tmp_path):
    figure = graph.draw(Value(1.0) + 2)
    assert "+ 2" in texts(figure)
    figure.savefig(tmp_path / "sum.png")
    assert figure._repr_png_()[:8] == (tmp_path / "sum.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_chain_as_long_as_allowed_is_drawn_and_a_longer_one_is_refused():
    value = Value(1.0)
    for _ in range(graph.MOST_VALUES - 1):
        value = value * 1.01
    assert graph.draw(value)._repr_png_()
    with pytest.raises(ValueError, match=r"^the graph has 301 values, too many to read; draw a value made from at most 300$"):
        graph.draw(value.tanh())


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(TypeError, match=r"^3\.0 is not a Value, so there is no graph to draw$"):
        graph.draw(3.0)
    with pytest.raises(ValueError, match=r"^w is not in the graph of the value that is drawn; leave that name out$"):
        graph.draw(Value(1.0) + 2, w=Value(2.0))


def test_a_leaf_alone_and_a_wide_sum_are_drawn():
    assert len(boxes(graph.draw(Value(1.0)))) == 1
    wide = engine.dot([Value(i) for i in range(20)], [Value(1.0) for _ in range(20)], Value(0.0))
    assert len(boxes(graph.draw(wide))) == 42
