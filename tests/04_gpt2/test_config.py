"""Configurations: what does not fit together is refused, and which preset is chosen."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shared.cli import UsageError

config = import_module("04_gpt2.config")
model = import_module("04_gpt2.model")
DEBUG = config.PRESETS["debug"]


@pytest.mark.parametrize(
    ("name", "n_params"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_the_four_published_sizes_have_the_published_parameters(name, n_params):
    assert replace(config.PRESETS[name].model, vocab_size=50257).n_params == n_params


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_preset_survives_json(name):
    preset = config.PRESETS[name]
    assert preset.preset == name and preset.run == f"runs/{name}"
    values = json.loads(json.dumps(preset.to_json()))
    assert config.TrainConfig(**{**values, "model": config.GPTConfig(**values["model"])}) == preset


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_gpt2_presets_take_half_a_million_tokens_a_step_and_ten_billion_in_all(name):
    preset = config.PRESETS[name]
    assert preset.accumulation_steps * preset.batch_size * 1024 == 524_288
    assert 9.99e9 < preset.steps * preset.tokens_per_step < 10.01e9


def test_debug_takes_four_micro_batches_a_step():
    assert DEBUG.accumulation_steps == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 5}, r"n_head 5 does not divide n_embd 32; .* choose one of \[1, 2, 4, 8, 16, 32\] heads"),
        ({"n_layer": 0}, "n_layer is 0; a whole number of at least 1 is expected"),
        ({"n_layer": 2.0}, r"n_layer is 2\.0; a whole number of at least 1 is expected"),
        ({"dropout": 1.0}, r"dropout is 1\.0; a share of at least 0 and below 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DEBUG.model, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_step": 500}, "tokens_per_step 500 is not a multiple of a micro-batch of 4 x 32 = 128.*: 512$"),
        ({"tokens_per_step": 1}, "the nearest that is: 128$"),
        ({"warmup_steps": 21}, "warmup_steps 21 is not within the run's 20 steps; a tenth of them is usual: 2$"),
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"lr": 0.0}, r"lr is 0\.0; a number above 0"),
        ({"lr": float("nan")}, "lr is nan; a number above 0"),
        ({"lr": float("inf")}, "lr is inf; a number above 0"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"seed": 2**63}, "seed is 9223372036854775808; at least 0 and below"),
        ({"min_lr": 1.0}, r"min_lr is 1\.0; between 0 and lr"),
        ({"beta2": 1.0}, r"beta2 is 1\.0; at least 0 and below 1"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; a number of at least 0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm is 0\.0; a number above 0"),
        ({"seed": -1}, "seed is -1; at least 0"),
        ({"keep": 0}, "keep is 0; at least 1"),
        ({"resume": True, "overwrite": True}, "resume cannot be given with --overwrite"),
    ],
)
def test_runs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DEBUG, **changes)


def test_the_preset_follows_the_machine_unless_one_is_asked_for(tmp_path):
    def chosen(asked=None, data_given=False, has_cuda=True):
        return config.choose_preset(asked, data_given, has_cuda, tmp_path)

    assert chosen(has_cuda=False) == ("shakespeare", "this run has no CUDA device")
    assert chosen() == ("shakespeare", f"there is a CUDA device, but no prepared data in {tmp_path}")
    (tmp_path / "manifest.json").touch()
    assert chosen() == ("gpt2", f"there is a CUDA device and prepared data in {tmp_path}")
    assert chosen(has_cuda=False)[0] == chosen(data_given=True)[0] == "shakespeare"
    assert chosen("debug") == ("debug", "asked for")
    with pytest.raises(UsageError, match="--preset big is not one of shakespeare, debug, gpt2"):
        chosen("big")


def test_the_operations_of_a_token_are_those_that_pytorch_counts():
    """In forward and backward, by PyTorch's own counter; it counts all pairs of tokens, those of the future too, as we do."""
    shape = config.GPTConfig(block_size=32, vocab_size=101, n_layer=2, n_head=2, n_embd=16)
    gpt, idx = model.GPT(shape), torch.randint(101, (3, 33))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        F.cross_entropy(gpt(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten()).backward()
    products = 6 * sum(p.numel() for p in gpt.parameters() if p.dim() == 2) - 6 * 32 * 16  # but for the positions
    attention = 12 * 2 * 16 * 32
    assert counter.get_total_flops() == 3 * 32 * (products + attention)
    few = sum(p.numel() for p in gpt.parameters() if p.dim() == 1)  # biases and LayerNorms, which are added
    assert shape.flops_per_token == products + attention + 6 * few
    assert config.GPTConfig().flops_per_token == 855_166_464
