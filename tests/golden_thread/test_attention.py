"""Attention by loops = by matrices = fused; and no token sees the future, in NonaGPT and in GPT-2."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

attention = import_module("03_nanogpt.attention")
nanogpt = import_module("03_nanogpt.model")
gpt2 = import_module("04_gpt2.model")
gpt2_config = import_module("04_gpt2.config")

SHAPE = {"block_size": 12, "vocab_size": 50, "n_layer": 3, "n_head": 4, "n_embd": 16}


@pytest.mark.parametrize("form", [attention.attend_by_loop, attention.attend, attention.attend_fused])
def test_attention_by_loops_by_matrices_and_fused_are_pytorchs(form):
    for _ in range(10):
        B, T, D = (int(n) for n in torch.randint(1, 20, (3,)))
        q, k, v = (torch.randn(B, T, D, dtype=torch.float64, requires_grad=True) for _ in range(3))
        mask = torch.ones(T, T, dtype=torch.bool).tril()
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        got, direction = form(q, k, v), torch.randn(B, T, D, dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        gradients = (torch.autograd.grad((y * direction).sum(), (q, k, v)) for y in (got, expected))
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def logits(net, ids):
    """NonaGPT returns them with a loss, or None for it; GPT-2 one of the two."""
    returned = net(ids)
    return returned[0] if isinstance(returned, tuple) else returned


@pytest.mark.parametrize(
    "make",
    [lambda: nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**SHAPE)), lambda: gpt2.GPT(gpt2_config.GPTConfig(**SHAPE))],
    ids=["NonaGPT", "GPT-2"],
)
def test_a_token_changes_no_logit_before_it_and_those_from_it_on(make):
    net = make().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for T in (1, 5, 12):
        ids = torch.randint(50, (2, T))
        before = logits(net, ids)
        for t in range(T):
            changed = ids.clone()
            changed[:, t] = (changed[:, t] + torch.randint(1, 50, (2,))) % 50
            after = logits(net, changed)
            assert torch.equal(after[:, :t], before[:, :t])
            assert (after[:, t:] != before[:, t:]).any(dim=-1).all()
