"""One look for all pictures of the course: colours that colour-blind readers and greyscale keep apart, quiet axes."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# From Okabe and Ito's colour-blind safe palette; curves also differ by marker or line, for greyscale.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
GREY = "#555555"

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


class Picture(Figure):
    """A figure that a notebook shows when it is a cell's last line, with or without pyplot.

    Of its colours the 256 that matter most are kept, which nobody sees and which takes a third of the bytes.
    """

    def _repr_png_(self) -> bytes:
        full, small = BytesIO(), BytesIO()
        save_figure(self, full)
        Image.open(full).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
        return small.getvalue()


def new_figure(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (7.5, 4.5)) -> tuple[Picture, Axes]:
    """An empty picture in the course's style; `title` states its message, the labels carry their units."""
    with rc_context(STYLE):
        figure = Picture(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.set_axisbelow(True)
    return figure, axes


def new_panels(
    titles: Sequence[str], xlabel: str, ylabel: str, size: tuple[float, float] = (10, 3.4)
) -> tuple[Picture, list[Axes]]:
    """Pictures side by side with the same two axes, each with its own title."""
    with rc_context(STYLE):
        figure = Picture(figsize=size, layout="constrained")
        panels = list(figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0])
        for axes, title in zip(panels, titles, strict=True):
            axes.set(title=title, xlabel=xlabel)
            axes.set_axisbelow(True)
        panels[0].set_ylabel(ylabel)
    return figure, panels


def save_figure(figure: Figure, file: str | Path | BytesIO) -> None:
    """Write the picture as PNG, or as what the file's name ends with."""
    with rc_context(STYLE):
        figure.savefig(file)
