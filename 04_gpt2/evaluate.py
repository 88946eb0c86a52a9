"""How good a model is: loss on held-out tokens, bits per byte, real words in its samples, and the picture of its run."""

import json
import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from shared import ngrams
from shared.plotting import BLUE, ORANGE, new_figure, save_figure

from .bpe import BytePairTokenizer
from .loader import Tokens
from .model import GPT, evaluation_mode
from .token_data import split

METRICS, PICTURE = "metrics.jsonl", "loss.png"


@dataclass(frozen=True)
class Score:
    """Loss over held-out tokens."""

    nats_per_token: float
    bits_per_byte: float  # comparable between tokenizers, unlike nats per token
    n_tokens: int
    n_bytes: int

    def __str__(self):
        return f"{self.nats_per_token:.3f} nats per token, {self.bits_per_byte:.3f} bits per byte"


@torch.no_grad()
def score(
    model: GPT,
    tokens: Tokens,
    tokenizer: BytePairTokenizer,
    max_tokens: int | None = None,
    rows: int = 8,
    show_progress: bool = False,
) -> Score:
    """Score each of the first `max_tokens` tokens after tokens[0] (all, if None) once, in windows that do not overlap.

    Losses are added up token by token in float64, so the result depends on neither `rows` (windows at a time) nor devices.
    """
    T = model.config.block_size
    n_tokens = min(len(tokens) - 1, max_tokens or len(tokens))
    n_full = n_tokens // T * T  # in whole windows; the last window may be shorter
    firsts = [*range(0, n_full, rows * T), *([n_full] if n_full < n_tokens else [])]
    byte_lengths = np.array([len(token) for token in tokenizer.tokens] + [0] * len(tokenizer.specials))
    nats, n_bytes = 0.0, 0
    with evaluation_mode(model), tqdm(total=n_tokens, unit=" tokens", unit_scale=True, disable=not show_progress) as bar:
        for first, end in pairwise([*firsts, n_tokens]):
            ids = torch.from_numpy(tokens[first : end + 1].astype(np.int64))
            x, y = (part.view(-1, min(T, end - first)).to(model.device) for part in (ids[:-1], ids[1:]))
            logits = model(x)  # (rows, T, V)
            losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
            nats += losses.cpu().double().sum().item()  # MPS has no float64
            n_bytes += int(byte_lengths[ids[1:].numpy()].sum())
            bar.update(end - first)
    return Score(nats / n_tokens, nats / math.log(2) / n_bytes, n_tokens, n_bytes)


def count_n_grams(text: str, of: Score) -> Score:
    """What n-grams of bytes, counted in a text's training part, make of the validation part that the score `of` is about."""
    train_text, val_text = split(text)
    bits_per_byte = ngrams.bits_per_byte(train_text.encode(), val_text.encode())
    return replace(of, nats_per_token=bits_per_byte * math.log(2) * of.n_bytes / of.n_tokens, bits_per_byte=bits_per_byte)


def words(text: str) -> list[str]:
    """The words of `text` in lower case, apostrophes within them kept."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())


def known_word_share(sample: str, text: str) -> float:
    """Share of the words of `sample` that occur in `text`; 0 if the sample has no words."""
    sampled, known = words(sample), set(words(text))
    return sum(word in known for word in sampled) / max(1, len(sampled))


def draw_loss(run: Path) -> None:
    """Draw the training and validation losses of `run`/metrics.jsonl, and counting's if it is there, as `run`/loss.png."""
    records = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    val = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r]
    counted = [r["counting_loss"] for r in records if "counting_loss" in r]
    if not (train and val):
        return  # stopped before the first step
    figure, axes = new_figure(
        f"After {val[-1][0]:,} updates: {val[-1][1]:.2f} nats per token on held-out text",
        "optimizer updates",
        "loss (nats per token)",
    )
    axes.plot(*zip(*train, strict=True), color=ORANGE, linewidth=0.8, alpha=0.8, label="training, one step's tokens")
    axes.plot(*zip(*val, strict=True), color=BLUE, linewidth=2, marker="o", markersize=3, label="validation, fixed tokens")
    if counted:
        axes.axhline(
            counted[-1], color="black", linewidth=1, linestyle="--", label=f"counting {ngrams.ORDER}-grams, all validation"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    save_figure(figure, run / PICTURE)
