"""Keys and values of what a model has read, so that each new token is read once and nothing is read again.

A token's keys and values depend only on the tokens before it, so they stay as they are while the text grows. Legend of the
shapes: B texts, T new tokens of each, S tokens of the longest text with them, H heads, D head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GPTConfig


class KVCache:
    """Room for the keys and values of `batch_size` texts of up to block_size tokens each, taken once and filled on the way.

    lengths     tokens read of each text; texts may differ, each begins at position 0
    layers      one `LayerCache` for each block of the model

    `Transformer.forward(idx, cache)` reads the next T tokens of every text. Where fewer are real, pad on the right and set
    `lengths` to the real ones afterwards: what lies beyond a text's length is never seen, and later overwritten.
    """

    def __init__(self, config: GPTConfig, batch_size: int, device: torch.device, dtype: torch.dtype = torch.float32):
        shape = (2, batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.block_size, self.device = config.block_size, device
        self.lengths = [0] * batch_size
        self.layers = [LayerCache(torch.zeros(shape, device=device, dtype=dtype)) for _ in range(config.n_layer)]

    def extend(self, T: int) -> Tensor:
        """Make place for T more tokens of each text -> their positions (B, T). Raises ValueError if there is no room."""
        longest, end = max(self.lengths), max(self.lengths) + T
        if end > self.block_size:
            raise ValueError(f"{longest} tokens were read and {T} are to come, but this model has {self.block_size} positions")
        positions = torch.tensor(self.lengths, device=self.device)[:, None] + torch.arange(T, device=self.device)  # (B, T)
        even = len(set(self.lengths)) == 1
        rows = torch.arange(len(self.lengths), device=self.device)[:, None]
        visible = torch.arange(end, device=self.device) <= positions[:, None, :, None]  # (B, 1, T, S)
        for layer in self.layers:
            layer.end = end
            layer.place = (slice(None), slice(longest, end)) if even else (rows, positions)
            layer.mask = None if even and (T == 1 or longest == 0) else visible
        self.lengths = [length + T for length in self.lengths]
        return positions

    def clear(self) -> None:
        """Forget all texts."""
        self.lengths = [0] * len(self.lengths)


class LayerCache:
    """One block's part of the cache: `memory` is (2, B, H, block_size, D), keys and values. `KVCache.extend` sets the rest."""

    end: int
    place: tuple[slice | Tensor, slice | Tensor]
    mask: Tensor | None

    def __init__(self, memory: Tensor):
        self.keys, self.values = memory

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep the new tokens' keys and values; their queries attend to all tokens up to their own. All (B, H, T, D)"""
        for memory, new in ((self.keys, k), (self.values, v)):
            memory.transpose(1, 2)[self.place] = new.transpose(1, 2)  # (B, block_size, H, D) and (B, T, H, D)
        T = q.shape[2]
        if self.end == T:  # nothing was read before
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        keys, values = self.keys[:, :, : self.end], self.values[:, :, : self.end]  # (B, H, S, D)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask)
