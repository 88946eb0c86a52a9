"""The race on one text: this project's training, the best-known small script's settings, and counting."""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import ngrams

from . import train
from .config import PRESETS, TrainConfig
from .evaluate import Score
from .loader import Loader
from .model import GPT
from .optim import cosine_with_warmup
from .run import Run
from .token_data import TokenData, load_text, split

PEER_STEPS = 2000
OUR_STEPS = 100, 350, PRESETS["shakespeare"].steps  # runs of their own, each with its own schedule


def race(source: str, repeats: int) -> None:
    """Training on one text: our default run and two short ones, the best-known small script's settings for CPUs, counting.

    The first nine tenths of the text's bytes are there to learn from; each byte of the last tenth is scored once.
    """
    train_text, val_text = split(load_text(source))
    learned, held_out = train_text.encode(), val_text.encode()
    started = time.process_time()
    counted = ngrams.bits_per_byte(learned, held_out)
    counting_seconds = time.process_time() - started
    print(
        f"{source}: {len(learned):,} bytes to learn from, {len(held_out):,} to predict; median of {repeats} seeds", flush=True
    )

    competitors: dict[str, Callable[[int], tuple[float, float]]] = {
        f"character GPT, {PEER_STEPS:,} steps": lambda seed: character_gpt(learned, held_out, seed)
    }
    for steps in OUR_STEPS:
        competitors[f"04_gpt2.train --steps {steps}"] = partial(ours, source, steps, len(held_out))
    reached: dict[str, list[tuple[float, float]]] = {name: [] for name in competitors}
    for seed in range(1, repeats + 1):
        for name, run in competitors.items():
            reached[name].append(run(seed))
            seconds, bits = reached[name][-1]
            print(f"  seed {seed}: {name}: {bits:.3f} bits per byte after {seconds:.0f} CPU seconds", flush=True)
    print(f"{'':36}{'CPU s':>8}{'bits per byte':>16}")
    for name, ends in ({f"counting {ngrams.ORDER}-grams": [(counting_seconds, counted)]} | reached).items():
        seconds, bits = (median(values) for values in zip(*ends, strict=True))
        print(f"{name:36}{seconds:>8.1f}{bits:>16.3f}")


def ours(source: str, steps: int, n_held_out: int, seed: int) -> tuple[float, float]:
    """CPU seconds of training and bits per byte of the text's last tenth, with the shakespeare preset and so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(PRESETS["shakespeare"], data=source, seed=seed, quiet=True, steps=steps)
        settings = replace(settings, device="cpu", dtype="float32", compile="off")
        return clocked(replace(settings, eval_every=steps, eval_tokens=n_held_out, run=folder))[-1]


def clocked(config: TrainConfig) -> list[tuple[float, float]]:
    """Train as `config` says -> CPU seconds and bits per byte at each validation. A signal that stops it ends the program."""
    watch = Stopwatch(config)
    if status := train.start(watch, "benchmark"):
        sys.exit(status)
    return watch.curve


class Stopwatch(Run):
    """A run that notes the CPU seconds spent until each validation, and its score.

    Learning the vocabulary is counted, as part of learning; validations, samples and checkpoints are not.
    """

    def __init__(self, config: TrainConfig):
        super().__init__(config)
        self.curve: list[tuple[float, float]] = []  # CPU seconds, bits per byte
        self._spent, self._since = 0.0, time.process_time()

    def restore(self, model: GPT, optimizer: torch.optim.Optimizer, data: TokenData, loader: Loader) -> int:
        self._spent = time.process_time() - self._since
        return super().restore(model, optimizer, data, loader)

    def step(self, step: int, loss: float, lr: float, grad_norm: float, tokens_per_second: float) -> None:
        super().step(step, loss, lr, grad_norm, tokens_per_second)
        now = time.process_time()
        self._spent, self._since = self._spent + now - self._since, now

    def validation(self, step: int, score: Score, sample: str) -> None:
        super().validation(step, score, sample)
        self.curve.append((self._spent, score.bits_per_byte))

    def save(self, step: int, model: GPT, optimizer: torch.optim.Optimizer, data: TokenData, loader: Loader) -> None:
        super().save(step, model, optimizer, data, loader)
        self._since = time.process_time()


class CharacterGPT(nn.Module):
    """The model of nanoGPT's README for CPUs, put together from PyTorch's own layers: 64 characters in sight, 4 layers."""

    mask: Tensor

    def __init__(self, n_characters: int, T: int = 64, C: int = 128, n_head: int = 4, n_layer: int = 4):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(n_characters, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(C, n_head, 4 * C, 0.0, F.gelu, batch_first=True, norm_first=True, bias=False)
            for _ in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(C, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(T))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds_to_the_stream = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer) if adds_to_the_stream else 0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Loss in nats, summed over (B, T)"""
        T = idx.shape[1]
        x = self.wte(idx) + self.wpe(torch.arange(T))
        for block in self.blocks:
            x = block(x, src_mask=self.mask[:T, :T], is_causal=True)
        return F.cross_entropy((self.ln_f(x) @ self.wte.weight.T).flatten(0, 1), targets.flatten(), reduction="sum")


def character_gpt(learned: bytes, held_out: bytes, seed: int) -> tuple[float, float]:
    """CPU seconds of training and bits per byte of `held_out`, with nanoGPT's README settings for CPUs.

    12 windows of 64 characters a step, AdamW with beta2 0.99, 100 steps of warm-up to 1e-3, a cosine to 1e-4 at the last step
    (github.com/karpathy/nanoGPT, README.md and config/train_shakespeare_char.py).
    """
    torch.manual_seed(seed)
    id_of = {byte: i for i, byte in enumerate(sorted({*learned, *held_out, ord("\n")}))}
    ids = torch.tensor([id_of[byte] for byte in learned])
    B, T = 12, 64
    model = CharacterGPT(len(id_of), T)
    groups = [{"params": [p for p in model.parameters() if p.dim() == d], "weight_decay": 0.1 * (d == 2)} for d in (1, 2)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    settings = replace(PRESETS["shakespeare"], lr=1e-3, min_lr=1e-4, warmup_steps=min(100, PEER_STEPS), steps=PEER_STEPS)
    started = time.process_time()
    for step in range(PEER_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = cosine_with_warmup(step, settings)
        windows = torch.stack([ids[i : i + T + 1] for i in torch.randint(len(ids) - T, (B,)).tolist()])
        (model(windows[:, :-1], windows[:, 1:]) / (B * T)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.process_time() - started
    return seconds, bits_per_character(model, torch.tensor([id_of[byte] for byte in b"\n" + held_out]), T)


@torch.no_grad()
def bits_per_character(model: CharacterGPT, ids: Tensor, T: int) -> float:
    """Mean surprise at each character after the first of `ids` (N,), in bits; windows of T do not overlap."""
    whole = (len(ids) - 1) // T * T  # characters in full windows
    nats = 0.0
    for start, end, width in ((0, whole, T), (whole, len(ids) - 1, len(ids) - 1 - whole)):
        if end > start:
            nats += model(ids[start:end].view(-1, width), ids[start + 1 : end + 1].view(-1, width)).item()
    return nats / math.log(2) / (len(ids) - 1)
