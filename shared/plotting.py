"""One look for all pictures of the course: colours that colour-blind readers and greyscale keep apart, quiet axes."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# From Okabe and Ito's colour-blind safe palette; they also differ in greyscale.
BLUE, ORANGE = "#0072B2", "#E69F00"

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
}


def new_figure(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (7.5, 4.5)) -> tuple[Figure, Axes]:
    """An empty picture in the course's style; `title` states its message, the labels carry their units."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the picture as PNG."""
    with rc_context(STYLE):
        figure.savefig(path)
