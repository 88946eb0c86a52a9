"""What a practitioner looks at to see whether a network is healthy: four pictures of what happens inside while it trains.

A `Recorder` watches any model, a torch.nn.Module or the layers of stage 02, under any optimizer of PyTorch. It changes nothing
about the training, and its memory is bounded however long that takes. The pictures are those of A. Karpathy's lecture
"makemore", part 3 (2022), after X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural
networks (AISTATS 2010): with several recordings they are drawn side by side, on the same axes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from .parts import named_weights, watchable_layers
from .plotting import GREY, Picture, new_panels

SAMPLE = 10_000  # values that are kept of each tensor, drawn at random
MOST = 1_000  # steps that are kept of a training; when there are more, every second is forgotten
BINS = 80
LINES = ("-", "--", ":", "-.")
USUAL_RATIO = 1e-3  # a usual update is about a thousandth of the weights

# An output from which hardly any slope comes back: less than 6% of what the middle of the curve lets through, for ReLU none.
SATURATED = {
    "Tanh": lambda out: out.abs() > 0.97,
    "Sigmoid": lambda out: (2 * out - 1).abs() > 0.97,
    "ReLU": lambda out: out == 0,
}


@dataclass
class Outputs:
    """What a layer gave, one number for each recorded step, and a sample of its values in the last of them."""

    kind: str  # the layer's class
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)  # a share; NaN for layers that cannot saturate
    grad_std: list[float] = field(default_factory=list)  # spread of the loss's gradient with respect to the outputs
    values: Tensor = field(default_factory=lambda: torch.empty(0))  # (≤ SAMPLE,)
    grads: Tensor = field(default_factory=lambda: torch.empty(0))  # (≤ SAMPLE,)


@dataclass
class Weights:
    """What became of a weight matrix, one number for each recorded step, and a sample of its values after the last."""

    shape: tuple[int, ...]
    std: list[float] = field(default_factory=list)  # before the step
    ratio: list[float] = field(default_factory=list)  # spread of the step's update / spread of the weights before it
    values: Tensor = field(default_factory=lambda: torch.empty(0))  # (≤ SAMPLE,)


class Recorder:
    """Watches a model at each step of its optimizer, until `close()` is called or its `with` block ends.

    `layers` names the layers to watch, by kind ("Tanh") or by name ("layers.3"); without it, all that hold no others. Pictures
    say most, and training takes least longer, with layers of one kind. Seen are those that give one tensor of floating-point
    numbers. Weights are watched if they have two dimensions or more. Forward passes in evaluation mode or without gradients
    are not seen; of several before one step, the last is. Gradients are those of what `backward` was called on, be it a part
    of a batch or a scaled loss. Close the recorder before the model is pickled whole. Raises ValueError if there is no such
    layer, if one cannot be watched, or if the optimizer trains none of the model's matrices.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, layers: Collection[str] | None = None):
        self.steps: list[int] = []  # those that are recorded, counted from when the recorder began
        self.outputs: dict[str, Outputs] = {}
        self.weights: dict[str, Weights] = {}
        self._interval, self._step = 1, 0
        # Where samples are taken, as shares of a tensor's length; of a generator of its own, which training does not notice.
        self._places = torch.rand(SAMPLE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self._seen: dict[str, dict[str, Any]] = {}
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._matrices = {name: p for name, p in named_weights(model) if p.dim() >= 2 and id(p) in trained}
        if not self._matrices:
            raise ValueError("the optimizer trains no matrix of this model; one made from the model's parameters is expected")
        self._before: dict[str, Tensor] = {}
        self._watched = dict(watchable_layers(model, layers))
        self._handles = [layer.register_forward_hook(self._forward_hook(name)) for name, layer in self._watched.items()]
        self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._watched, self._before, self._seen = [], {}, {}, {}

    def _due(self) -> bool:
        return self._step % self._interval == 0

    def _forward_hook(self, name: str) -> Any:
        def hook(layer: Any, inputs: Any, out: Any) -> None:
            if self._watched.get(name) is not layer or not self._due() or not layer.training:  # a copy has the same hooks
                return
            if not isinstance(out, Tensor) or not out.requires_grad or out.is_leaf:
                return

            def on_gradient(grad: Tensor) -> None:
                seen.update(grad_std=_spread(grad), grads=self._sampled(grad))
                # Checkpointing runs the layer a second time; then the first pass has the gradient.
                if self._watched.get(name) is layer and not len(self._seen.get(name, seen)["grads"]):
                    self._seen[name] = seen

            kind = type(layer).__name__
            share = SATURATED[kind](out.detach()).float().mean().item() if kind in SATURATED else math.nan
            seen = {"kind": kind, "saturated": share, "grad_std": math.nan, "grads": torch.empty(0)}
            seen["mean"], seen["std"] = out.detach().mean().item(), _spread(out.detach())
            seen["values"] = self._sampled(out.detach())
            self._seen[name] = seen
            out.register_hook(on_gradient)

        return hook

    def _before_step(self, *_: Any) -> None:
        if self._due():
            self._before = {name: p.detach().clone() for name, p in self._matrices.items()}

    def _after_step(self, *_: Any) -> None:
        if self._due():
            for name, seen in self._seen.items():
                self.outputs.setdefault(name, Outputs(seen["kind"]))
            for name, known in self.outputs.items():
                for sample in ("values", "grads"):
                    setattr(known, sample, self._seen.get(name, {}).get(sample, torch.empty(0)))
                for series in ("mean", "std", "saturated", "grad_std"):
                    values = getattr(known, series)
                    values += [math.nan] * (len(self.steps) - len(values))  # a layer that was not used until now
                    values.append(self._seen.get(name, {}).get(series, math.nan))
            for name, p in self._matrices.items():
                known, before = self.weights.setdefault(name, Weights(tuple(p.shape))), self._before[name]
                known.std.append(_spread(before))
                known.ratio.append(_spread(p.detach() - before) / known.std[-1] if known.std[-1] else math.nan)
                known.values = self._sampled(p.detach())
            self.steps.append(self._step)
            self._seen, self._before = {}, {}
            if len(self.steps) > MOST:
                self._forget_every_second()
        self._step += 1

    def _forget_every_second(self) -> None:
        series = [[known.mean, known.std, known.saturated, known.grad_std] for known in self.outputs.values()]
        series += [[known.std, known.ratio] for known in self.weights.values()]
        for values in [self.steps, *(values for group in series for values in group)]:
            del values[1::2]
        self._interval *= 2

    def _sampled(self, tensor: Tensor) -> Tensor:
        flat = tensor.detach().flatten()
        if len(flat) > SAMPLE:
            flat = flat[(self._places * len(flat)).long().to(flat.device)]
        return flat.float().cpu().clone()


def plot_activations(records: Mapping[str, Recorder]) -> Picture:
    """What the layers gave in the last recorded step: a histogram of each, its spread, and how much of it is saturated.

    Healthy: all layers spread alike, and few values at the ends of the curve.
    """

    def label(known: Outputs) -> str:
        if not len(known.values):
            return f"{known.kind}: not used in this step"
        saturated = "" if math.isnan(known.saturated[-1]) else f", saturated {known.saturated[-1]:.0%}"
        return f"{known.kind}: spread {known.std[-1]:#.2g}{saturated}"

    curves = {title: {f"{name} {label(k)}": k.values for name, k in r.outputs.items()} for title, r in records.items()}
    return _histograms(records, curves, "output of the layer")


def plot_gradients(records: Mapping[str, Recorder]) -> Picture:
    """Sizes of the loss's gradients with respect to what the layers gave, in the last recorded step.

    Healthy: all layers alike. If the curves move to the left from the last layer to the first, gradients vanish on their way
    back; to the right, they explode.
    """

    def label(known: Outputs) -> str:
        if not len(known.grads):
            return f"{known.kind}: no gradient in this step"
        zeros = (known.grads == 0).double().mean().item()
        return f"{known.kind}: spread {known.grad_std[-1]:.1e}" + (f", {zeros:.0%} are 0" if zeros >= 0.005 else "")

    curves = {title: {f"{name} {label(k)}": k.grads.abs() for name, k in r.outputs.items()} for title, r in records.items()}
    return _histograms(records, curves, "size of the gradient (logarithmic)", logarithmic=True)


def plot_weights(records: Mapping[str, Recorder]) -> Picture:
    """Sizes of the weights after the last recorded step: a histogram of each matrix.

    Healthy: one hill each, not far from where it began. A matrix far from the others, or a long slope to the right, asks for a
    closer look.
    """

    def label(known: Weights) -> str:
        return f"{' × '.join(map(str, known.shape))}: spread {_spread(known.values):#.2g}"

    curves = {title: {f"{name} {label(k)}": k.values.abs() for name, k in r.weights.items()} for title, r in records.items()}
    return _histograms(records, curves, "size of the weight (logarithmic)", logarithmic=True)


def plot_ratios(records: Mapping[str, Recorder]) -> Picture:
    """How far each step moves the weights, as a share of their spread, from step to step, with a guide line at 0.001.

    Healthy: all matrices near the line. Far above it, steps tear down what was learned; far below, little is learned.
    """
    ylabel = "update / weights (logarithmic)"
    figure, panels = _panels(records, max((len(record.weights) for record in records.values()), default=0), "step", ylabel)
    for axes, record in zip(panels, records.values(), strict=True):
        axes.axhline(USUAL_RATIO, color=GREY, linewidth=2.5, label="guide: 0.001")
        axes.set_yscale("log")
        for i, (name, known) in enumerate(record.weights.items()):
            ratios = [ratio if ratio > 0 else math.nan for ratio in known.ratio]
            marker = "." if len(record.steps) < 20 else None  # of which some may stand alone
            axes.plot(record.steps, ratios, marker=marker, label=name, linewidth=1.2, **_look(i, len(record.weights)))
        _legend(axes)
    return figure


Curves = Mapping[str, Mapping[str, Tensor]]  # the values of each curve by its label, for each panel by its title


def _histograms(records: Mapping[str, Recorder], curves: Curves, xlabel: str, logarithmic: bool = False) -> Picture:
    """Panels side by side: in each a curve for every tensor, over the same bins."""
    every = [_finite(values) for panel in curves.values() for values in panel.values()]
    edges = _logarithmic_edges(every) if logarithmic else _linear_edges(every)
    figure, panels = _panels(records, max(map(len, curves.values()), default=0), xlabel, "share of the values in a bin")
    if not all(curves.values()):
        raise ValueError("no layer that is watched gave one tensor in a forward pass with gradients; name others in `layers`")
    highest = 0.0
    for axes, panel in zip(panels, curves.values(), strict=True):
        if logarithmic:
            axes.set_xscale("log")
        for i, (label, values) in enumerate(panel.items()):
            finite = _finite(values)
            shares = np.histogram(finite, edges)[0] / max(len(values), 1)
            highest = max(highest, shares.max())
            if len(finite) < len(values):
                label += f", {1 - len(finite) / len(values):.0%} not finite"
            axes.stairs(shares, edges, label=label.strip(), linewidth=1.5, **_look(i, len(panel)))
        _legend(axes)
    panels[0].set_ylim(0, 1.05 * highest or 1)
    return figure


def _panels(records: Mapping[str, Recorder], n_curves: int, xlabel: str, ylabel: str) -> tuple[Picture, list[Axes]]:
    """One for each recording, with room below for a line of the legend for each curve."""
    if not records or not all(record.steps for record in records.values()):
        raise ValueError("nothing is recorded; take at least one step of the optimizer while the recorder watches")
    return new_panels(list(records), xlabel, ylabel, (4.4 * max(len(records), 1.4), 3.3 + 0.18 * n_curves))


def _spread(tensor: Tensor) -> float:
    """Standard deviation, 0 for a single number."""
    numbers = tensor.detach().float()
    return (numbers - numbers.mean()).square().mean().sqrt().item()  # quicker than .std()


def _linear_edges(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    values = np.concatenate([*curves, np.empty(0)])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return np.linspace(low, high, BINS + 1) if low < high else np.linspace(low - 0.5, low + 0.5, BINS + 1)


def _logarithmic_edges(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Up to the largest; of each curve the smallest thousandth may be left out, which would stretch the axis by decades."""
    curves = [sizes[sizes > 0] for sizes in curves if (sizes > 0).any()]
    low, high = (min(np.quantile(c, 0.001) for c in curves), max(c.max() for c in curves)) if curves else (0.1, 1.0)
    return np.geomspace(low, high, BINS + 1) if low < high else np.geomspace(low / 2, low * 2, BINS + 1)


def _finite(values: Tensor) -> NDArray[np.float64]:
    numbers = values.double().numpy()
    return numbers[np.isfinite(numbers)]


def _look(i: int, n: int) -> dict[str, Any]:
    """The first layer dark, the last one light; neighbours also differ by their lines."""
    return {"color": colormaps["viridis"](0.85 * i / max(n - 1, 1)), "linestyle": LINES[i % len(LINES)]}


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5.5, fontsize=8, frameon=False)
