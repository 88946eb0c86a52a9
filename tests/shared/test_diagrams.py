"""The diagram of a GPT: every shape and number in it is that of the real model."""

import re
from importlib import import_module

import pytest
import torch

from shared import diagrams

nanogpt = import_module("03_nanogpt.model")
attention = import_module("03_nanogpt.attention")
gpt2_config = import_module("04_gpt2.config")
gpt2 = import_module("04_gpt2.model")

SHAPE = {"block_size": 10, "vocab_size": 21, "n_layer": 3, "n_head": 2, "n_embd": 8}
B, T = 5, 7
MODELS = {
    "NonaGPT": (lambda: nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**SHAPE)), diagrams.NONAGPT),
    "GPT-2": (lambda: gpt2.GPT(gpt2_config.GPTConfig(**SHAPE)), diagrams.GPT2),
}


def all_steps(config, names):
    steps = diagrams.gpt_steps(config, names)
    return [*steps.model, *steps.block, *steps.attention, *steps.mlp]


def concrete(shape):
    return tuple({"B": B, "T": T}.get(size, size) for size in shape)


@pytest.mark.parametrize("make, names", MODELS.values(), ids=MODELS)
def test_each_named_module_has_the_shape_and_the_weights_that_the_diagram_says(make, names):
    net, shapes = make(), {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: shapes.setdefault(name, output))
    net(torch.randint(21, (B, T)))
    modules = dict(net.named_modules())
    named = [step for step in all_steps(net.config, names) if step.module]
    assert len(named) == 13
    for step in named:
        if step.module == names.blocks:  # a list in one of the stages; its last block's output is its own
            assert tuple(shapes[f"{names.blocks}.2"].shape) == concrete(step.shape)
        else:
            assert tuple(shapes[step.module].shape) == concrete(step.shape), step
        if step.module != names.head:  # tied, so it has none of its own
            assert sum(p.numel() for p in modules[step.module].parameters()) == step.n_params, step


def test_dropout_is_spoken_of_where_there_is_some():
    for dropout in (0.0, 0.1):
        figure = diagrams.draw_gpt(nanogpt.NonaGPTConfig(**SHAPE, dropout=dropout), diagrams.NONAGPT)
        assert any("dropout" in text.get_text() for text in figure.get_axes()[0].texts) == (dropout > 0)


def test_each_column_is_in_the_order_of_computation():
    steps = diagrams.gpt_steps(nanogpt.NonaGPTConfig(**SHAPE), diagrams.NONAGPT)
    assert [step.text for step in steps.attention] == [
        "queries, keys, values",
        "split into three, and into heads",
        "Q Kᵀ / √D",
        "hide the future, softmax",
        "times V",
        "join the heads",
        "project",
    ]
    assert [step.text for step in steps.block] == ["LayerNorm", "attention", "add", "LayerNorm", "feed-forward", "add"]
    assert [step.text for step in steps.mlp] == ["widen", "GELU", "narrow"]


@pytest.mark.parametrize("make, names", MODELS.values(), ids=MODELS)
def test_the_models_column_counts_every_weight_once(make, names):
    net = make()
    steps = diagrams.gpt_steps(net.config, names)
    assert sum(step.n_params for step in steps.model) == sum(p.numel() for p in net.parameters())
    block = sum(step.n_params for step in steps.block)
    assert 3 * block == next(step.n_params for step in steps.model if step.inside)
    inside = {step.module.rpartition(".")[2]: step.n_params for step in steps.block}
    assert sum(step.n_params for step in steps.attention) == inside[names.attention]
    assert sum(step.n_params for step in steps.mlp) == inside[names.mlp]


def test_the_steps_without_a_module_have_the_shapes_of_explicit_attention():
    net = nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**SHAPE))
    q, k, v = net.blocks[0].sa.queries_keys_values(torch.randn(B, T, 8))
    scores, mixed = q @ k.mT, attention.attend(q, k, v)
    weights = attention.attention_weights(q, k)
    results = {"split": q, "Q K": scores, "hide": weights, "times V": mixed, "join": attention.join_heads(mixed)}
    steps = diagrams.gpt_steps(net.config, diagrams.NONAGPT).attention
    for begins, result in results.items():
        [step] = [step for step in steps if step.text.startswith(begins)]
        assert concrete(step.shape) == tuple(result.shape)


@pytest.mark.parametrize("make, names", MODELS.values(), ids=MODELS)
def test_the_picture_shows_every_step_every_shape_and_every_number(make, names):
    net = make()
    figure = diagrams.draw_gpt(net.config, names)
    [axes] = figure.get_axes()
    shown = [text.get_text() for text in axes.texts]
    for step in all_steps(net.config, names):
        assert shown.count(diagrams.shape_text(step.shape)) >= 1
        if step.text != "add":
            assert step.text in shown
        if step.module:
            assert step.module.rpartition(".")[2] in shown
        if step.n_params:
            assert f"{step.n_params:,}" in shown
    # an arrow's shape enters each column, and leaves each step but the two embeddings into one sum
    shapes = [text for text in shown if re.fullmatch(r"\((B, )?.*T.*\)", text)]
    assert len(shapes) == 2 + 6 + 6 + 8 + 4 + 1
    total = sum(p.numel() for p in net.parameters())
    assert axes.get_title(loc="left") == (
        f"{names.model} with {total:,} weights, reading B texts of T ≤ 10 tokens side by side; "
        f"C = 8 channels, H = 2 heads of D = 4"
    )
    assert "one of the 3 blocks" in shown and "V" in shown and "Q, K" in shown
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("preset", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_boxes_of_all_four_sizes_hold_their_text_and_keep_apart(preset):
    figure = diagrams.draw_gpt(gpt2_config.PRESETS[preset].model, diagrams.GPT2)
    [axes] = figure.get_axes()
    figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in axes.patches if hasattr(patch, "get_boxstyle")]
    boxes = [box for box in boxes if box.width > 50 and box.height > 20]
    assert len(boxes) == 19
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
    for text in axes.texts:
        extent = text.get_window_extent()
        centre = ((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)
        for box in boxes:
            if text.get_text() and box.contains(*centre):
                assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()
