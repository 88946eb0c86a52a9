"""What networks of tensors are made of: layers that hold bare tensors, and the loss that they are trained by.

The names and shapes are those of torch.nn, so that everything learned here carries over; the insides are all here.
"""

import torch
from torch import Tensor

# shapes: N examples, T letters of context, C channels of an embedding, (…) any dimensions


class Layer:
    """What every layer has: a way from input to output, parameters, and a mode (training or evaluation)."""

    training = True

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

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

    def __call__(self, x: Tensor) -> Tensor:
        out = x @ self.weight.T
        return out if self.bias is None else out + self.bias

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class Embedding(Layer):
    """A table with a learned row for each id: ids (…) int64 -> rows (…, embedding_dim). Its numbers begin standard normal."""

    def __init__(self, num_embeddings: int, embedding_dim: int, generator: torch.Generator | None = None):
        self.weight = torch.randn(num_embeddings, embedding_dim, generator=generator).requires_grad_()

    def __call__(self, x: Tensor) -> Tensor:
        return self.weight[x]

    def parameters(self) -> list[Tensor]:
        return [self.weight]


class Tanh(Layer):
    """Bends each number into (-1, 1)."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Flatten(Layer):
    """All dimensions but the first in one row: (N, T, C) -> (N, T · C)"""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(start_dim=1)


class Dropout(Layer):
    """In training sets each number to 0 with probability p and divides the others by 1 - p; in evaluation does nothing.

    No neuron can then rely on a single other one, and the mean of what goes through is the same in both modes
    (Srivastava et al. 2014).
    """

    def __init__(self, p: float, generator: torch.Generator | None = None):
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}; a probability of at least 0 and below 1 is expected")
        self.p, self.generator = p, generator

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=self.generator) >= self.p
        return x * kept / (1 - self.p)


class Sequential(Layer):
    """Layers one after the other, each fed with what the one before it gives."""

    def __init__(self, *layers: Layer):
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
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
