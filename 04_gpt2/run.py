"""A run's folder and its voice: who may write where, metrics.jsonl, samples.txt, the progress bar or the lines of a log."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared.cli import UsageError

from .checkpoint import CONFIG, TOKENIZER, WEIGHTS, load_shape
from .config import TrainConfig
from .evaluate import PICTURE, Score

METRICS, SAMPLES = "metrics.jsonl", "samples.txt"
CONTENT = {
    CONFIG: "every setting of the run",
    TOKENIZER: "the tokenizer",
    WEIGHTS: "the weights",
    METRICS: "one JSON object a line: losses, learning rate, gradient norm, speed",
    PICTURE: "training and validation loss",
    SAMPLES: "what the model wrote on the way",
}
LOG_LINES = 30  # in a whole run, where there is no terminal for a progress bar


class Run:
    """The folder `config.run` and all that is told while it fills.

    Nothing is written before its `with` block begins. Raises UsageError at once if the folder is taken: by another run (unless
    `config.overwrite`), or by files that are none of a run's.
    """

    def __init__(self, config: TrainConfig):
        self.config, self.folder = config, Path(config.run)
        self.first_step_ended = 0.0
        try:
            taken = self.folder.exists() and any(self.folder.iterdir())
        except OSError as error:
            raise UsageError(f"--run {self.folder} cannot be a run's folder: {error.strerror}") from None
        if not taken:
            return
        try:
            load_shape(self.folder)
        except UsageError:
            raise UsageError(f"--run {self.folder} holds files that are not a run's; name a new or empty folder") from None
        if not config.overwrite:
            raise UsageError(f"{self.folder} already holds a run; name another folder with --run, or give --overwrite")

    def __enter__(self) -> "Run":
        """Make the folder, remove a run that is to be overwritten, put up the progress bar."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {self.folder}: {error.strerror}") from None
        for name in CONTENT:
            (self.folder / name).unlink(missing_ok=True)
        on_terminal = sys.stderr.isatty() and not self.config.quiet
        self.bar = tqdm(total=self.config.steps, unit="step", dynamic_ncols=True, disable=not on_terminal)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar if there is one."""
        if not self.config.quiet:
            tqdm.write(text)

    def record(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def step(self, step: int, loss: float, lr: float, grad_norm: float, tokens_per_second: float) -> None:
        """Report update `step`, the first being 1: its loss in nats per token before the update, and how fast it was."""
        self.record(step=step, loss=loss, lr=lr, grad_norm=grad_norm, tokens_per_second=round(tokens_per_second))
        numbers = f"loss {loss:.3f}, lr {lr:.1e}, gradient norm {grad_norm:.2f}, {tokens_per_second:,.0f} tokens/s"
        self.bar.set_postfix_str(numbers, refresh=False)
        self.bar.update()
        if step == 1:
            self.first_step_ended = time.perf_counter()
        if self.bar.disable and (step == 1 or step % max(1, self.config.steps // LOG_LINES) == 0):
            seconds_per_step = (time.perf_counter() - self.first_step_ended) / max(1, step - 1)
            left = f", {duration(seconds_per_step * (self.config.steps - step))} left" if step > 1 else ""
            self.say(f"step {step}/{self.config.steps}: {numbers}{left}")

    def validation(self, step: int, score: Score, sample: str) -> None:
        """Report the state after `step` updates: the validation score and a short sample."""
        self.record(step=step, val_loss=score.nats_per_token, val_bits_per_byte=score.bits_per_byte)
        self.write_sample(f"after {step} updates", sample)
        shown = " ".join(sample.split())[:100]
        self.say(
            f"after {step} updates: validation {score.nats_per_token:.3f} nats per token, "
            f"{score.bits_per_byte:.3f} bits per byte; it writes: {shown}"
        )

    def write_sample(self, heading: str, sample: str) -> None:
        """Append to samples.txt."""
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.write(f"=== {heading} ===\n{sample}\n\n")


def duration(seconds: float) -> str:
    """A length of time as a reader would say it: 40 s, 6 min, 3 h, 5 days."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
