"""A picture of how a value was computed: each value is a box, each arrow carries a local derivative.

It reads from left to right, as the computation ran; gradients flow back along the same arrows. For looking only: nothing else
in the stage needs this file.
"""

from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from shared.plotting import BLUE, GREY, ORANGE, STYLE, Picture

from .engine import Value

MOST_VALUES = 300
BOX_WIDTH, BOX_HEIGHT, COLUMN_WIDTH, ROW_HEIGHT = 1.12, 0.66, 1.9, 0.84  # inches
SWEEPS = 8
LIGHT_GREY = "#999999"

# A node is a value, or a place that an edge passes on its way through a column; a path is the nodes of one edge.
Node = Any
Paths = dict[tuple[Value, Value], list[Node]]


def draw(result: Value, /, **names: Value) -> Figure:
    """The graph of `result`, with every value's data and gradient, and every local derivative on its arrow.

    Values can be given names: `draw(area, width=w, height=h)`. Given numbers are blue, results grey, the last one orange. The
    picture shows itself in a notebook; `draw(area).savefig("area.png")` makes it a file. Raises ValueError beyond 300 values,
    which nobody could read, and for a name of a value that is not in the graph; about 40 values can be read.
    """
    if not hasattr(result, "parents"):
        raise TypeError(f"{result!r} is not a Value, so there is no graph to draw")
    values = values_of(result)
    if len(values) > MOST_VALUES:
        raise ValueError(
            f"the graph has {len(values):,} values, too many to read; draw a value made from at most {MOST_VALUES}"
        )
    if missing := [name for name, value in names.items() if value not in values]:
        raise ValueError(f"{missing[0]} is not in the graph of the value that is drawn; leave that name out")
    columns, paths = _columns(values)
    heights = _heights(columns, paths)
    low, high = min(heights.values()), max(heights.values())
    size = COLUMN_WIDTH * (len(columns) - 1) + BOX_WIDTH + 0.3, ROW_HEIGHT * (high - low + 1)
    centres = {
        node: (0.15 + BOX_WIDTH / 2 + COLUMN_WIDTH * x, ROW_HEIGHT * (high - heights[node] + 0.5))
        for x, column in enumerate(columns)
        for node in column
    }
    name_of = {value: name for name, value in names.items()}
    with rc_context(STYLE):
        figure = Picture(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
        axes.set_axis_off()
        for (parent, value), path in paths.items():
            slopes = [slope for p, slope in zip(value.parents, value.slopes, strict=True) if p is parent]
            _draw_arrow(axes, [centres[node] for node in path], slopes)
        for value in values:
            colour = ORANGE if value is result else LIGHT_GREY if value.parents else BLUE
            _draw_box(axes, centres[value], value, name_of.get(value, ""), colour)
    return figure


def values_of(result: Value) -> list[Value]:
    """`result` and everything that it was computed from, the youngest first."""
    known, values = {result}, [result]
    for value in values:  # which grows as it is walked
        new = [parent for parent in dict.fromkeys(value.parents) if parent not in known]
        known.update(new)
        values += new
    return sorted(values, key=lambda value: value.born, reverse=True)


def _columns(values: list[Value]) -> tuple[list[list[Node]], Paths]:
    """The nodes of each column, from the left; and each edge's path.

    A value stands one column left of the leftmost that it goes into. An edge that spans several columns gets a place of its
    own in those between, so that no box stands in its way.
    """
    steps_to_result = {values[0]: 0}
    for value in values:  # the youngest first: when a value comes up, its own place is final
        for parent in value.parents:
            steps_to_result[parent] = max(steps_to_result.get(parent, 0), steps_to_result[value] + 1)
    last = max(steps_to_result.values())
    columns: list[list[Node]] = [[] for _ in range(last + 1)]
    paths: Paths = {}
    for value in reversed(values):  # the oldest on top, as far as nothing speaks against it
        columns[last - steps_to_result[value]].append(value)
        for parent in dict.fromkeys(value.parents):
            passed = range(last - steps_to_result[parent] + 1, last - steps_to_result[value])
            paths[parent, value] = [parent, *((parent, value, x) for x in passed), value]
            for x in passed:
                columns[x].append((parent, value, x))
    return columns, paths


def _heights(columns: list[list[Node]], paths: Paths) -> dict[Node, float]:
    """How far down each node stands, such that neighbours are near each other and few edges cross.

    Column by column, to and fro, each node moves to the mean of its neighbours in the column before, and those of one column
    are then pushed apart to a distance of at least 1 (the barycentre method of Sugiyama, Tagawa and Toda 1981).
    """
    neighbours: dict[Node, tuple[list[Node], list[Node]]] = {node: ([], []) for column in columns for node in column}
    for path in paths.values():
        for a, b in pairwise(path):
            neighbours[a][1].append(b)
            neighbours[b][0].append(a)
    heights = {node: float(i) for column in columns for i, node in enumerate(column)}
    for sweep in range(SWEEPS):
        to_the_left = sweep % 2 == 0
        for column in reversed(columns) if to_the_left else columns:
            wanted = {}
            for node in column:
                near = neighbours[node][to_the_left] or [node]
                wanted[node] = sum(heights[n] for n in near) / len(near)
            column.sort(key=wanted.__getitem__)
            place = -float("inf")
            for node in column:
                place = heights[node] = max(wanted[node], place + 1)
            too_far = sum(heights[node] - wanted[node] for node in column) / len(column)
            for node in column:
                heights[node] -= too_far
    return heights


def _draw_arrow(axes: Axes, points: list[tuple[float, float]], slopes: list[float]) -> None:
    """An arrow through the points with its local derivative; a value that is used twice has two, which add up."""
    stops = [(x + side * BOX_WIDTH / 2, y) for x, y in points for side in (-1, 1)][1:-1]
    vertices, codes = [stops[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(stops):
        vertices += [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    axes.add_patch(
        FancyArrowPatch(path=Path(vertices, codes), arrowstyle="-|>", mutation_scale=11, color=LIGHT_GREY, zorder=1)
    )
    (x0, y0), (x1, y1) = stops[-2:]
    label = "× " + (f"{slopes[0]:.3g}" if len(slopes) == 1 else "(" + " + ".join(f"{slope:.3g}" for slope in slopes) + ")")
    white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    axes.text((x0 + x1) / 2, (y0 + y1) / 2, label, ha="center", va="center", fontsize=8.5, color=GREY, bbox=white, zorder=2)


def _draw_box(axes: Axes, centre: tuple[float, float], value: Value, name: str, colour: str) -> None:
    x, y = centre
    corner = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": "white", "edgecolor": colour, "linewidth": 1.8}
    axes.add_patch(FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, **style, zorder=3))
    rows = [(name, value.op or ("" if name else "leaf")), ("data", f"{value.data:.3g}"), ("grad", f"{value.grad:.3g}")]
    for i, (left, right) in enumerate(rows):
        weight = "normal" if i else "bold"
        for text, side, align in ((left, -1, "left"), (right, 1, "right")):
            place = x + side * (BOX_WIDTH / 2 - 0.07), y + 0.2 * (1 - i)
            axes.text(*place, text, ha=align, va="center", fontsize=9, fontweight=weight, zorder=4)
