"""A GPT as a diagram, drawn from its config: every step, the module that does it, its weights, the shape on each arrow.

Stages 03 and 04 build the same network under different names, so the names are an argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from .plotting import BLUE, GREEN, GREY, ORANGE, STYLE, Picture


class GPTShape(Protocol):
    """The numbers of a config that the diagram needs."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def n_layer(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def dropout(self) -> float: ...


@dataclass(frozen=True)
class GPTNames:
    """What a stage calls the parts of its GPT; those of a block as they are called within it."""

    model: str
    token_table: str
    position_table: str
    blocks: str
    ln_1: str
    attention: str
    qkv: str
    attention_proj: str
    ln_2: str
    mlp: str
    widen: str
    narrow: str
    ln_f: str
    head: str


NONAGPT = GPTNames(
    model="NonaGPT", token_table="token_embedding_table", position_table="position_embedding_table", blocks="blocks",
    ln_1="ln1", attention="sa", qkv="qkv", attention_proj="proj",
    ln_2="ln2", mlp="ffwd", widen="widen", narrow="narrow",
    ln_f="ln_f", head="lm_head",
)  # fmt: skip
GPT2 = GPTNames(
    model="GPT-2", token_table="transformer.wte", position_table="transformer.wpe", blocks="transformer.h",
    ln_1="ln_1", attention="attn", qkv="c_attn", attention_proj="c_proj",
    ln_2="ln_2", mlp="mlp", widen="c_fc", narrow="c_proj",
    ln_f="transformer.ln_f", head="lm_head",
)  # fmt: skip

Shape = tuple[str | int, ...]  # "B" and "T" are the batch and the time, which the config leaves open


@dataclass(frozen=True)
class Step:
    """A box of the diagram: what is done, the shape that leaves it, how many weights it has, the module that does it.

    `module` is the name in `named_modules()`, of a block's parts that in the first block; "" if no module does it.
    """

    text: str
    shape: Shape
    n_params: int = 0
    module: str = ""
    inside: bool = False  # another column shows what is in it


@dataclass(frozen=True)
class GPTSteps:
    """The four columns: the whole model from ids to logits, one block, its attention, its feed-forward layer."""

    model: list[Step]
    block: list[Step]
    attention: list[Step]
    mlp: list[Step]


def gpt_steps(config: GPTShape, names: GPTNames) -> GPTSteps:
    """Each step of a GPT of this shape, in the order in which it is taken."""
    V, C, H = config.vocab_size, config.n_embd, config.n_head
    D = C // H
    stream: Shape = ("B", "T", C)
    heads: Shape = ("B", H, "T", D)
    scores: Shape = ("B", H, "T", "T")
    block = f"{names.blocks}.0"
    attention, mlp = f"{block}.{names.attention}", f"{block}.{names.mlp}"
    in_attention = 4 * C * C + 4 * C
    in_mlp = 8 * C * C + 5 * C
    return GPTSteps(
        model=[
            Step("embed tokens", stream, V * C, names.token_table),
            Step("embed positions", ("T", C), config.block_size * C, names.position_table),
            Step("add", stream),
            Step(
                f"{config.n_layer} blocks", stream, config.n_layer * (in_attention + in_mlp + 4 * C), names.blocks, inside=True
            ),
            Step("LayerNorm", stream, 2 * C, names.ln_f),
            Step("head: the token table again", ("B", "T", V), 0, names.head),
        ],
        block=[
            Step("LayerNorm", stream, 2 * C, f"{block}.{names.ln_1}"),
            Step("attention", stream, in_attention, attention, inside=True),
            Step("add", stream),
            Step("LayerNorm", stream, 2 * C, f"{block}.{names.ln_2}"),
            Step("feed-forward", stream, in_mlp, mlp, inside=True),
            Step("add", stream),
        ],
        attention=[
            Step("queries, keys, values", ("B", "T", 3 * C), 3 * C * C + 3 * C, f"{attention}.{names.qkv}"),
            Step("split into three, and into heads", heads),
            Step("Q Kᵀ / √D", scores),
            Step("hide the future, softmax", scores),
            Step("times V", heads),
            Step("join the heads", stream),
            Step("project", stream, C * C + C, f"{attention}.{names.attention_proj}"),
        ],
        mlp=[
            Step("widen", ("B", "T", 4 * C), 4 * C * C + 4 * C, f"{mlp}.{names.widen}"),
            Step("GELU", ("B", "T", 4 * C)),
            Step("narrow", stream, 4 * C * C + C, f"{mlp}.{names.narrow}"),
        ],
    )


