"""Every number of a training run, and the two presets: one for a laptop's CPU, one for a GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from shared.cli import UsageError, first_values, parse
from shared.devices import DeviceName, choose_device

from .model import NonaGPTConfig


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run. Raises ValueError if the numbers do not fit together."""

    preset: Annotated[str, "named set of defaults for all other flags; left out, gpu on cuda, else cpu"]
    model: NonaGPTConfig
    steps: Annotated[int, "optimizer updates"]
    batch_size: Annotated[int, "windows of block-size characters in one update"]
    lr: Annotated[float, "highest learning rate, reached after the warm-up; a cosine then leads down to min-lr"]
    min_lr: Annotated[float, "learning rate at the end"]
    warmup_steps: Annotated[int | None, "updates of a rising rate; left out, a tenth of all, but at most 100"] = None
    beta2: Annotated[float, "AdamW's memory of squared gradients"] = 0.99
    weight_decay: Annotated[float, "AdamW's decay of matrices and embeddings; biases and LayerNorms have none"] = 0.1
    max_grad_norm: Annotated[float, "gradients are scaled down to this global norm"] = 1.0
    data: Annotated[str, "tinyshakespeare, shakespeare (all plays) or a text FILE; its last tenth is for validation"] = (
        "tinyshakespeare"
    )
    eval_every: Annotated[int, "updates between two validations; the weights of the best one are kept"] = 500
    eval_chars: Annotated[int, "validation characters scored each time, the same first ones; the end scores all"] = 2**14
    seed: Annotated[int, "seed of the weights, the batches and the samples"] = 1337
    device: Annotated[DeviceName, "where to compute; auto takes cuda, else mps, else cpu"] = "auto"
    run: Annotated[str, "folder for the weights, the curve and the samples"] = "runs/nanogpt"
    overwrite: Annotated[bool, "replace the run that the folder holds"] = False
    quiet: Annotated[bool, "print nothing but errors"] = False

    def __post_init__(self):
        for name, fits, expected in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "a number above 0"),
            ("min_lr", 0 <= self.min_lr <= self.lr, f"between 0 and the highest rate, {self.lr},"),
            ("warmup_steps", 0 <= self.warmup <= self.steps, f"0 to the run's {self.steps} steps"),
            ("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number of at least 0"),
            ("max_grad_norm", 0 < self.max_grad_norm < math.inf, "a number above 0"),
            ("eval_every", self.eval_every >= 1, "at least 1"),
            ("eval_chars", self.eval_chars >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**63, "at least 0 and below 2**63"),
            ("run", self.run != "", "the name of a folder"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)!r}; {expected} is expected")

    @property
    def warmup(self) -> int:
        """Updates over which the learning rate rises to its highest."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps


PRESETS = {
    config.preset: config
    for config in (
        TrainConfig("cpu", NonaGPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=96), 3200, 12, lr=5e-3, min_lr=0.0),
        # the character model of nanoGPT's config/train_shakespeare_char.py
        TrainConfig("gpu", NonaGPTConfig(256, n_layer=6, n_head=6, n_embd=384, dropout=0.2), 5000, 64, lr=1e-3, min_lr=1e-4),
    )
}


def configure(argv: Sequence[str] | None) -> TrainConfig:
    """The preset that the flags or the machine choose, changed by the other flags."""
    prog = "python -m 03_nanogpt.train"
    given = first_values(argv, prog, "preset", "device")
    preset = given.get("preset") or ("gpu" if choose_device(given.get("device", "auto")).type == "cuda" else "cpu")
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
    return parse(
        PRESETS[preset],
        argv,
        prog=prog,
        description=f"Train NonaGPT on a text. Presets: {', '.join(PRESETS)}; the defaults below are those of {preset}.",
        examples=[
            "python -m 03_nanogpt.train",
            "python -m 03_nanogpt.train --steps 200 --run runs/short",
            "python -m 03_nanogpt.train --data my.txt --run runs/mine",
        ],
    )
