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
from .data import TEXTS, prepare, random_batch
from .model import NonaGPT
from .tokenizer import decode, encode, printable

CURVE, SAMPLES = "loss.png", "samples.txt"
# measured on the classic file, on one thread
PASSES_COUNTING = "preset cpu passes it on tiny Shakespeare with --steps 8000: 1.580 against 1.669 in nine minutes of CPU time"


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

    started = time.perf_counter(), time.process_time()
    curve: list[float] = []  # the loss of each update
    validations: list[tuple[int, float]] = []
    with stop_between_steps() as stop_asked, tqdm(total=config.steps, disable=config.quiet or None, leave=False) as bar:
        for step, loss in enumerate(updates(model, train_ids, config), start=1):
            curve.append(loss)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            signal = stop_asked()
            if step % config.eval_every == 0 or step == config.steps or signal:
                val_loss = require_finite(score(model, val_ids[: config.eval_chars + 1]), step, config)
                validations.append((step, val_loss))
                if val_loss == min(each for _, each in validations):
                    save(model, folder)
                sample = write_sample(model, folder, f"after {step} updates", 100, config.seed)
                say(f"step {step}: loss {loss:.3f}, validation {val_loss:.3f}; it writes: {' '.join(sample.split())}")
            if signal:
                draw_curve(folder, curve, validations, counted[: config.eval_chars].mean())
                say(f"stopped after step {step}; {folder / WEIGHTS} holds the best weights so far")
                return 128 + signal
    seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    say(f"training took {seconds:.0f} s, of the CPU {cpu_seconds:.0f} s, validations included\n")

    model = load(folder, device)  # the best weights
    val_loss, counting = score(model, val_ids), counted.mean()
    draw_curve(folder, curve, validations, counted[: config.eval_chars].mean())
    say(f"all {len(val_ids) - 1:,} characters held out: {val_loss:.3f} nats per character")
    say(f"counting {ngrams.ORDER}-grams:{counting:24.3f}; {verdict(val_loss, counting, config)}\n")
    say(write_sample(model, folder, "at the end", 500, config.seed))
    say(f"\n{folder} holds the weights, {CURVE} and {SAMPLES}; let it write more:")
    prompt = ' --prompt "ROMEO:"' if config.data in TEXTS else ""
    say(f"python -m 03_nanogpt.generate --checkpoint {shlex.quote(config.run)}{prompt}")
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
        yield require_finite(loss.item(), step + 1, config)


def require_finite(loss: float, step: int, config: TrainConfig) -> float:
    """The loss itself. Raises RunError if it is no number any more."""
    if not math.isfinite(loss):
        raise RunError(f"loss {loss} at step {step}: the run stops; take a learning rate below {config.lr}")
    return loss


def make_optimizer(model: NonaGPT, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); matrices and embeddings decay, biases and LayerNorms do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of update `step`, counted from 0: linear warm-up to `lr`, then a cosine down to `min_lr`, reached at `steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / (config.steps - config.warmup)  # 0 to 1
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.lr - config.min_lr)


@torch.no_grad()
def score(model: NonaGPT, ids: Tensor, rows: int = 64) -> float:
    """Mean loss over ids (N,) in nats per character, each but the first predicted once.

    Windows stand side by side, and each begins without knowing the one before it.
    """
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


def write_sample(model: NonaGPT, folder: Path, heading: str, n: int, seed: int) -> str:
    """`n` characters that follow an empty line; they are added to samples.txt too."""
    start = torch.tensor([encode("\n")], device=model.lm_head.weight.device)
    generator = torch.Generator(start.device).manual_seed(seed)
    sample = printable(decode(model.generate(start, n, temperature=0.8, generator=generator)[0, 1:].tolist()))
    with (folder / SAMPLES).open("a", encoding="utf-8") as file:
        file.write(f"=== {heading} ===\n{sample}\n\n")
    return sample


def verdict(val_loss: float, counting: float, config: TrainConfig) -> str:
    """Who is better, the model or counting, and what to do about it."""
    if val_loss < counting:
        return "the model is better"
    known = f" ({PASSES_COUNTING})" if config.data == "tinyshakespeare" else ""
    return f"counting is better: take more than {config.steps:,} --steps, or a longer text{known}"


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
        if any(file.is_dir() or (file.exists() and not overwrite) for file in files):
            raise UsageError(f"{folder} already holds a run; name another folder with --run, or give --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--run {folder} cannot be a run's folder: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
