"""Attention without the table of all scores, by blocks: the idea behind flash attention, as plain PyTorch that can be read.

F.scaled_dot_product_attention, which the model calls, does the same within one kernel, where a block never leaves the chip's
fast memory. Here the blocks are tensors: what is saved is memory, not time. (Milakov and Gimelshein 2018; Dao et al. 2022)
Legend of the shapes: B batch, H heads, T time, D head size; t queries and s keys in a block.
"""

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 64


def flash_attention(q: Tensor, k: Tensor, v: Tensor, block: int = BLOCK) -> Tensor:
    """Causal attention, each (B, H, T, D) -> (B, H, T, D): what softmax(q @ k.mT / sqrt(D), without the future) @ v gives.

    Forward and backward need memory in proportion to T, not to its square.
    """
    return _FlashAttention.apply(q, k, v, block)  # type: ignore[no-any-return]


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
        y, log_sums = torch.empty_like(q), torch.empty_like(q[..., :1])
        for rows in _blocks(q, block):
            y[..., rows, :], log_sums[..., rows, :] = online_softmax(q[..., rows, :], k, v, rows.start, block)
        ctx.save_for_backward(q, k, v, y, log_sums)
        ctx.block = block
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The probabilities of each block are computed once more, from the sums that the forward pass has kept.

        With p = softmax(s) along a row and dp = grad @ v.T, the row's gradient is ds = p (dp - sum(p dp)); and sum(p dp) over
        all of a row is grad · y, which is at hand before any block is.
        """
        (q, k, v, y, log_sums), [grad] = ctx.saved_tensors, grad_outputs
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        means = (grad * y).sum(dim=-1, keepdim=True)  # (B, H, T, 1)
        scale = 1 / math.sqrt(q.shape[-1])
        for rows in _blocks(q, ctx.block):
            for columns in _blocks(k, ctx.block, rows.stop):
                scores = _scores(q[..., rows, :], k[..., columns, :], rows.start, columns.start)
                p = (scores - log_sums[..., rows, :]).exp()  # (B, H, t, s), as they were
                grad_v[..., columns, :] += p.mT @ grad[..., rows, :]
                grad_p = grad[..., rows, :] @ v[..., columns, :].mT
                grad_scores = p * (grad_p - means[..., rows, :]) * scale
                grad_q[..., rows, :] += grad_scores @ k[..., columns, :]
                grad_k[..., columns, :] += grad_scores.mT @ q[..., rows, :]
        return grad_q, grad_k, grad_v, None


def online_softmax(q: Tensor, k: Tensor, v: Tensor, first: int, block: int) -> tuple[Tensor, Tensor]:
    """What the queries (B, H, t, D) at positions `first`, first + 1, ... gather, and the logarithm of each one's sum of exp.

    Keys come block by block. Three things are kept for each query: the highest score so far, the sum of exp(score - highest),
    and the values weighted by the same; when a block brings a higher score, the latter two are scaled down to it.
    """
    highest = q.new_full((*q.shape[:-1], 1), -math.inf)  # (B, H, t, 1)
    sums, gathered = torch.zeros_like(highest), torch.zeros_like(q)
    for columns in _blocks(k, block, first + q.shape[-2]):
        scores = _scores(q, k[..., columns, :], first, columns.start)  # (B, H, t, s)
        higher = torch.maximum(highest, scores.amax(dim=-1, keepdim=True))
        weights, rescale = (scores - higher).exp(), (highest - higher).exp()
        sums = sums * rescale + weights.sum(dim=-1, keepdim=True)
        gathered = gathered * rescale + weights @ v[..., columns, :]
        highest = higher
    return gathered / sums, highest + sums.log()


def _scores(q: Tensor, k: Tensor, first_q: int, first_k: int) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    positions_q, positions_k = (torch.arange(x.shape[-2], device=q.device) for x in (q, k))
    return scores.masked_fill(first_k + positions_k > first_q + positions_q[:, None], -math.inf)


def _blocks(x: Tensor, block: int, end: int | None = None) -> list[slice]:
    """Slices of the positions of `x`, up to `end`."""
    end = x.shape[-2] if end is None else end
    return [slice(start, min(start + block, end)) for start in range(0, end, block)]