def draw_gpt(config: GPTShape, names: GPTNames) -> Picture:
    """The whole model, and beside it what is inside a block, its attention and its feed-forward layer."""
    steps = gpt_steps(config, names)
    style: dict[Any, Any] = STYLE
    with rc_context(style):
        figure = Picture(figsize=(14, 9.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlim=(-2.6, 15.6), ylim=(-10.9, 0.75), aspect="equal")
        axes.set_axis_off()
        total = sum(step.n_params for step in steps.model)
        D = config.n_embd // config.n_head
        axes.set_title(
            f"{names.model} with {total:,} weights, reading B texts of T ≤ {config.block_size} tokens side by side; "
            f"C = {config.n_embd} channels, H = {config.n_head} heads of D = {D}",
            fontsize=13,
        )
        _draw_model(axes, 0.0, steps.model)
        _draw_block(axes, 4.7, steps.block, f"one of the {config.n_layer} blocks")
        _draw_chain(axes, 9.4, steps.attention, "inside attention", steps.block[0].shape)
        _draw_values(axes, 9.4, steps.attention)
        _draw_chain(axes, 13.7, steps.mlp, "inside feed-forward", steps.block[3].shape)
        axes.text(
            13.7 - WIDTH / 2,
            -4.5 * PITCH,
            LEGEND + (DROPOUT if config.dropout else ""),
            ha="left",
            va="top",
            fontsize=9.5,
            linespacing=1.5,
        )
    return figure


PITCH = 1.4  # from one row of boxes to the next
WIDTH, HEIGHT = 3.1, 0.88
LEGEND = """Blue: has weights; their number is in the box.
Green: has weights; another column shows
what is inside.
White: nothing to learn.
Orange: the residual stream."""
DROPOUT = """

While training, dropout follows the sum of
the embeddings, the softmax, and each layer
that adds to the stream."""


def _draw_model(axes: Axes, x: float, steps: Sequence[Step]) -> None:
    tokens, positions, add, *rest = steps
    left, right, half = x - 1.25, x + 1.25, 2.35
    _heading(axes, x, "the model")
    for place, step, into, shape in (
        (left, tokens, "ids", ("B", "T")),
        (right, positions, "0 to T − 1", ("T",)),
    ):
        axes.text(place, 0, into, ha="center", va="center")
        _arrow(axes, place, -0.2, -PITCH + HEIGHT / 2, shape)
        _box(axes, place, -PITCH, step, half)
    y = -2 * PITCH
    for place, step, side in ((left, tokens, -1), (right, positions, 1)):
        _line(axes, [(place, -PITCH - HEIGHT / 2), (place, y), (x + side * 0.17, y)], GREY)
        axes.text(place + side * 0.12, y - 0.06, shape_text(step.shape), ha="center", va="top", fontsize=8.5, color=GREY)
    _plus(axes, x, y)
    shape = add.shape
    for row, step in enumerate(rest, start=3):
        top = y - 0.17 if row == 3 else -(row - 1) * PITCH - HEIGHT / 2
        _arrow(axes, x, top, -row * PITCH + HEIGHT / 2, shape, ORANGE if row < 5 else GREY)
        _box(axes, x, -row * PITCH, step)
        shape = step.shape
    bottom = -(len(rest) + 2) * PITCH
    _arrow(axes, x, bottom - HEIGHT / 2, bottom - PITCH + 0.25, shape)
    axes.text(x, bottom - PITCH, "logits: a score for each next token", ha="center", va="center")


def _draw_block(axes: Axes, x: float, steps: Sequence[Step], title: str) -> None:
    _heading(axes, x, title)
    y, shape = 0.0, steps[0].shape
    for half in (steps[:3], steps[3:]):
        norm, layer, add = half
        _line(axes, [(x, y - 0.3), (x + 1.85, y - 0.3), (x + 1.85, y - 3 * PITCH), (x + 0.17, y - 3 * PITCH)], ORANGE, 2.2)
        _line(axes, [(x, y + (0.25 if y == 0 else -0.17)), (x, y - 0.3)], ORANGE, 2.2, head=False)
        _arrow(axes, x, y - 0.3, y - PITCH + HEIGHT / 2, shape)
        _box(axes, x, y - PITCH, norm)
        _arrow(axes, x, y - PITCH - HEIGHT / 2, y - 2 * PITCH + HEIGHT / 2, norm.shape)
        _box(axes, x, y - 2 * PITCH, layer)
        _arrow(axes, x, y - 2 * PITCH - HEIGHT / 2, y - 3 * PITCH + 0.17, layer.shape)
        y, shape = y - 3 * PITCH, add.shape
        _plus(axes, x, y)
    _arrow(axes, x, y - 0.17, y - 0.9, shape, ORANGE)


def _draw_chain(axes: Axes, x: float, steps: Sequence[Step], title: str, shape: Shape) -> None:
    _heading(axes, x, title)
    y = 0.25
    for row, step in enumerate(steps, start=1):
        _arrow(axes, x, y, -row * PITCH + HEIGHT / 2, shape)
        _box(axes, x, -row * PITCH, step)
        y, shape = -row * PITCH - HEIGHT / 2, step.shape
    _arrow(axes, x, y, y - 0.55, shape)


def _draw_values(axes: Axes, x: float, steps: Sequence[Step]) -> None:
    """V goes past the scores: from the box that splits, the second one, to the box that multiplies with it, the fifth."""
    split, times = -2 * PITCH, -5 * PITCH
    edge, lane = x + WIDTH / 2, x + WIDTH / 2 + 0.4
    _line(axes, [(edge, split), (lane, split), (lane, times), (edge, times)], GREY)
    axes.text(lane + 0.1, (split + times) / 2, "V", ha="left", va="center", fontsize=8.5, color=GREY)
    axes.text(x - 0.12, (split + -3 * PITCH) / 2, "Q, K", ha="right", va="center", fontsize=8.5, color=GREY)


def shape_text(shape: Shape) -> str:
    """("B", "T", 128) as it stands on an arrow: (B, T, 128)"""
    return f"({', '.join(map(str, shape))})"


def _heading(axes: Axes, x: float, text: str) -> None:
    axes.text(x, 0.6, text, ha="center", va="center", fontsize=12, weight="bold")


def _box(axes: Axes, x: float, y: float, step: Step, width: float = WIDTH) -> None:
    """White where there is nothing to learn, blue where there are weights, green where another column shows more."""
    colour = GREEN if step.inside else BLUE if step.n_params else GREY
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - HEIGHT / 2),
            width,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=colour + ("22" if step.n_params else "00"),
            edgecolor=colour,
            linewidth=1.4,
        )
    )
    lines = [step.text, step.module.rpartition(".")[2], f"{step.n_params:,}" if step.n_params else ""]
    lines = [line for line in lines if line]
    for row, line in enumerate(lines):
        style: dict[str, Any] = {"fontsize": 8, "family": "monospace"} if row else {"fontsize": 10}
        axes.text(x, y + 0.12 * (len(lines) - 1) - 0.25 * row, line, ha="center", va="center", **style)


def _arrow(axes: Axes, x: float, top: float, bottom: float, shape: Shape, colour: str = GREY) -> None:
    _line(axes, [(x, top), (x, bottom)], colour, 2.2 if colour == ORANGE else 1.2)
    axes.text(x + 0.12, (top + bottom) / 2, shape_text(shape), ha="left", va="center", fontsize=8.5, color=GREY)


def _line(axes: Axes, points: Sequence[tuple[float, float]], colour: str, width: float = 1.2, head: bool = True) -> None:
    """A line through the points, with an arrow's head at its end."""
    if len(points) > 2 or not head:
        last = -1 if head else None
        axes.plot(*zip(*points[:last], strict=True), color=colour, linewidth=width, solid_joinstyle="round")
    if head:
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=arrow)


def _plus(axes: Axes, x: float, y: float) -> None:
    axes.plot([x], [y], marker="o", markersize=15, color="white", markeredgecolor=ORANGE, markeredgewidth=2)
    axes.plot([x], [y], marker="+", markersize=9, color=ORANGE, markeredgewidth=2)
