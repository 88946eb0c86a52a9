"""Every form of attention is the same attention, and it is PyTorch's."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

attention = import_module("03_nanogpt.attention")

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums of a few hundred terms


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same_forward_and_backward(ours, oracle, *inputs):
    """Both give the same result, and the same gradients for a random direction of it."""
    expected = oracle(*inputs)
    got = ours(*inputs)
    torch.testing.assert_close(got, expected, **EXACT)
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad((result * direction).sum(), inputs) for result in (got, expected)]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("average", ["average_by_loop", "average_by_matrix", "average_by_softmax"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 3), (3, 33, 5)])
def test_each_average_is_the_running_mean(average, shape):
    def running_mean(x):
        return x.cumsum(dim=1) / torch.arange(1, shape[1] + 1, dtype=x.dtype)[None, :, None]

    assert_same_forward_and_backward(getattr(attention, average), running_mean, random(*shape))


@pytest.mark.parametrize("form", ["attend_by_loop", "attend", "attend_fused"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 3), (3, 33, 16)])
def test_one_head_is_pytorchs_causal_attention(form, shape):
    def oracle(q, k, v):
        mask = torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    assert_same_forward_and_backward(getattr(attention, form), oracle, *(random(*shape) for _ in range(3)))


@pytest.mark.parametrize("form", ["heads_by_loop", "heads_at_once"])
@pytest.mark.parametrize("n_head", [1, 2, 4])
def test_heads_are_pytorchs_multihead_attention(form, n_head):
    B, T, C = 2, 9, 12
    layer = torch.nn.MultiheadAttention(C, n_head, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(layer.in_proj_bias)
    x = random(B, T, C)

    def oracle(x):
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        return layer(x, x, x, attn_mask=future, need_weights=False)[0]

    def ours(x):
        q, k, v = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
        return layer.out_proj(getattr(attention, form)(q, k, v, n_head))

    assert_same_forward_and_backward(ours, oracle, x)


def test_heads_that_do_not_divide_the_channels_are_refused():
    x = torch.randn(1, 3, 12)
    for form in (attention.heads_by_loop, attention.heads_at_once):
        with pytest.raises(RuntimeError):
            form(x, x, x, 5)


def test_weights_are_shares_of_the_past():
    weights = attention.attention_weights(random(2, 4, 10, 3), random(2, 4, 10, 3))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 10, dtype=torch.float64), **EXACT)
    assert (weights >= 0).all() and (weights.triu(1) == 0).all()


@pytest.mark.parametrize("form", ["attend_by_loop", "attend", "attend_fused"])
def test_the_future_leaves_no_trace(form):
    """Whatever comes at t and after it: the results before t have the same bits."""
    attend = getattr(attention, form)
    q, k, v = (torch.randn(1, 8, 4, dtype=torch.float64) for _ in range(3))
    before = attend(q, k, v)
    for t in range(1, 8):
        changed = [x.clone() for x in (q, k, v)]
        for x in changed:
            x[:, t:] = torch.randn(1, 8 - t, 4, dtype=torch.float64) * 100
        assert torch.equal(attend(*changed)[:, :t], before[:, :t])


def test_splitting_and_joining_heads_are_each_others_inverse():
    x = random(2, 5, 12)
    heads = attention.split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert torch.equal(heads[1, 2, 3], x[1, 3, 8:12])  # head 2 of position 3 has its channels 8 to 11
    assert torch.equal(attention.join_heads(heads), x)


def test_dropout_takes_a_share_of_the_weights_and_keeps_the_mean():
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 400, 1), torch.zeros(1, 400, 1), torch.ones(1, 400, 1)
    last = attention.attend_fused(q, k, v, 0.25)[0, 200:, 0]  # without dropout all 1
    assert not torch.equal(last, torch.ones(200)) and last.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(attention.attend_fused(q, k, v), attention.attend_fused(q, k, v))
