"""Train NonaGPT on Shakespeare. Run it: python -m 03_nanogpt.train

All that happens between a text and a model that writes, on one device and in one number format. Stage 04 does the same at
scale: mixed precision, sharded data, many devices, runs that stop and go on.
"""

import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from shared import ngrams
from shared.cli import RunError, UsageError, command, stop_between_steps
from shared.devices import choose_device, describe, seed_everything
from shared.plotting import BLUE, ORANGE, new_figure, save_figure

from .checkpoint import WEIGHTS, load, save
from .config import TrainConfig, configure
from .data import prepare, random_batch
from .model import NonaGPT
from .tokenizer import decode, encode

CURVE, SAMPLES = "loss.png", "samples.txt"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say; leave the best weights, the curve and samples in the run's folder."""
    config = configure(argv)
    folder = Path(config.run)
    say = (lambda text: None) if config.quiet else tqdm.write
    device = choose_device(config.device)
    seed_everything(config.seed)
    model = NonaGPT(config.model).to(device)
    train_text, val_text = prepare(config.data, config.model.block_size, say)
    train_ids, val_ids = (torch.tensor(encode(text), device=device) for text in (train_text, val_text))
    counted = -np.log(ngrams.probabilities(train_text.encode(), val_text.encode())[1:])  # of the characters that are scored
    claim(folder, config.overwrite)
    say(
        f"preset {config.preset}: {model.n_params:,} parameters on {describe(device)}, {config.steps:,} updates of "
        f"{config.batch_size} windows of {config.model.block_size} characters; --help lists what can be changed"
    )

    started, best = time.process_time(), math.inf
    curve: list[float] = []  # loss of each update
    validations: list[tuple[int, float]] = []
    with stop_between_steps() as stop_asked, tqdm(total=config.steps, disable=config.quiet or None, leave=False) as bar:
        for step, loss in enumerate(updates(model, train_ids, config), start=1):
            curve.append(loss)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            signal = stop_asked()
            if step % config.eval_every and step != config.steps and not signal:
                continue
            val_loss = score(model, val_ids[: config.eval_chars + 1])
            validations.append((step, val_loss))
            if val_loss < best:
                best = val_loss
                save(model, folder)
            sample = write(model, 100, config.seed)
            note(folder, f"after {step} updates", sample)
            say(f"step {step}: loss {loss:.3f}, validation {val_loss:.3f}; it writes: {' '.join(sample.split())}")
            if signal:
                draw_curve(folder, curve, validations, counted[: config.eval_chars].mean())
                say(f"stopped after step {step}; {folder / WEIGHTS} holds the best weights so far")
                return 128 + signal
    say(f"training took {time.process_time() - started:.0f} CPU seconds, validations included\n")

    model = load(folder, device)  # the best weights
    val_loss, counting = score(model, val_ids), counted.mean()
    draw_curve(folder, curve, validations, counted[: config.eval_chars].mean())
    sample = write(model, 500, config.seed)
    note(folder, "at the end", sample)
    say(f"all {len(val_ids) - 1:,} characters held out: {val_loss:.3f} nats per character")
    say(f"counting {ngrams.ORDER}-grams:{counting:24.3f}; {verdict(val_loss, counting)}")
    say(f"{sample}\n\n{folder} holds the weights, {CURVE} and {SAMPLES}; let it write more:")
    say(f'python -m 03_nanogpt.generate --checkpoint {shlex.quote(config.run)} --prompt "ROMEO:"')
    return 0


def updates(model: NonaGPT, ids: Tensor, config: TrainConfig) -> Iterator[float]:
    """Update `model` `config.steps` times on random windows of ids (N,). Yields each batch's loss, in nats per character.

    Raises RunError when the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = make_optimizer(model, config)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        x, y = random_batch(ids, config.batch_size, config.model.block_size, generator)  # both (B, T)
        _, loss = model.train()(x, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        if not math.isfinite(loss.item()):
            raise RunError(f"loss {loss.item()} at step {step + 1}: the run stops; begin another with a lower --lr")
        yield loss.item()


def make_optimizer(model: NonaGPT, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); matrices and embeddings decay, biases and LayerNorms do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of update `step`, counted from 0: linear warm-up to `lr`, then a cosine down to `min_lr`, reached at `steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)  # 0 to 1
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.lr - config.min_lr)


@torch.no_grad()
def score(model: NonaGPT, ids: Tensor, rows: int = 64) -> float:
    """Mean loss over ids (N,) in nats per character, each but the first predicted once, in windows side by side."""
    T = model.config.block_size
    n_full = (len(ids) - 1) // T * T  # characters in whole windows; the last window may be shorter
    inputs = [*ids[:n_full].view(-1, T).split(rows), ids[None, n_full:-1]]
    targets = [*ids[1 : n_full + 1].view(-1, T).split(rows), ids[None, n_full + 1 :]]
    model.eval()
    nats = 0.0
    for x, y in zip(inputs, targets, strict=True):
        if x.numel():
            logits, _ = model(x)
            nats += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
    return nats / (len(ids) - 1)


def write(model: NonaGPT, n: int, seed: int) -> str:
    """`n` characters that follow an empty line."""
    start = torch.tensor([encode("\n")], device=model.lm_head.weight.device)
    generator = torch.Generator(start.device).manual_seed(seed)
    return decode(model.generate(start, n, temperature=0.8, generator=generator)[0, 1:].tolist())


def verdict(val_loss: float, counting: float) -> str:
    """Who is better, the model or counting."""
    return (
        "the model is better" if val_loss < counting else "counting is better: the model is too small, or trained too briefly"
    )


def note(folder: Path, heading: str, sample: str) -> None:
    """Append to samples.txt."""
    with (folder / SAMPLES).open("a", encoding="utf-8") as file:
        file.write(f"=== {heading} ===\n{sample}\n\n")


def draw_curve(folder: Path, curve: Sequence[float], validations: Sequence[tuple[int, float]], counting: float) -> None:
    """Draw the losses of all updates, of the validations, and counting's on the same characters, as loss.png."""
    figure, axes = new_figure(
        f"After {len(curve):,} updates: {validations[-1][1]:.2f} nats per character on fixed held-out text",
        "optimizer updates",
        "loss (nats per character)",
    )
    axes.plot(range(1, len(curve) + 1), curve, color=ORANGE, linewidth=0.8, alpha=0.8, label="training, one batch")
    axes.plot(*zip(*validations, strict=True), color=BLUE, marker="o", markersize=3, label="validation, fixed characters")
    label = f"counting {ngrams.ORDER}-grams, the same characters"
    axes.axhline(counting, color="black", linewidth=1, linestyle="--", label=label)
    axes.legend(frameon=False)
    save_figure(figure, folder / CURVE)


def claim(folder: Path, overwrite: bool) -> None:
    """Make the run's folder. Raises UsageError if it holds a run already, unless that is to be replaced, or cannot be made."""
    files = [folder / name for name in (WEIGHTS, CURVE, SAMPLES)]
    try:
        if any(file.exists() for file in files) and not overwrite:
            raise UsageError(f"{folder} already holds a run; name another folder with --run, or give --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--run {folder} cannot be a run's folder: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
