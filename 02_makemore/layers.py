"""What networks of tensors are made of: layers that hold bare tensors, and the loss that they are trained by.

The names and shapes are those of torch.nn, so that everything learned here carries over; the insides are all here.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

Hook = Callable[["Layer", tuple[Tensor], Tensor], Any]

# shapes: N examples, T letters of context, C channels of an embedding, (…) any dimensions


class Layer:
    """What every layer has: a way from input to output, parameters, and a mode (training or evaluation)."""

    training = True

    def __call__(self, x: Tensor) -> Tensor:
        out = self.forward(x)
        for hook in list(vars(self).get("hooks", {}).values()):
            hook(self, (x,), out)
        return out

    def forward(self, x: Tensor, /) -> Tensor:
        raise NotImplementedError

    def register_forward_hook(self, hook: Hook) -> RemovableHandle:
        """Call `hook(layer, inputs, output)` after each forward pass, until `remove()` of what is returned is called.

        As in torch.nn, but a hook only looks: what it returns does not take the output's place.
        """
        hooks = vars(self).setdefault("hooks", OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def parameters(self) -> list[Tensor]:
        """The tensors that learn, always in the same order."""
        return []

    def train(self, mode: bool = True) -> "Layer":
        """Switch to training; `train(False)` to evaluation. Some layers behave differently in the two."""
        self.training = mode
        return self

    def eval(self) -> "Layer":
        """Switch to evaluation: nothing that a layer does there depends on the rest of the batch or on chance."""
        return self.train(False)


class Linear(Layer):
    """x · weightᵀ + bias: (…, in_features) -> (…, out_features)

    The weight is (out_features, in_features), normal with standard deviation gain / √in_features: if the inputs have
    spread 1, the outputs have spread `gain`, however many inputs there are (He et al. 2015). The bias begins at 0.
    Raises ValueError if there are no inputs or no outputs.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        if in_features < 1 or out_features < 1:
            raise ValueError(
                f"in_features is {in_features} and out_features is {out_features}; at least 1 is expected of each"
            )
        weight = torch.randn(out_features, in_features, generator=generator) * gain / in_features**0.5
        self.weight = weight.requires_grad_()
        self.bias = torch.zeros(out_features, requires_grad=True) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        out = x @ self.weight.T
        return out if self.bias is None else out + self.bias

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class Embedding(Layer):
    """A table with a learned row for each id: ids (…) int64 -> rows (…, embedding_dim). Its numbers begin standard normal."""

    def __init__(self, num_embeddings: int, embedding_dim: int, generator: torch.Generator | None = None):
        self.weight = torch.randn(num_embeddings, embedding_dim, generator=generator).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[x]

    def parameters(self) -> list[Tensor]:
        return [self.weight]


class Tanh(Layer):
    """Bends each number into (-1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Flatten(Layer):
    """All dimensions but the first in one row: (N, T, C) -> (N, T · C)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(start_dim=1)


class FlattenConsecutive(Layer):
    """Sets each `n` neighbours in time side by side: (N, T, C) -> (N, T / n, n · C)

    Nothing is computed: it is a view. Raises ValueError if n is below 1 or x is not (N, T, C) with a multiple of n for T.
    """

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"n is {n}; at least 1 is expected")
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"x is {tuple(x.shape)}; (N, T, C) is expected")
        N, T, C = x.shape
        if T % self.n:
            raise ValueError(
                f"{T} positions cannot be set side by side {self.n} at a time; a multiple of {self.n} is expected"
            )
        return x.reshape(N, T // self.n, self.n * C)


class BatchNorm1d(Layer):
    """Gives each channel mean 0 and variance 1 over the batch, then a learned spread and mean: (…, C) -> (…, C)

    In training over all examples (and, if x has them, all positions) at hand; in evaluation by running averages of what
    training saw, so that an example's result no longer depends on its neighbours (Ioffe and Szegedy 2015). As in torch.nn
    the batch is divided by its own variance, `mean((x - mean)²)`, while the running one averages the unbiased estimate, which
    has n - 1 below the line. Where torch.nn expects (N, C, T), the channels here stand last, as in every other layer.
    Raises ValueError for other than C channels, and in training for a single number a channel, which has no spread.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}; at least 1 is expected")
        self.eps, self.momentum = eps, momentum
        self.weight = torch.ones(num_features, requires_grad=True)
        self.bias = torch.zeros(num_features, requires_grad=True)
        self.running_mean = torch.zeros(num_features)
        self.running_var = torch.ones(num_features)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"x is {tuple(x.shape)}; {len(self.weight)} channels are expected in its last dimension")
        if not self.training:
            return (x - self.running_mean) * self._scale(self.running_var) + self.bias
        n = x.numel() // x.shape[-1]
        if n < 2:
            raise ValueError(f"x is {tuple(x.shape)}; in training at least 2 numbers a channel are expected")
        rows = tuple(range(x.dim() - 1))  # all dimensions but the channels
        mean = x.mean(dim=rows)
        centred = x - mean
        var = centred.square().mean(dim=rows)
        with torch.no_grad():
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var * n / (n - 1) - self.running_var)
        return centred * self._scale(var) + self.bias

    def _scale(self, var: Tensor) -> Tensor:
        return self.weight / (var + self.eps).sqrt()

    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]


class LayerNorm(Layer):
    """Gives each example mean 0 and variance 1 over its channels, then a learned spread and mean: (…, C) -> (…, C)

    No example touches another one, and training and evaluation are the same (Ba, Kiros and Hinton 2016).
    Raises ValueError for other than C channels.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-5):
        if normalized_shape < 1:
            raise ValueError(f"normalized_shape is {normalized_shape}; at least 1 is expected")
        self.eps = eps
        self.weight = torch.ones(normalized_shape, requires_grad=True)
        self.bias = torch.zeros(normalized_shape, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"x is {tuple(x.shape)}; {len(self.weight)} channels are expected in its last dimension")
        centred = x - x.mean(dim=-1, keepdim=True)
        var = centred.square().mean(dim=-1, keepdim=True)
        return centred / (var + self.eps).sqrt() * self.weight + self.bias

    def parameters(self) -> list[Tensor]:
        return [self.weight, self.bias]


class Dropout(Layer):
    """In training sets each number to 0 with probability p and divides the others by 1 - p; in evaluation does nothing.

    No neuron can then rely on a single other one, and the mean of what goes through is the same in both modes
    (Srivastava et al. 2014).
    """

    def __init__(self, p: float, generator: torch.Generator | None = None):
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}; a probability of at least 0 and below 1 is expected")
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=self.generator) >= self.p
        return x * kept / (1 - self.p)


class Sequential(Layer):
    """Layers one after the other, each fed with what the one before it gives."""

    def __init__(self, *layers: Layer):
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self) -> list[Tensor]:
        return [p for layer in self.layers for p in layer.parameters()]

    def train(self, mode: bool = True) -> "Sequential":
        for layer in self.layers:
            layer.train(mode)
        self.training = mode
        return self


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log p(target), in nats, where p = softmax(logits): (N, V), (N,) -> ()

    `log_softmax` subtracts the largest logit before it takes exponentials, so that none overflows.
    Raises ValueError if there is not one target for each row of logits.
    """
    if logits.shape[:1] != targets.shape:
        raise ValueError(f"{tuple(targets.shape)} targets for logits {tuple(logits.shape)}; one for each row is expected")
    return -logits.log_softmax(dim=1).gather(1, targets[:, None]).mean()
