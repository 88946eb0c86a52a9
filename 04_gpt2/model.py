"""GPT-2 to the letter: the network and nothing else; tokens come in, logits and a loss go out.

Radford et al. 2019, section 2.3; tensor names are those of the published checkpoints. Legend of the shapes:
B batch, T time (tokens in a row), C channels = n_embd, H heads = n_head, D head size = C // H, V vocab_size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .cache import KVCache, LayerCache
from .config import GPTConfig
from .head import linear_cross_entropy

TIED = "lm_head.weight"  # in a state dict the same tensor as transformer.wte.weight: files hold it once


class CausalSelfAttention(nn.Module):
    """Each position gathers values from itself and the positions before it, once per head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C). With a `cache`, the T tokens follow those whose keys and values it holds."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        else:
            y = cache.attend(q, k, v)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    """Each position thinks on its own: widen four times, bend, narrow again."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.gelu = nn.GELU(approximate="tanh")  # the form GPT-2 was trained with
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the residual stream and adds to the stream itself."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Token and position embeddings, n_layer blocks on one residual stream, and a last LayerNorm."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids -> (B, T, C). With a `cache`, the ids go on the texts that it holds, and it holds them afterwards.

        Raises ValueError if there are more than block_size ids in a row.
        """
        T, block_size = idx.shape[1], self.wpe.num_embeddings
        if block_size < T:
            raise ValueError(f"{T} tokens in a row, but this model has {block_size} positions")
        positions = torch.arange(T, device=idx.device) if cache is None else cache.extend(T)
        x = self.drop(self.wte(idx) + self.wpe(positions))  # (B, T, C)
        for i, block in enumerate(self.h):
            x = block(x, None if cache is None else cache.layers[i])
        return self.ln_f(x)


class GPT(nn.Module):
    """The transformer, and its token table again as output head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie_head()
        self._initialise()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        dtype: torch.dtype = torch.float32,
        block_size: int | None = None,
        vocab_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> "GPT":
        """The published GPT-2 of that name ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), any other model of its
        architecture on Hugging Face's hub, or one in a local folder. Arguments and errors: `weights.from_pretrained`."""
        from .weights import from_pretrained  # which builds on this module

        return from_pretrained(name, dtype, block_size, vocab_size, device)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) for the token after each position or, given `targets`, the mean cross-entropy in nats.

        idx (B, T) token ids, T at most block_size; targets (B, T) ids, or -100 where nothing is to be predicted. For the
        loss the logits are never held all at once.
        """
        x = self.transformer(idx)  # (B, T, C)
        if targets is None:
            return self.lm_head(x)
        return linear_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())

    def tie_head(self) -> None:
        """Let one matrix read tokens in and score them."""
        self.lm_head.weight = self.transformer.wte.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def _initialise(self) -> None:
        """Weights with standard deviation 0.02, biases 0. The layers that add to the residual stream start smaller, because
        2 * n_layer of them add up (GPT-2, section 2.3), and position embeddings at 0.01 (OpenAI's gpt-2, src/model.py)."""
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=residual_std if name.endswith("c_proj") else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.transformer.wte.weight, std=0.02)  # and with it the tied head's
        nn.init.normal_(self.transformer.wpe.weight, std=0.01)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within this block nothing drops out; then the model is in the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
