"""The schedule at every boundary, which parameters decay, and updates that are PyTorch's."""

import math
from copy import deepcopy
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


def a_pair():
    """The same small model twice, and the gradients of both set to the same numbers at each call."""
    gpt, twin = model.GPT(RUN.model), model.GPT(RUN.model)
    twin.load_state_dict(gpt.state_dict())

    def new_gradients():
        for a, b in zip(gpt.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn_like(a) * torch.rand(())
            b.grad = a.grad.clone()

    return gpt, twin, new_gradients


def assert_same_updates(gpt, twin, new_gradients, ours, oracle):
    """After four updates with four rates the weights are the same."""
    for lr in (1e-3, 2e-3, 3e-3, 4e-3):
        new_gradients()
        for optimizer in (ours, oracle):
            optim.set_lr(optimizer, lr)
            optimizer.step()
    for a, b in zip(gpt.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_updates_equal_unfused_adamw_with_the_same_settings():
    gpt, twin, new_gradients = a_pair()
    ours = optim.make_optimizer(gpt, RUN)
    groups = optim.parameter_groups(twin, 0.1)
    oracle = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    assert_same_updates(gpt, twin, new_gradients, ours, oracle)


def is_matrix_of_a_block(name, parameter):
    return name.startswith("transformer.h.") and parameter.dim() == 2


def test_muon_takes_the_blocks_matrices_and_leaves_the_rest_as_it_was():
    gpt = model.GPT(RUN.model)
    names = {p: name for name, p in gpt.named_parameters()}
    *rest, joint, others = optim.muon_groups(gpt, 0.1, split_qkv=True)
    assert [group["weight_decay"] for group in (*rest, joint, others)] == [0.1, 0.0, 0.1, 0.1]
    assert {names[p] for p in joint["params"]} == {name for name in names.values() if name.endswith("c_attn.weight")}
    matrices = {name for name, p in gpt.named_parameters() if is_matrix_of_a_block(name, p)}
    assert {names[p] for group in (joint, others) for p in group["params"]} == matrices
    assert sum(len(group["params"]) for group in (*rest, joint, others)) == len(names)
    assert (joint["matrices"], others["matrices"]) == (3, 1)
    assert optim.muon_groups(gpt, 0.1, split_qkv=False)[2]["matrices"] == 1


def test_adamw_by_hand_is_torchs():
    gpt, twin, new_gradients = a_pair()
    ours = optim.Muon(optim.parameter_groups(gpt, 0.1), lr=1.0, betas=(0.8, 0.95))
    oracle = torch.optim.AdamW(optim.parameter_groups(twin, 0.1), lr=1.0, betas=(0.8, 0.95), eps=1e-8)
    assert_same_updates(gpt, twin, new_gradients, ours, oracle)


def test_muon_is_torchs_within_the_precision_of_bfloat16_and_adamw_for_the_rest():
    gpt, twin, new_gradients = a_pair()
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    ours = optim.make_optimizer(gpt, replace(RUN, optimizer="muon", lr=0.01, min_lr=0.001))
    matrices = {p for name, p in twin.named_parameters() if is_matrix_of_a_block(name, p)}
    rest = [
        {**group, "params": [p for p in group["params"] if p not in matrices]} for group in optim.parameter_groups(twin, 0.1)
    ]
    ordered = [p for p in twin.parameters() if p in matrices]
    oracles = (
        torch.optim.Muon(ordered, lr=0.01, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), eps=1e-8),
    )
    for lr in (0.01, 0.02, 0.005, 0.01):
        new_gradients()
        for optimizer in (ours, *oracles):
            optim.set_lr(optimizer, lr)
            optimizer.step()
    for (name, a), b in zip(gpt.named_parameters(), twin.named_parameters(), strict=True):
        far = (a - b[1]).norm() / (a - before[name]).norm()
        assert far < (0.03 if is_matrix_of_a_block(name, a) else 1e-5), f"{name}: {far}"
        assert not is_matrix_of_a_block(name, a) or far > 1e-4  # theirs is rounded to bfloat16, ours is not


@pytest.mark.parametrize("shape", [(48, 48), (96, 32), (32, 96), (3, 40, 40)])
def test_an_orthogonal_update_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrices = torch.randn(shape)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = torch.linspace(1, 0.05, s.shape[-1]).expand_as(s)
    made = optim.orthogonalise(u @ torch.diag_embed(s) @ v * 1000)
    bent = u.mT @ made @ v.mT  # diagonal, if the vectors are still the same
    values = torch.diagonal(bent, dim1=-2, dim2=-1)
    torch.testing.assert_close(bent, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert values.min() > 0.68 and values.max() < 1.21


def test_five_rounds_bring_each_value_near_one_and_zero_stays():
    x = torch.linspace(0.003, 1, 10_000, dtype=torch.float64)
    a, b, c = optim.NEWTON_SCHULZ
    for _ in range(5):
        x = a * x + b * x**3 + c * x**5
    assert x.min() > 0.68 and x.max() < 1.21
    assert torch.equal(optim.orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_split_queries_keys_and_values_are_updated_each_by_itself():
    gpt = model.GPT(RUN.model)
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    run = replace(RUN, optimizer="muon", split_qkv=True, lr=0.01, min_lr=0.001, weight_decay=0.0)
    optimizer = optim.make_optimizer(gpt, run)
    for parameter in gpt.parameters():
        parameter.grad = torch.randn_like(parameter)
    gpt.transformer.h[0].attn.c_attn.weight.grad[:32] *= 1e6  # the queries' part does not drown the others
    optimizer.step()
    for name, parameter in gpt.named_parameters():
        if is_matrix_of_a_block(name, parameter):
            update = (before[name] - parameter.detach()).view(3 if "c_attn" in name else 1, -1, parameter.shape[1]) / 0.01
            expected = 0.2 * max(update.shape[1:]) ** 0.5
            values = torch.linalg.svdvals(update) / expected
            assert values.max() < 1.21 and values.median() > 0.68, name


def test_muons_memory_is_kept_and_given_back():
    gpt, twin, new_gradients = a_pair()
    run = replace(RUN, optimizer="muon", lr=0.01, min_lr=0.001)
    first, second = optim.make_optimizer(gpt, run), optim.make_optimizer(twin, run)
    new_gradients()
    first.step()
    twin.load_state_dict(gpt.state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))  # which is otherwise shared
    new_gradients()
    first.step()
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(gpt.parameters(), twin.parameters(), strict=True))


def test_a_closure_is_called_and_parameters_without_a_gradient_stay():
    weight, other = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))
    optimizer = optim.Muon([{"params": [weight], "matrices": 1}, {"params": [other]}], lr=0.1)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (weight != 1).all() and (other == 1).all()
