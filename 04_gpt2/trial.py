"""A few rows through the model before the run begins: does it fit, does the compiler work, how long will it take?"""

import time
from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor

from shared.cli import UsageError

from .config import TrainConfig
from .model import GPT

Forward = Callable[[Tensor, Tensor], Tensor]  # inputs and targets (B, T) -> mean loss


def build(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> tuple[GPT, float]:
    """A fresh model on `device` and the seconds that the whole run should take. Raises UsageError if memory is too small."""
    try:
        with device:
            model = GPT(config.model)
        return model, expected_seconds(model, config, dtype)
    except (RuntimeError, MemoryError) as error:  # PyTorch's word for too little memory
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"a model of {config.model.n_params:,} parameters with --batch-size {config.batch_size} does not fit here "
            f"({reason}); choose a smaller one"
        ) from None


def compile_if_asked(model: GPT, config: TrainConfig, dtype: torch.dtype) -> Forward:
    """The model's forward pass, compiled if so configured. Raises UsageError if there is no compiler that works."""
    if config.compile == "off" or (config.compile == "auto" and model.device.type != "cuda"):
        return model
    forward = torch.compile(model)
    try:
        trial_seconds(forward, model, config.batch_size, config.model.block_size, dtype)
    except Exception as error:  # compilers fail in many ways
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"torch.compile does not work here ({reason}); give --compile off") from None
    return forward


def expected_seconds(model: GPT, config: TrainConfig, dtype: torch.dtype) -> float:
    """Time of the run, from a few rows pushed forward and backward through the model."""
    T = min(config.model.block_size, 1024)
    rows = min(config.batch_size, max(1, 1024 // T)) if model.device.type == "cpu" else config.batch_size
    trials: list[float] = []
    while len(trials) < 2 or (len(trials) < 5 and sum(trials) < 2):
        trials.append(trial_seconds(model, model, rows, T, dtype))
    per_token = fmean(trials[1:]) / (rows * T)  # the first one warms up
    scored = (config.steps // config.eval_every + 2) * config.eval_tokens / 3  # forward only: a third of the work
    return per_token * (config.steps * config.tokens_per_step + scored)


def trial_seconds(forward: Forward, model: GPT, rows: int, T: int, dtype: torch.dtype) -> float:
    """Time of one micro-batch of (rows, T) tokens, forward and backward; leaves no gradient and no random number behind."""
    x = torch.zeros((rows, T), dtype=torch.long, device=model.device)
    started = time.perf_counter()
    with torch.random.fork_rng():
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = forward(x, x)
        loss.backward()
        loss.item()  # waits for the device
    model.zero_grad()
    return time.perf_counter() - started
