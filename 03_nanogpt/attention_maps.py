"""What each head of each layer looks at while the model reads a text, as numbers and as a picture."""

from typing import Any

import torch
from matplotlib import rc_context
from torch import Tensor

from shared.plotting import STYLE, Picture

from .attention import attention_weights
from .model import NonaGPT, SelfAttention


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
    letters = [{" ": "␣", "\n": "¶"}.get(character, character) for character in text]
    small = max(3, min(8, 165 / T))  # points, so that T letters fit
    style: dict[Any, Any] = {**STYLE, "axes.grid": False, "xtick.labelsize": small, "ytick.labelsize": small}
    style |= {"xtick.major.size": 0, "ytick.major.size": 0}
    with rc_context(style):
        figure = Picture(figsize=(2.8 * n_head, 2.8 * n_layer + 0.5), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        panels = figure.subplots(n_layer, n_head, squeeze=False, sharex=True, sharey=True)
        for layer, row in enumerate(panels):
            for head, axes in enumerate(row):
                axes.imshow(maps[layer, head].cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
                axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        for axes in panels[:, 0]:
            axes.set_yticks(range(T), letters)
            axes.set_ylabel("reader", fontsize=9)
        for axes in panels[-1]:
            axes.set_xticks(range(T), letters)
            axes.set_xlabel("what it reads", fontsize=9)
    return figure
