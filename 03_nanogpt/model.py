"""NonaGPT: a decoder-only transformer in GPT-2's details, small enough to read in one sitting.

Radford et al. 2019, section 2.3. Renaming its weights is all that stage 04's GPT needs (`gpt2_weights`). Legend of the shapes:
B batch, T time (characters in a row), C channels = n_embd, H heads = n_head, D head size = C // H, V vocab_size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import attend_fused, join_heads, split_heads
from .tokenizer import VOCAB_SIZE


@dataclass(frozen=True)
class NonaGPTConfig:
    """Shape of a NonaGPT. Raises ValueError if the numbers do not fit together."""

    block_size: Annotated[int, "context length: the most characters that are seen at once"] = 64
    vocab_size: int = VOCAB_SIZE
    n_layer: Annotated[int, "blocks (attention and feed-forward) one after the other"] = 4
    n_head: Annotated[int, "attention heads in a block; must divide n_embd"] = 4
    n_embd: Annotated[int, "width: numbers that describe one character"] = 96
    dropout: Annotated[float, "share of activations dropped while training"] = 0.0

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; a whole number of at least 1 is expected")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; a share of at least 0 and below 1 is expected")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_head {self.n_head} does not divide n_embd {self.n_embd}; each head takes an equal part of the width, "
                f"so give an n_embd such as {math.ceil(self.n_embd / self.n_head) * self.n_head}"
            )


class SelfAttention(nn.Module):
    """Each position gathers what the positions before it, and it itself, have to offer; in several heads at once."""

    def __init__(self, config: NonaGPTConfig):
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.weights_dropout = config.dropout
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        q, k, v = self.queries_keys_values(x)
        y = attend_fused(q, k, v, self.weights_dropout if self.training else 0.0)  # (B, H, T, D)
        return self.dropout(self.proj(join_heads(y)))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> three times (B, H, T, D)"""
        q, k, v = (split_heads(part, self.n_head) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v


class FeedForward(nn.Module):
    """Each position works on what it has gathered, on its own: widen four times, bend, narrow again."""

    def __init__(self, config: NonaGPTConfig):
        super().__init__()
        self.widen = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.gelu = nn.GELU(approximate="tanh")  # the form GPT-2 was trained with
        self.narrow = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return self.dropout(self.narrow(self.gelu(self.widen(x))))


class Block(nn.Module):
    """Attention, then feed-forward; each reads a normalised copy of the residual stream and adds to the stream itself."""

    def __init__(self, config: NonaGPTConfig):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.sa = SelfAttention(config)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.ffwd = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class NonaGPT(nn.Module):
    """Characters in, a score for each character that could come next out."""

    def __init__(self, config: NonaGPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding_table = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding_table = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding_table.weight  # one matrix reads characters in and scores them
        self._initialise()

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) for the character after each position and, given `targets`, their mean cross-entropy in nats.

        idx (B, T) ids; targets (B, T), the ids that do come next. Raises ValueError if T is above block_size.
        """
        T = idx.shape[1]
        if self.config.block_size < T:
            raise ValueError(f"{T} characters in a row, but this model has {self.config.block_size} positions")
        tokens = self.token_embedding_table(idx)  # (B, T, C)
        positions = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T, C)
        x = self.dropout(tokens + positions)  # (B, T, C), the residual stream
        x = self.blocks(x)  # (B, T, C)
        logits = self.lm_head(self.ln_f(x))  # (B, T, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Go on from idx (B, T), T at least 1, character by character -> (B, T + max_new_tokens).

        Each is drawn from the `top_k` likeliest and those as likely as the last of them (all, if None), logits divided by
        `temperature` (0 takes the likeliest); of the text before it the model sees the last block_size characters. Raises
        ValueError for numbers that cannot work.
        """
        if idx.dim() != 2 or idx.shape[1] < 1:
            raise ValueError(f"ids of shape {tuple(idx.shape)}; (B, T) with at least one character to go on from is expected")
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; at least 0 is expected")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; a number of at least 0 is expected")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; at least 1 is expected")
        was_training = self.training
        self.eval()
        try:
            for _ in range(max_new_tokens):
                logits = self(idx[:, -self.config.block_size :])[0][:, -1]  # (B, V), those of the last position
                idx = torch.cat([idx, choose(logits, temperature, top_k, generator)], dim=1)
        finally:
            self.train(was_training)
        return idx

    @property
    def n_params(self) -> int:
        """Trainable numbers, the tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    def _initialise(self) -> None:
        """Weights with standard deviation 0.02, biases 0. The layers that add to the residual stream start smaller, because
        2 * n_layer of them add up (GPT-2, section 2.3), and position embeddings at 0.01 (OpenAI's gpt-2, src/model.py)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                adds_to_stream = name.endswith(("sa.proj", "ffwd.narrow"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.config.n_layer) if adds_to_stream else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding_table.weight, std=0.02)  # and with it the tied head's
        nn.init.normal_(self.position_embedding_table.weight, std=0.01)


def choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One id per row of `logits` (B, V), drawn as `NonaGPT.generate` says -> (B, 1)"""
    if temperature < torch.finfo(logits.dtype).tiny:  # 0, or what would be rounded to it
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # at most 0: no temperature overflows
    return torch.multinomial(F.softmax(logits, dim=-1), 1, generator=generator)


GPT2_NAMES = {
    **{"token_embedding_table": "wte", "position_embedding_table": "wpe", "blocks": "h", "ln1": "ln_1", "ln2": "ln_2"},
    **{"sa": "attn", "qkv": "c_attn", "proj": "c_proj", "ffwd": "mlp", "widen": "c_fc", "narrow": "c_proj"},
}


def gpt2_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A NonaGPT's state dict under GPT-2's names, the tensors untouched, as stage 04's GPT loads it.

    blocks.0.sa.qkv.weight becomes transformer.h.0.attn.c_attn.weight.
    """
    renamed = {".".join(GPT2_NAMES.get(part, part) for part in name.split(".")): tensor for name, tensor in weights.items()}
    return {name if name.startswith("lm_head") else f"transformer.{name}": tensor for name, tensor in renamed.items()}
