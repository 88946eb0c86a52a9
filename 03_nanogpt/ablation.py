"""What each part of NonaGPT is worth: the same training without it, from several seeds. Run it: python -m 03_nanogpt.ablation

The switches live here, not in the model: a variant is a NonaGPT of which one part has been exchanged. All of one seed start
from the same weights and read the same batches.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from tqdm import tqdm

from shared.cli import UsageError, command, parse
from shared.devices import DeviceName, choose_device
from shared.plotting import BLUE, GREEN, GREY, ORANGE, Picture, new_figure, save_figure

from .config import TrainConfig
from .data import prepare
from .model import Block, NonaGPT, NonaGPTConfig, SelfAttention
from .tokenizer import encode
from .train import score, updates

SHAPE = NonaGPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=64)
RECIPE = TrainConfig("ablation", SHAPE, steps=1000, batch_size=12, lr=4e-3, min_lr=4e-4)  # the same for all variants
RESULTS, CURVES = "ablation.jsonl", "ablation.png"
RECORDED = Path(__file__).with_name(RESULTS)  # what the command has left on one machine, for notebook 3
POINTS, POINT_CHARS = 20, 2**13  # of each curve, and the first validation characters that each is scored on


def full(config: NonaGPTConfig) -> NonaGPT:
    """NonaGPT as it is."""
    return NonaGPT(config)


def without_positions(config: NonaGPTConfig) -> NonaGPT:
    """Every position embedding is 0 and stays so; only the mask knows what came first."""
    model = NonaGPT(config)
    nn.init.zeros_(model.position_embedding_table.weight).requires_grad_(False)
    return model


def with_one_head(config: NonaGPTConfig) -> NonaGPT:
    """One head as wide as all of them together: as many weights."""
    return NonaGPT(replace(config, n_head=1))


def without_residual(config: NonaGPTConfig) -> NonaGPT:
    """Each layer replaces the stream where it would add to it."""
    model = NonaGPT(config)
    model.blocks = nn.Sequential(*(nn.Sequential(b.ln1, b.sa, b.ln2, b.ffwd) for b in blocks(model)))
    return model


def without_layer_norm(config: NonaGPTConfig) -> NonaGPT:
    """No LayerNorm anywhere."""
    model = NonaGPT(config)
    for block in blocks(model):
        block.register_module("ln1", nn.Identity())
        block.register_module("ln2", nn.Identity())
    model.register_module("ln_f", nn.Identity())
    return model


def without_scale(config: NonaGPTConfig) -> NonaGPT:
    """Q Kᵀ is not divided by √D."""
    model = NonaGPT(config)
    for block in blocks(model):
        unscaled = UnscaledSelfAttention(config)
        unscaled.load_state_dict(block.sa.state_dict())
        block.sa = unscaled
    return model


class UnscaledSelfAttention(SelfAttention):
    """What the kernel divides by √D has been multiplied by it before."""

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> three times (B, H, T, D)"""
        q, k, v = super().queries_keys_values(x)
        return q * math.sqrt(q.shape[-1]), k, v


def blocks(model: NonaGPT) -> list[Block]:
    """The blocks, from the first to the last."""
    return [block for block in model.blocks if isinstance(block, Block)]


VARIANTS: dict[str, Callable[[NonaGPTConfig], NonaGPT]] = {
    "full": full,
    "no positions": without_positions,
    "one head": with_one_head,
    "no residual": without_residual,
    "no LayerNorm": without_layer_norm,
    "no 1/√D": without_scale,
}


@dataclass(frozen=True)
class AblationConfig:
    """What `python -m 03_nanogpt.ablation` does."""

    steps: Annotated[int, "optimizer updates of each training"] = RECIPE.steps
    seeds: Annotated[int, "trainings of each variant, from seeds 1, 2, ...; at least 2 for verdicts"] = 3
    data: Annotated[str, "tinyshakespeare, shakespeare (all plays) or a text FILE; its last tenth is for validation"] = (
        "tinyshakespeare"
    )
    device: Annotated[DeviceName, "where to compute; auto takes cuda, else mps, else cpu"] = "auto"
    run: Annotated[str, "folder for the results and the picture of the curves"] = "runs/ablation"
    overwrite: Annotated[bool, "replace the results that the folder holds"] = False

    def __post_init__(self):
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is expected")
        if not self.run:
            raise ValueError("run is ''; the name of a folder is expected")


