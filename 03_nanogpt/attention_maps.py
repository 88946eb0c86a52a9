"""What each head of each layer looks at while the model reads a text, as numbers and as a picture.

Run it: python -m 03_nanogpt.attention_maps --text "First Citizen:"
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from matplotlib import rc_context
from torch import Tensor

from shared.cli import UsageError, command, parse
from shared.plotting import STYLE, Picture

from .attention import attention_weights
from .checkpoint import load
from .model import NonaGPT, SelfAttention
from .tokenizer import encode, report, to_ascii


@dataclass(frozen=True)
class MapsConfig:
    """What `python -m 03_nanogpt.attention_maps` does."""

    checkpoint: Annotated[str, "folder of a training run"] = "runs/nanogpt"
    text: Annotated[str, "what the model reads; about thirty characters are well seen"] = "First Citizen:\nBefore we pro"
    to: Annotated[str, "PNG file to write"] = "attention-maps.png"
    overwrite: Annotated[bool, "replace that file"] = False


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw what a trained model's heads read."""
    config = parse(
        MapsConfig(),
        argv,
        prog="python -m 03_nanogpt.attention_maps",
        description="Draw what each head of a model that 03_nanogpt.train has trained looks at while it reads a text.",
        examples=['python -m 03_nanogpt.attention_maps --text "To be, or not to be" --to maps.png'],
    )
    file = Path(config.to)
    if file.suffix != ".png" or not file.parent.is_dir():
        raise UsageError(f"--to {file} cannot be written; the name of a .png file in a folder that is there is expected")
    if file.exists() and not config.overwrite:
        raise UsageError(f"{file} is there already; name another file with --to, or give --overwrite")
    model = load(config.checkpoint)
    text, replaced = to_ascii(config.text)
    if replaced:
        print(f"note: in the text {report(replaced)}", file=sys.stderr)
    if not 1 <= len(text) <= model.config.block_size:
        raise UsageError(
            f"--text has {len(text)} characters; 1 to {model.config.block_size} are what the model can read at once"
        )
    maps = attention_maps(model, torch.tensor(encode(text)))
    file.write_bytes(draw_attention_maps(maps, text, "What each head reads")._repr_png_())
    print(f"{file} holds the maps")
    return 0


@torch.no_grad()
def attention_maps(model: NonaGPT, ids: Tensor) -> Tensor:
    """The weights with which each position reads each: ids (T,) -> (n_layer, H, T, T), rows add up to 1, the future has 0.

    They are computed the explicit way from what each attention layer receives; the model itself runs its fused kernel.
    """
    maps: list[Tensor] = []

    def keep(sa: SelfAttention, inputs: tuple[Tensor]) -> None:
        q, k, _ = sa.queries_keys_values(*inputs)  # each (1, H, T, D)
        maps.append(attention_weights(q, k)[0])

    layers = [module for module in model.modules() if isinstance(module, SelfAttention)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    was_training = model.training
    try:
        model.eval()(ids[None])
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)


def draw_attention_maps(maps: Tensor, text: str, title: str) -> Picture:
    """One map for each layer (row) and head (column): dark where the character on the left reads the one below.

    maps (n_layer, H, T, T) of the T characters of `text`.
    """
    n_layer, n_head, T, _ = maps.shape
    signs = {" ": "␣", "\n": "¶"}
    letters = [signs.get(character, character if character.isprintable() else "·") for character in text]
    side = max(2.8, 0.085 * T)  # inches
    small = min(8, 59 * side / T)  # points, so that T letters fit
    style: dict[Any, Any] = {**STYLE, "axes.grid": False, "xtick.labelsize": small, "ytick.labelsize": small}
    style |= {"xtick.major.size": 0, "ytick.major.size": 0}
    with rc_context(style):
        figure = Picture(figsize=(max(5, side * n_head + 0.7), side * n_layer + 0.5), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        panels = figure.subplots(n_layer, n_head, squeeze=False, sharex=True, sharey=True)
        for layer, row in enumerate(panels):
            for head, axes in enumerate(row):
                axes.imshow(maps[layer, head].cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
                axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        figure.colorbar(panels[0, 0].get_images()[0], ax=panels, shrink=0.5, aspect=30, pad=0.01).set_label(
            "share of the attention", fontsize=9
        )
        for axes in panels[:, 0]:
            axes.set_yticks(range(T), letters)
            axes.set_ylabel("reader", fontsize=9)
        for axes in panels[-1]:
            axes.set_xticks(range(T), letters)
            axes.set_xlabel("what it reads", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main())
