"""Attention, written the ways in which notebook 2 derives it: from the mean of the past to the fused kernel. All are equal.

The model uses the last of them; the others show, and prove, what it computes.
Legend of the shapes: B batch, T time (tokens in a row), C channels, H heads, D head size = C // H.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def average_by_loop(x: Tensor) -> Tensor:
    """Each position becomes the mean of itself and the positions before it: (B, T, C) -> (B, T, C)"""
    return torch.stack([x[:, : t + 1].mean(dim=1) for t in range(x.shape[1])], dim=1)


def average_by_matrix(x: Tensor) -> Tensor:
    """The same as one product with a lower triangular matrix, whose row t holds 1 / (t + 1) up to column t."""
    past = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device).tril()  # (T, T)
    return past / past.sum(dim=1, keepdim=True) @ x


def average_by_softmax(x: Tensor) -> Tensor:
    """The same, the matrix being the softmax of equal scores of which those for the future are -inf."""
    scores = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
    return hide_future(scores).softmax(dim=-1) @ x


def hide_future(scores: Tensor) -> Tensor:
    """Scores (..., T, T) of queries (rows) for keys (columns), with -inf where the key comes after the query."""
    T = scores.shape[-1]
    future = torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(diagonal=1)
    return scores.masked_fill(future, float("-inf"))


def attend_by_loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, position by position: each weighs the values up to itself by how well their keys answer its query.

    Queries, keys, values, each (B, T, D) -> (B, T, D). Vaswani et al. 2017, section 3.2.1, with only the past in sight.
    """
    rows = []
    for t in range(q.shape[1]):
        scores = (k[:, : t + 1] * q[:, t : t + 1]).sum(dim=-1) / math.sqrt(q.shape[-1])  # (B, t + 1)
        weights = scores.softmax(dim=-1)
        rows.append((weights[:, :, None] * v[:, : t + 1]).sum(dim=1))  # (B, D)
    return torch.stack(rows, dim=1)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √D) over the past: (..., T, D) twice -> (..., T, T), whose rows add up to 1."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return hide_future(scores).softmax(dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in two matrix products, for any dimensions before the last two: (..., T, D) three times -> (..., T, D)"""
    return attention_weights(q, k) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """The same in PyTorch's kernel, which need not hold the T × T weights; `dropout` is a share of these."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Cut the channels into heads, and let heads stand beside the batch: (B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Put the heads side by side again: (B, H, T, D) -> (B, T, C)"""
    return x.transpose(1, 2).flatten(2)


def heads_by_loop(q: Tensor, k: Tensor, v: Tensor, n_head: int) -> Tensor:
    """Several heads, one after the other, each on its own channels: (B, T, C) three times -> (B, T, C)"""
    heads = zip(*(x.unflatten(-1, (n_head, -1)).unbind(dim=-2) for x in (q, k, v)), strict=True)
    return torch.cat([attend(*head) for head in heads], dim=-1)


def heads_at_once(q: Tensor, k: Tensor, v: Tensor, n_head: int) -> Tensor:
    """The same with all heads in one product."""
    return join_heads(attend(*(split_heads(x, n_head) for x in (q, k, v))))
