"""A run's folder and its voice: who may write where, metrics.jsonl, samples.txt, the progress bar or the lines of a log."""

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from tqdm import tqdm

from shared.cli import RunError, UsageError, duration, silence_stdout
from shared.devices import choose_device, choose_dtype

from . import checkpoint
from .checkpoint import CHECKPOINTS
from .config import TrainConfig
from .evaluate import METRICS, PICTURE, Score
from .loader import Loader
from .model import GPT
from .sealed import flush, locked, make_folder
from .token_data import TokenData

SAMPLES = "samples.txt"
CONTENT = {
    CHECKPOINTS: "the newest checkpoints: weights, tokenizer, settings, and what training needs to go on",
    METRICS: "one JSON object a line: losses, learning rate, gradient norm, speed",
    PICTURE: "training and validation loss",
    SAMPLES: "what the model wrote on the way",
}
LOG_LINES = 30  # in a whole run, where there is no terminal for a progress bar


class Run:
    """The folder `config.run` and all that is told while it fills.

    config          the settings; "auto" as dtype is replaced by what it stands for here, or stood for when the run began
    resumes_from    the checkpoint to go on from, None for a run that begins
    steps_done      updates before it
    on_terminal     whether there is somebody to see a progress bar

    Nothing is written before its `with` block begins. Raises UsageError at once, and there again if it has become so, if the
    folder is taken: by files that are none of a run's, by a run (unless `config.overwrite`), or by one with other settings (if
    `config.resume`).
    """

    def __init__(self, config: TrainConfig):
        self.config, self.folder = config, Path(config.run)
        self.reader_left = False  # nobody listens to what is said any more
        self.on_terminal = sys.stderr.isatty() and not config.quiet  # where progress bars can be seen
        self.resumes_from = self._look()
        self.steps_done = 0
        dtype = str(choose_dtype(config.dtype, choose_device(config.device))).removeprefix("torch.")
        if self.resumes_from is not None:
            self.steps_done = checkpoint.step_of(self.resumes_from)
            dtype = checkpoint.settings(self.resumes_from)["dtype"] if config.dtype == "auto" else dtype
        self.config = replace(config, dtype=dtype)
        if self.resumes_from is not None:
            checkpoint.require_same_settings(self.resumes_from, self.config)

    def _look(self) -> Path | None:
        """The checkpoint to go on from, if there is one and it is wanted. Raises UsageError if the folder is taken."""
        folder, config = self.folder, self.config
        try:
            names = {path.name for path in folder.iterdir()} if folder.exists() else set()
            logs = [(folder / name).read_text("utf-8", "replace") if name in names else "" for name in (METRICS, SAMPLES)]
        except OSError as error:
            raise UsageError(f"--run {folder} cannot be a run's folder: {error.strerror}") from None
        found = checkpoint.checkpoints(folder)
        if config.resume and found:
            return found[-1]
        inside = (path.name for path in (folder / CHECKPOINTS).glob("*"))
        if not config.resume and not (names <= CONTENT.keys() and all(map(checkpoint.NAME.fullmatch, inside))):
            raise UsageError(f"--run {folder} holds files that are not a run's; name a new or empty folder")
        if config.resume and not _before_first_checkpoint(*logs):
            raise UsageError(
                f"{folder} holds the log of a run but no checkpoint to go on from; bring {folder / CHECKPOINTS} back, "
                f"name another folder with --run, or give --overwrite in place of --resume"
            )
        if (found or any(logs)) and not (config.overwrite or config.resume):
            raise UsageError(
                f"{folder} already holds a run; go on with it by --resume, name another folder with --run, or give --overwrite"
            )
        return None

    def __enter__(self) -> "Run":
        """Make the folder, keep other processes out of it, put up the progress bar."""
        try:
            make_folder(self.folder)
            self._lock = (self.folder / METRICS).open("ab")
            (self.folder / SAMPLES).open("ab").close()
        except OSError as error:
            raise UsageError(f"cannot write into the folder {self.folder}: {error.strerror}") from None
        if not locked(self._lock):
            raise UsageError(f"another process is training in {self.folder}; wait for it or name another --run")
        if self._look() != self.resumes_from:
            raise UsageError(f"another process has trained in {self.folder} meanwhile; give the command again")
        self._bar = tqdm(total=self.config.steps, unit="step", dynamic_ncols=True, disable=not self.on_terminal, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._lock.close()

    def restore(self, model: GPT, optimizer: Optimizer, data: TokenData, loader: Loader) -> int:
        """Bring all back to where the checkpoint was made, the logs too -> the number of updates done.

        A run that begins finds an empty folder: what is to be overwritten is removed. Raises UsageError as
        `checkpoint.restore` does, and then has changed nothing in the folder.
        """
        if self.resumes_from is None:
            log_sizes = {METRICS: 0, SAMPLES: 0}
            for path in (self.folder / CHECKPOINTS).glob("*"):
                if checkpoint.NAME.fullmatch(path.name):
                    shutil.rmtree(path)
            (self.folder / PICTURE).unlink(missing_ok=True)
        else:
            self.steps_done, notes = checkpoint.restore(self.resumes_from, model, optimizer, data)
            log_sizes = notes["log_sizes"]
            loader.load_state(notes["loader"])
        for name, size in log_sizes.items():
            if (self.folder / name).stat().st_size > size:
                os.truncate(self.folder / name, size)
        self._bar.initial = self._bar.n = self.steps_done
        return self.steps_done

    def save(self, step: int, model: GPT, optimizer: Optimizer, data: TokenData, loader: Loader) -> None:
        """Add a checkpoint of the state after `step` updates. Raises RunError if it cannot be written."""
        log_sizes = {}
        for path in (self.folder / METRICS, self.folder / SAMPLES):
            path.touch()  # somebody may have removed it
            flush(path)
            log_sizes[path.name] = path.stat().st_size
        notes = {"log_sizes": log_sizes, "loader": loader.state()}
        checkpoint.save(self.config, step, model, optimizer, data, notes)

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar if there is one. If the reader has left, that is noted instead."""
        if self.config.quiet:
            return
        try:
            tqdm.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()
            self.reader_left = True

    def record(self, **values: Any) -> None:
        """Append one line to metrics.jsonl. Raises RunError if the disk is full."""
        self._append(METRICS, json.dumps(values) + "\n")

    def step(self, step: int, loss: float, lr: float, grad_norm: float, tokens_per_second: float) -> None:
        """Report update `step`, the first being 1: its loss in nats per token before the update, and how fast it was."""
        self.record(step=step, loss=loss, lr=lr, grad_norm=grad_norm, tokens_per_second=round(tokens_per_second))
        numbers = f"loss {loss:.3f}, lr {lr:.1e}, gradient norm {grad_norm:.2f}, {tokens_per_second:,.0f} tokens/s"
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update()
        is_first = step == self.steps_done + 1
        if is_first:
            self._first_step_ended = time.perf_counter()
        if self._bar.disable and (is_first or step % max(1, self.config.steps // LOG_LINES) == 0):
            seconds_per_step = (time.perf_counter() - self._first_step_ended) / max(1, step - self.steps_done - 1)
            left = "" if is_first else f", {duration(seconds_per_step * (self.config.steps - step))} left"
            self.say(f"step {step}/{self.config.steps}: {numbers}{left}")

    def validation(self, step: int, score: Score, sample: str) -> None:
        """Report the state after `step` updates: the validation score and a short sample."""
        self.record(step=step, val_loss=score.nats_per_token, val_bits_per_byte=score.bits_per_byte)
        self.write_sample(f"after {step} updates", sample)
        shown = " ".join(sample.split())[:100]
        self.say(f"after {step} updates: validation {score}; it writes: {shown}")

    def write_sample(self, heading: str, sample: str) -> None:
        """Append to samples.txt. Raises RunError if the disk is full."""
        self._append(SAMPLES, f"=== {heading} ===\n{sample}\n\n")

    def _append(self, name: str, text: str) -> None:
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = f"{self.folder / name} cannot be written: {error.strerror}"
            raise RunError(
                f"{reason}; {checkpoint.newest_in_words(self.folder)}; when that is put right, --resume goes on"
            ) from None


def _before_first_checkpoint(metrics: str, samples: str) -> bool:
    """Whether the logs hold no more than a run writes before its first checkpoint, so that nothing is lost with them."""
    first = '{"step": 0, "val_loss": '
    return metrics.count("\n") <= 1 and first.startswith(metrics[: len(first)]) and (metrics != "" or samples == "")
