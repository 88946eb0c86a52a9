"""AdamW and Muon on one text, each for the same CPU time, with a schedule that ends there: curves of several seeds."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from shared.plotting import BLUE, GREEN, ORANGE, Picture, new_figure, save_figure

from .benchmark_race import clocked
from .config import PRESETS, TrainConfig

BUDGET, TRIAL_STEPS, VALIDATIONS = 60.0, 60, 8  # CPU seconds of a run; steps that tell how long one takes; on the way
RULES: dict[str, dict[str, Any]] = {  # rate and warm-up: the best of those tried on a part of the training text
    "AdamW": {"optimizer": "adamw", "lr": 2.5e-3, "min_lr": 2.5e-4, "warmup_steps": 100},
    "Muon": {"optimizer": "muon"},
    "Muon, q k v split": {"optimizer": "muon", "split_qkv": True},
}
OPTIMIZERS_FILES = "optimizers.jsonl", "optimizers.png"
Curve = list[tuple[float, float]]  # CPU seconds, bits per byte


def optimizers(source: str, repeats: int, folder: Path) -> None:
    """Print what each rule reaches, leave the curves in `folder` as JSON lines and as a picture."""
    curves: dict[str, list[Curve]] = {name: [] for name in RULES}
    base = replace(PRESETS["shakespeare"], data=source, quiet=True, device="cpu", dtype="float32", compile="off")
    n_steps = {}
    for name, rule in RULES.items():
        (setting_up, _), (then, _) = run(
            replace(base, **rule | {"warmup_steps": 0}, steps=TRIAL_STEPS, eval_every=TRIAL_STEPS)
        )
        n_steps[name] = max(TRIAL_STEPS, int((BUDGET - setting_up) / (then - setting_up) * TRIAL_STEPS))
    print(f"{source}: {BUDGET:.0f} CPU seconds for each of {repeats} seeds")
    for seed in range(1, repeats + 1):
        for name, rule in RULES.items():
            steps = n_steps[name]
            curves[name].append(run(replace(base, **rule, seed=seed, steps=steps, eval_every=max(1, steps // VALIDATIONS))))
            seconds, bits = curves[name][-1][-1]
            print(
                f"  seed {seed}: {name}: {bits:.3f} bits per byte after {seconds:.0f} CPU seconds, {steps} steps", flush=True
            )
    print(f"{'':20}{'steps':>7}{'CPU s':>8}{'bits per byte':>16}{'lowest to highest':>22}")
    for name, of_seeds in curves.items():
        seconds, bits = zip(*(curve[-1] for curve in of_seeds), strict=True)
        spread = f"{min(bits):.3f} to {max(bits):.3f}"
        print(f"{name:20}{n_steps[name]:>7}{median(seconds):>8.1f}{median(bits):>16.3f}{spread:>22}")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"rule": name, "seed": i + 1, "curve": curve} for name in curves for i, curve in enumerate(curves[name])]
    (folder / OPTIMIZERS_FILES[0]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    save_figure(draw(curves), folder / OPTIMIZERS_FILES[1])


def run(config: TrainConfig) -> Curve:
    """Train as `config` says; CPU seconds and bits per byte at each validation."""
    with tempfile.TemporaryDirectory() as folder:
        return clocked(replace(config, run=folder))


def draw(curves: dict[str, list[Curve]]) -> Picture:
    """All seeds' curves, a colour and a marker for each rule."""
    lowest = {name: median(curve[-1][1] for curve in of_seeds) for name, of_seeds in curves.items()}
    best = min(lowest, key=lowest.__getitem__)
    title = f"At equal CPU time {best} is ahead: {lowest[best]:.2f} bits per byte"
    figure, axes = new_figure(title, "CPU seconds of training", "bits per byte of held-out text")
    looks: Sequence[tuple[str, str]] = (ORANGE, "o"), (BLUE, "s"), (GREEN, "^")
    for (name, of_seeds), (colour, marker) in zip(curves.items(), looks, strict=True):
        for i, curve in enumerate(of_seeds):
            later = curve[1:]  # the first is that of random weights
            axes.plot(*zip(*later, strict=True), color=colour, marker=marker, markersize=4, label=name if i == 0 else None)
    axes.legend(frameon=False)
    return figure
