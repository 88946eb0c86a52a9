"""Attention by blocks: numbers and gradients of PyTorch's attention and of the table of all scores, in less memory."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

flash = import_module("04_gpt2.flash_attention")
measure = import_module("04_gpt2.measure")


def explicit(q, k, v):
    T = q.shape[-2]
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    return scores.softmax(dim=-1) @ v


def output_and_gradients(attention, inputs, grad):
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = attention(*inputs)
    y.backward(grad)
    return [y.detach(), *(x.grad for x in inputs)]


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 45), st.floats(0.1, 30))
def test_output_and_gradients_are_those_of_the_table_of_all_scores(H, T, D, block, spread):
    inputs = [torch.randn(2, H, T, D, dtype=torch.float64) * scale for scale in (spread, 1, 1)]
    grad = torch.randn(2, H, T, D, dtype=torch.float64)
    ours = output_and_gradients(lambda q, k, v: flash.flash_attention(q, k, v, block), inputs, grad)
    theirs = output_and_gradients(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), inputs, grad)
    for a, b, c in zip(ours, theirs, output_and_gradients(explicit, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(a, c, atol=1e-10, rtol=1e-8)


def test_scores_that_would_overflow_do_not():
    """Rising from block to block by more than exp can hold, and falling."""
    for direction in (1, -1):
        q = torch.ones(1, 1, 20, 1)
        k = torch.linspace(0, direction * 2000, 20).view(1, 1, 20, 1)
        v = torch.randn(1, 1, 20, 1)
        expected = explicit(q, k, v)
        assert expected.isfinite().all()
        torch.testing.assert_close(flash.flash_attention(q, k, v, 4), expected)


def attend(T, block):
    q, k, v = (torch.randn(1, 4, T, 16, requires_grad=True) for _ in range(3))
    flash.flash_attention(q, k, v, block).sum().backward()


@pytest.mark.skipif(not measure.PROCESS.exists(), reason="only Linux tells a process's peak memory so simply")
def test_the_table_of_all_scores_is_not_held():
    """At 2,048 tokens and four heads it would be 67 MB; a single block as large as that holds it more than once."""
    assert measure.alone(attend, 2048, 128).megabytes < 60
    assert measure.alone(attend, 2048, 2048).megabytes > 134
