"""The schedule at every boundary, and which parameters decay."""

import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch

config = import_module("04_gpt2.config")
model = import_module("04_gpt2.model")
optim = import_module("04_gpt2.optim")

RUN = replace(config.PRESETS["debug"], steps=1000, warmup_steps=100, lr=1.0, min_lr=0.1)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.01), (49, 0.5), (99, 1.0), (100, 1.0), (550, 0.55), (1000, 0.1), (1001, 0.1), (10**9, 0.1)],
)
def test_the_schedule_at_its_boundaries(step, lr):
    assert optim.cosine_with_warmup(step, RUN) == pytest.approx(lr, rel=1e-12)


def test_the_schedule_rises_then_falls_and_the_last_step_is_just_above_the_floor():
    rates = [optim.cosine_with_warmup(step, RUN) for step in range(1200)]
    assert rates[:101] == sorted(rates[:101]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert 0.1 < rates[999] < 0.1 + 1e-5


def test_the_schedule_without_warmup_and_with_nothing_else():
    assert optim.cosine_with_warmup(0, replace(RUN, warmup_steps=0)) == 1.0
    only = replace(RUN, warmup_steps=1000)
    assert optim.cosine_with_warmup(999, only) == 1.0 and optim.cosine_with_warmup(1000, only) == 0.1


def test_the_cosine_is_torchs():
    run = replace(RUN, warmup_steps=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000, eta_min=0.1)
    for step in range(1001):
        assert math.isclose(optim.cosine_with_warmup(step, run), oracle.get_last_lr()[0], rel_tol=1e-6)
        optimizer.step()
        oracle.step()


def test_matrices_decay_and_the_rest_does_not():
    gpt = model.GPT(RUN.model)
    decayed, kept = optim.parameter_groups(gpt, 0.1)
    names = {id(p): name for name, p in gpt.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)] for p in kept["params"]} == {n for n in names.values() if n.endswith("bias") or ".ln_" in n}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)  # the tied matrix once


def test_updates_equal_unfused_adamw_with_the_same_settings():
    gpt = model.GPT(RUN.model)
    twin = model.GPT(RUN.model)
    twin.load_state_dict(gpt.state_dict())
    ours = optim.make_optimizer(gpt, RUN)
    oracle = torch.optim.AdamW(optim.parameter_groups(twin, 0.1), lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for lr in (1e-3, 2e-3, 3e-3):
        for a, b in zip(gpt.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in (ours, oracle):
            optim.set_lr(optimizer, lr)
            optimizer.step()
    for a, b in zip(gpt.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
