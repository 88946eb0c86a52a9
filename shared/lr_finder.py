"""A learning-rate range test: train with a rate that rises from step to step, and see where the loss is lowest.

It works on any function that does one training step, with any optimizer, and leaves no trace: afterwards weights, optimizer
and random numbers are where they were, to the bit. The idea is L. Smith's (Cyclical Learning Rates for Training Neural
Networks, WACV 2017, section 3.3); S. Gugger's form of it, in the library fastai, made the sweep exponential.
"""

import math
import random
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from .parts import named_layers
from .plotting import BLUE, GREY, ORANGE, Picture, new_figure

Step = Callable[[float], Any]  # one training step at the given learning rate; returns the loss, a number or a tensor
Spacing = Literal["exponential", "linear"]

PROBES = [10.0**exponent for exponent in range(-7, 4)]
PROBE_STEPS = 20
NOTICED = 0.02  # a rate is too low if it moves the losses by less than this share of what the best rate moves them
HARM = 0.5  # and too high if it leaves the loss higher by this share than not training; a sweep stops by itself
LEAST_STEPS = 20


@dataclass(frozen=True)
class Sweep:
    """What a sweep has seen: the rate and the loss of each step, (n,) each, and over how many steps it is smoothed."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    window: int
    spacing: Spacing
    diverged: bool

    @property
    def smooth(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of `window` losses in a row, and the rate in the middle of each -> (n - window + 1,) rates, as many losses"""
        half = self.window // 2
        means = np.convolve(self.losses, np.full(self.window, 1 / self.window), mode="valid")
        return self.rates[half : half + len(means)], means

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss is lowest: up to there larger steps still helped.

        At the edge of the sweep a better one may lie beyond (`at_edge`). Where the loss has little noise, as with the same
        batch at each step, or where the rate is not to fall during training, take a third of it: the lowest mean then lies
        close to divergence.
        """
        rates, losses = self.smooth
        return float(rates[losses.argmin()])

    @property
    def at_edge(self) -> bool:
        """Whether the smoothed loss is lowest at the first rates, or at the last ones without having diverged."""
        _, losses = self.smooth
        lowest, half = losses.argmin(), self.window // 2
        return bool(lowest < half or (not self.diverged and lowest >= len(losses) - half))


def find_learning_rate(step: Step, changes: Any, n_steps: int = 500, spacing: Spacing = "exponential") -> Sweep:
    """Find the range in which a rate matters (up to 260 steps), and sweep it in `n_steps`, as many as one can afford.

    `step(lr)` does one training step and returns its loss; lr is also 0, and up to 1000. `changes` is everything that a step
    changes: models, tensors, optimizers, schedules, random generators; the global random numbers of Python, NumPy and PyTorch
    are always put back. Of a model that is its tensors, their gradients, its mode and its generators, but no other attributes.
    Raises ValueError if the same step does not give the same loss twice, if no rate changes the loss, or if all diverge;
    TypeError for what cannot be put back.
    """
    _check(n_steps, spacing)
    things = list(_flat(changes))
    low, high = find_range(step, things)
    return sweep(step, things, low, high, n_steps, spacing)


def find_range(step: Step, changes: Any) -> tuple[float, float]:
    """The highest power of ten that is too low to notice, and the lowest one that does harm.

    Each power from 1e-7 to 1e3 is tried for 20 steps from the same start on the same batches, and its losses are compared with
    those of the rate 0. Harm is a mean of the last ten that is half as much again as that of not training. A rate is noticed
    if it moves the losses by more than 2% of what the rate without harm moves them that moves them most. Other arguments and
    errors as above.
    """
    things = list(_flat(changes))

    def probe(lr: float) -> NDArray[np.float64]:
        with restored(things):
            return np.array([_number(step(lr)) for _ in range(PROBE_STEPS)])

    still, again = probe(0.0), probe(0.0)
    if not np.isfinite(still).all():
        raise ValueError(f"the loss is {still[~np.isfinite(still)][0]} before any training; a finite number is expected")
    if not np.allclose(still, again, rtol=1e-3):
        raise ValueError(
            f"the same step gives a loss of {still[-1]:g} and then of {again[-1]:g}; name what draws its batches, or its "
            "dropout, among the changes, or, where that cannot be put back, give `sweep` a range"
        )
    moved: dict[float, float] = {}
    high = PROBES[-1]
    for lr in PROBES:
        losses = probe(lr)
        last, last_still = losses[PROBE_STEPS // 2 :].mean(), still[PROBE_STEPS // 2 :].mean()
        if not np.isfinite(losses).all() or last - last_still > HARM * abs(last_still):
            high = lr
            break
        moved[lr] = float(np.abs(losses - still).mean())
    if not moved:
        raise ValueError(f"already at a rate of {PROBES[0]:g} the loss grows; a step that lowers it is expected")
    most = max(moved.values())
    if most == 0:
        raise ValueError("no rate changes the loss without harm; a step that trains with the rate it is given is expected")
    noticed = [lr for lr, by in moved.items() if by > NOTICED * most]
    low = max((lr for lr in moved if lr < noticed[0]), default=PROBES[0])
    return low, high


def sweep(step: Step, changes: Any, low: float, high: float, n_steps: int = 500, spacing: Spacing = "exponential") -> Sweep:
    """Take `n_steps` steps with rates from `low` to `high`, or fewer if the loss diverges; other arguments as above.

    It has diverged when it is not finite, or when the mean of the last `n_steps` / 20 losses is twice that of the first.
    Raises ValueError if the rates are not 0 < low < high, or n_steps is below 20.
    """
    _check(n_steps, spacing)
    if not 0 < low < high < math.inf:
        raise ValueError(f"low is {low:g} and high is {high:g}; 0 < low < high is expected")
    rates = np.geomspace(low, high, n_steps) if spacing == "exponential" else np.linspace(low, high, n_steps)
    window = max(5, round(n_steps / 20))
    losses: list[float] = []
    diverged = False
    with restored(changes):
        for rate in rates:
            loss = _number(step(float(rate)))
            diverged = not math.isfinite(loss)
            if not diverged:
                losses.append(loss)
                first, last = np.mean(losses[:window]), np.mean(losses[-window:])
                diverged = bool(last - first > abs(first))  # twice as large; a loss may also be negative
            if diverged:
                break
    if len(losses) < window:
        raise ValueError(f"the loss diverges within {len(losses) + 1} steps from a rate of {low:g}; a lower one is expected")
    return Sweep(rates[: len(losses)], np.array(losses), window, spacing, diverged)


def plot(found: Sweep, title: str = "") -> Picture:
    """Loss against rate: each step as a dot, the smoothed loss as a line, the suggested rate and the rule behind it."""
    exponential = found.spacing == "exponential"
    where = "the edge of the sweep: widen it" if found.at_edge else f"a rate of {found.suggestion:.2g}"
    xlabel = "learning rate (logarithmic)" if exponential else "learning rate"
    figure, axes = new_figure(title or f"The smoothed loss is lowest at {where}", xlabel, "loss of the mini-batch")
    rates, losses = found.smooth
    rule = f"lowest mean: {found.suggestion:.2g} is suggested"
    axes.plot(found.rates, found.losses, ".", color=GREY, markersize=3, alpha=0.6, label="each step")
    axes.plot(rates, losses, color=BLUE, linewidth=2.5, label=f"mean of {found.window} steps")
    axes.axvline(found.suggestion, color=ORANGE, linestyle="--", linewidth=2, label=rule)
    if exponential:
        axes.set_xscale("log")
    before = found.losses[found.rates <= found.suggestion]  # beyond it, what diverges may leave the picture
    bottom, top = found.losses.min(), max(before.max(), losses[0])
    height = max(top - bottom, 1e-3 * abs(top), 1e-9)
    axes.set_ylim(bottom - 0.05 * height, top + 0.2 * height)
    axes.legend(loc="upper center", ncols=3)
    return figure


@contextmanager
def restored(changes: Any) -> Iterator[None]:
    """Within this block anything may happen to `changes` and to the random numbers; after it they are as they were."""
    with ExitStack() as undo:
        undo.callback(random.setstate, random.getstate())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            undo.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        if torch.backends.mps.is_available():
            undo.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        for thing in _flat(changes):
            _remember(thing, undo)
        yield


def _flat(changes: Any) -> Iterator[Any]:
    """Single things, out of one thing or lists of lists of them."""
    if isinstance(changes, (list, tuple, set)):
        for change in changes:
            yield from _flat(change)
    else:
        yield changes


def _remember(thing: Any, undo: ExitStack) -> None:
    """Let `undo` put `thing` back to where it is now."""
    if isinstance(thing, torch.Tensor):
        _remember_tensor(thing, undo)
    elif isinstance(thing, torch.nn.Module):
        for part in thing.modules():
            undo.callback(setattr, part, "training", part.training)
            for registry in (part._parameters, part._buffers, part._modules):
                undo.callback(_refill, registry, dict(registry))
        for tensor in (*thing.parameters(), *thing.buffers()):
            _remember_tensor(tensor, undo)
    elif isinstance(thing, torch.optim.Optimizer):  # not by load_state_dict, which makes new groups and casts the state
        undo.callback(_refill, thing.state, dict(thing.state))
        undo.callback(thing.param_groups.__setitem__, slice(None), list(thing.param_groups))
        for mapping in (*thing.state.values(), *thing.param_groups):
            _remember_mapping(mapping, undo)
    elif isinstance(thing, np.random.Generator):
        undo.callback(setattr, thing.bit_generator, "state", deepcopy(thing.bit_generator.state))
    elif hasattr(thing, "parameters"):  # a model of bare tensors, as in stage 02
        for tensor in thing.parameters():
            _remember_tensor(tensor, undo)
        for _, layer in named_layers(thing):
            _remember_layer(layer, undo)
    else:
        for read, write in (("state_dict", "load_state_dict"), ("get_state", "set_state"), ("getstate", "setstate")):
            if hasattr(thing, read) and hasattr(thing, write):
                undo.callback(getattr(thing, write), deepcopy(getattr(thing, read)()))
                return
        raise TypeError(
            f"a {type(thing).__name__} cannot be put back; models, tensors, optimizers, schedules and random generators, "
            "or lists of them, are expected"
        )


def _remember_layer(layer: Any, undo: ExitStack) -> None:
    """The mode, the random generators and the tensors, running statistics among them, of a layer of bare tensors."""
    if hasattr(layer, "training"):
        undo.callback(setattr, layer, "training", layer.training)
    for name, value in vars(layer).items():
        for thing in _flat(value):
            if isinstance(thing, torch.Generator) or (isinstance(thing, torch.Tensor) and thing.is_leaf):
                _remember(thing, undo)
        if isinstance(value, torch.Tensor):
            undo.callback(setattr, layer, name, value)


def _remember_mapping(mapping: MutableMapping[Any, Any], undo: ExitStack) -> None:
    """An optimizer's options or state: tensors are written back in place, the rest is put back as a copy."""
    kept = {}
    for name, value in mapping.items():
        if isinstance(value, torch.Tensor):
            _remember_tensor(value, undo)
            kept[name] = value
        else:
            kept[name] = list(value) if name == "params" else deepcopy(value)
    undo.callback(_refill, mapping, kept)


def _remember_tensor(tensor: torch.Tensor, undo: ExitStack) -> None:
    storage, value, wanted = tensor.data, tensor.detach().clone(), tensor.requires_grad
    slope = tensor.grad
    kept = None if slope is None else slope.clone()

    def put_back() -> None:
        tensor.data = storage
        storage.copy_(value)
        if tensor.is_leaf:
            tensor.requires_grad_(wanted)
        if slope is not None and kept is not None:
            slope.detach().copy_(kept)
        tensor.grad = slope

    undo.callback(put_back)


def _refill(mapping: MutableMapping[Any, Any], kept: dict[Any, Any]) -> None:
    mapping.clear()
    mapping.update(kept)


def _number(loss: Any) -> float:
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss.item()
    if isinstance(loss, (int, float, np.number)):
        return float(loss)
    raise TypeError(f"a step returns {type(loss).__name__}; its loss, a number or a tensor of one element, is expected")


def _check(n_steps: int, spacing: str) -> None:
    if n_steps < LEAST_STEPS:
        raise ValueError(f"n_steps is {n_steps}; at least {LEAST_STEPS} are expected")
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing is {spacing!r}; one of {', '.join(get_args(Spacing))} is expected")
