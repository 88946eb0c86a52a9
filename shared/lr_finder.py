"""A learning-rate range test: train with a rate that rises from step to step, and see where the loss is lowest.

It works on any function that does one training step, with any optimizer, and leaves no trace: afterwards weights, optimizer
and random numbers are where they were, to the bit. The idea is L. Smith's (Cyclical Learning Rates for Training Neural
Networks, WACV 2017, section 3.3); S. Gugger's form of it, in the library fastai, made the sweep exponential.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from .plotting import BLUE, GREY, ORANGE, Picture, new_figure

Step = Callable[[float], Any]  # one training step at the given learning rate; returns the loss, a number or a tensor
Spacing = Literal["exponential", "linear"]

PROBES = [10.0**exponent for exponent in range(-7, 4)]
PROBE_STEPS = 20
NOTICED = 0.01  # a rate is worth sweeping if 20 steps with it change the loss by more than this share
WINDOW = 1 / 20  # the share of the steps over which the loss is averaged
RULE = "the rate at which the smoothed loss is lowest"


@dataclass(frozen=True)
class Sweep:
    """What a sweep has seen: the rate and the loss of each step, (n,) each, and over how many steps it is smoothed."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    window: int
    spacing: Spacing

    @property
    def smooth(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of `window` losses in a row, and the rate in the middle of each -> (n - window + 1,) rates, as many losses"""
        half = self.window // 2
        means = np.convolve(self.losses, np.full(self.window, 1 / self.window), mode="valid")
        return self.rates[half : half + len(means)], means

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss is lowest: up to there a larger step helped, beyond it hurts."""
        rates, losses = self.smooth
        return float(rates[losses.argmin()])


def find_learning_rate(step: Step, changes: Iterable[Any], n_steps: int = 500, spacing: Spacing = "exponential") -> Sweep:
    """Find the range in which a rate matters (up to 240 steps), and sweep it in `n_steps`, as many as one can afford.

    `step(lr)` does one training step and returns its loss. `changes` is everything that a step changes: tensors, modules,
    optimizers, schedules, random generators; the global random numbers of Python, NumPy and PyTorch are always restored.
    What cannot be set back, such as an iterator over data, goes on where the last step left it.
    Raises ValueError if no rate changes the loss, or if all of them diverge; TypeError for what cannot be restored.
    """
    changes = list(changes)
    low, high = find_range(step, changes)
    return sweep(step, changes, low, high, n_steps, spacing)


def find_range(step: Step, changes: Iterable[Any]) -> tuple[float, float]:
    """The highest power of ten that is too low to notice, and the lowest one that does harm.

    Each power from 1e-7 to 1e3 is tried for 20 steps from the same start on the same batches, and its losses are compared with
    those of the rate 0: "noticed" is a mean that differs by more than 1%, "harm" a last loss above that of not training.
    """
    changes = list(changes)

    def probe(lr: float) -> NDArray[np.float64]:
        with restored(changes):
            return np.array([_number(step(lr)) for _ in range(PROBE_STEPS)])

    still = probe(0.0)
    if not np.isfinite(still).all():
        raise ValueError(f"the loss is {still[~np.isfinite(still)][0]} before any training; a finite number is expected")
    low = PROBES[0]
    for lr in PROBES:
        losses = probe(lr)
        if not np.isfinite(losses).all() or losses[-1] - still[-1] > NOTICED * abs(still[-1]):
            if lr == PROBES[0]:
                raise ValueError(f"already at a rate of {lr:g} the loss grows; a step that lowers it is expected")
            return min(low, lr / 10), lr
        if abs(losses.mean() - still.mean()) <= NOTICED * abs(still.mean()):
            low = lr
    if low == PROBES[-1]:
        raise ValueError(f"no rate up to {low:g} changes the loss; a step that trains with the rate it is given is expected")
    return low, PROBES[-1]


def sweep(
    step: Step,
    changes: Iterable[Any],
    low: float,
    high: float,
    n_steps: int = 500,
    spacing: Spacing = "exponential",
) -> Sweep:
    """Take `n_steps` steps with rates from `low` to `high`, or fewer if the loss diverges; arguments as above.

    It has diverged when it is not finite, or when the mean of the last `n_steps` / 20 losses is twice that of the first.
    Raises ValueError if the rates are not 0 < low < high, or n_steps is below 20.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low is {low:g} and high is {high:g}; 0 < low < high is expected")
    if n_steps < round(1 / WINDOW):
        raise ValueError(f"n_steps is {n_steps}; at least {round(1 / WINDOW)} are expected")
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing is {spacing!r}; one of {', '.join(get_args(Spacing))} is expected")
    rates = np.geomspace(low, high, n_steps) if spacing == "exponential" else np.linspace(low, high, n_steps)
    window = max(1, round(WINDOW * n_steps))
    losses: list[float] = []
    with restored(changes):
        for rate in rates:
            loss = _number(step(float(rate)))
            if not math.isfinite(loss):
                break
            losses.append(loss)
            first, last = np.mean(losses[:window]), np.mean(losses[-window:])
            if last - first > abs(first):  # twice as large; a loss may also be negative
                break
    if len(losses) < window:
        raise ValueError(f"the loss diverges within {len(losses) + 1} steps from a rate of {low:g}; a lower one is expected")
    return Sweep(rates[: len(losses)], np.array(losses), window, spacing)


def plot(sweep: Sweep, title: str = "") -> Picture:
    """Loss against rate: each step as a dot, the smoothed loss as a line, the suggested rate and its rule."""
    title = title or f"The smoothed loss is lowest at a rate of {sweep.suggestion:.2g}"
    figure, axes = new_figure(title, f"learning rate ({sweep.spacing} sweep)", "loss of the mini-batch")
    rates, losses = sweep.smooth
    axes.plot(sweep.rates, sweep.losses, ".", color=GREY, markersize=3, alpha=0.6, label="each step")
    axes.plot(rates, losses, color=BLUE, linewidth=2.5, label=f"mean of {sweep.window} steps")
    axes.axvline(
        sweep.suggestion, color=ORANGE, linestyle="--", linewidth=2, label=f"suggested: {sweep.suggestion:.2g}, {RULE}"
    )
    if sweep.spacing == "exponential":
        axes.set_xscale("log")
    height = losses[0] - losses.min()
    axes.set_ylim(losses.min() - 0.3 * height, losses[0] + height)  # where it diverges, the line leaves the picture
    axes.legend(loc="upper left")
    return figure


@contextmanager
def restored(things: Iterable[Any]) -> Iterator[None]:
    """Within this block anything may happen to `things` and to the random numbers; after it they are as they were."""
    with ExitStack() as undo:
        for thing in things:
            undo.callback(_snapshot(thing))
        undo.callback(random.setstate, random.getstate())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available():
            undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        if torch.backends.mps.is_available():
            undo.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield


def _number(loss: Any) -> float:
    return loss.item() if isinstance(loss, torch.Tensor) else float(loss)


def _snapshot(thing: Any) -> Callable[[], None]:
    """A function that puts `thing` back to where it is now."""
    if isinstance(thing, torch.Tensor):
        value, slope = thing.detach().clone(), None if thing.grad is None else thing.grad.clone()

        def put_back() -> None:
            thing.detach().copy_(value)
            thing.grad = slope

        return put_back
    if isinstance(thing, torch.nn.Module):
        undo = ExitStack()
        for tensor in (*thing.parameters(), *thing.buffers()):
            undo.callback(_snapshot(tensor))
        return undo.close
    for read, write in (("state_dict", "load_state_dict"), ("get_state", "set_state"), ("getstate", "setstate")):
        if hasattr(thing, read) and hasattr(thing, write):
            state = deepcopy(getattr(thing, read)())
            return lambda: getattr(thing, write)(state)
    if isinstance(thing, np.random.Generator):
        state = deepcopy(thing.bit_generator.state)
        return lambda: setattr(thing.bit_generator, "state", state)
    raise TypeError(
        f"a {type(thing).__name__} cannot be put back; tensors, modules, optimizers, schedules and generators are expected"
    )