@dataclass(frozen=True)
class Training:
    """One training: on its way the losses on the first validation characters, at its end that on all; nats per character."""

    variant: str
    seed: int
    steps: list[int]
    curve: list[float]
    val_loss: float


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train each variant from each seed, print the table, leave the results and the picture in a folder."""
    config = parse(
        AblationConfig(),
        argv,
        prog="python -m 03_nanogpt.ablation",
        description="Train NonaGPT without one of its parts at a time, and say which ones it needs.",
        examples=["python -m 03_nanogpt.ablation", "python -m 03_nanogpt.ablation --steps 200 --seeds 2 --run runs/quick"],
    )
    folder = Path(config.run)
    files = [folder / RESULTS, folder / CURVES]
    if any(file.is_dir() or (file.exists() and not config.overwrite) for file in files):
        raise UsageError(f"{folder} already holds results; name another folder with --run, or give --overwrite")
    device = choose_device(config.device)
    train_ids, val_ids = (
        torch.tensor(encode(part), device=device) for part in prepare(config.data, SHAPE.block_size, tqdm.write)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--run {folder} cannot be a folder for results: {error.strerror}") from None
    trainings = []
    with tqdm(total=config.seeds * len(VARIANTS) * config.steps, unit="step", disable=None, leave=False) as bar:
        for seed in range(1, config.seeds + 1):
            for variant in VARIANTS:
                trainings.append(train(variant, seed, config.steps, train_ids, val_ids, bar.update))
                tqdm.write(f"seed {seed}, {variant}: {trainings[-1].val_loss:.3f}")
                write_results(folder / RESULTS, trainings)  # each time: a run that is stopped leaves what it has
    save_figure(draw_curves(trainings), folder / CURVES)
    print(f"\nvalidation loss after {config.steps:,} updates, nats per character\n\n{table(trainings)}")
    return 0


def train(
    variant: str, seed: int, steps: int, train_ids: Tensor, val_ids: Tensor, tick: Callable[[], object] = lambda: None
) -> Training:
    """Train one variant from one seed on the device of the ids (N,); `tick` is called after each update."""
    torch.manual_seed(seed)
    model = VARIANTS[variant](SHAPE).to(train_ids.device)
    places, curve = [], []
    for step, _ in enumerate(updates(model, train_ids, replace(RECIPE, steps=steps, seed=seed)), start=1):
        tick()
        if step % math.ceil(steps / POINTS) == 0 and step < steps:
            places.append(step)
            curve.append(score(model, val_ids[: POINT_CHARS + 1]))
    return Training(variant, seed, places, curve, score(model, val_ids))


def table(trainings: Sequence[Training]) -> str:
    """Markdown: for each variant the mean of its last losses over the seeds, their range, and the verdict against `full`."""
    lines = ["| variant | mean | lowest to highest | verdict |", "| --- | ---: | ---: | --- |"]
    for variant in dict.fromkeys(training.variant for training in trainings):
        losses = last_losses(trainings, variant)
        said = "" if variant == "full" else verdict(last_losses(trainings, "full"), losses)
        mean = sum(losses) / len(losses)
        lines.append(f"| {variant} | {mean:.3f} | {min(losses):.3f} to {max(losses):.3f} | {said} |")
    return "\n".join(lines)


def last_losses(trainings: Sequence[Training], variant: str) -> list[float]:
    """The losses with which the trainings of one variant end."""
    return [training.val_loss for training in trainings if training.variant == variant]


def verdict(full_losses: Sequence[float], losses: Sequence[float]) -> str:
    """ "worse by …" or "better by …" if the means differ by more than either variant's seeds among each other; else none."""
    gap = sum(losses) / len(losses) - sum(full_losses) / len(full_losses)
    spread = max(max(each) - min(each) for each in (full_losses, losses))
    if len(losses) < 2 or abs(gap) <= spread:
        return "no verdict: within the spread of the seeds" if len(losses) > 1 else "no verdict: one seed has no spread"
    return f"{'worse' if gap > 0 else 'better'} by {abs(gap):.3f}"


def draw_curves(trainings: Sequence[Training]) -> Picture:
    """Validation loss against updates: for each variant the mean of its seeds, and a band from the lowest to the highest."""
    figure, axes = new_figure(
        "What NonaGPT loses without one of its parts", "optimizer updates", "loss on fixed validation characters (nats)"
    )
    looks = [("black", "-"), (ORANGE, "-"), (GREEN, "-"), (GREY, ":"), (ORANGE, "--"), (BLUE, "--")]
    for variant, (colour, line) in zip(dict.fromkeys(t.variant for t in trainings), looks, strict=False):
        steps = next(t.steps for t in trainings if t.variant == variant)
        losses = torch.tensor([t.curve for t in trainings if t.variant == variant])  # (seeds, points)
        axes.plot(steps, losses.mean(dim=0), color=colour, linestyle=line, label=variant)
        axes.fill_between(steps, losses.amin(dim=0), losses.amax(dim=0), color=colour, alpha=0.2, linewidth=0)
    axes.legend(frameon=False)
    return figure


def write_results(file: Path, trainings: Sequence[Training]) -> None:
    """One JSON object a line, losses to four digits."""
    records = [asdict(t) | {"curve": [round(x, 4) for x in t.curve], "val_loss": round(t.val_loss, 4)} for t in trainings]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_results(file: Path) -> list[Training]:
    """What `write_results` has written."""
    return [Training(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
