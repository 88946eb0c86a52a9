"""Neurons, layers and networks from single numbers, and the two rules that train them, in PyTorch's shape."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from .engine import Value, dot

Number = Value | float
WeightedSum = Callable[[Sequence[Value], Sequence[Value], Value], Value]

# How much a layer's weights must grow so that what goes through keeps its spread (PyTorch's `nn.init.calculate_gain`).
GAIN = {"tanh": 5 / 3, "relu": math.sqrt(2), "linear": 1.0}


def plain_sum(weights: Sequence[Value], inputs: Sequence[Value], bias: Value) -> Value:
    """What `dot` computes, one multiplication and one addition at a time: 2n nodes."""
    total = bias
    for w, x in zip(weights, inputs, strict=True):
        total = total + w * x
    return total


def as_values(numbers: Sequence[Number]) -> list[Value]:
    """Values as they are, plain numbers as new values."""
    return [x if isinstance(x, Value) else Value(x) for x in numbers]


class Neuron:
    """A weighted sum of `n_inputs` numbers and a bias, bent by an activation ("tanh", "relu") or not ("linear").

    Weights are normal with standard deviation gain / sqrt(n_inputs) (He et al. 2015), so that the sum is about `gain` times as
    spread out as the inputs, however many there are. `weighted_sum` is `dot`, or `plain_sum` to see every product as a node.
    """

    def __init__(self, n_inputs: int, activation: str, rng: random.Random, weighted_sum: WeightedSum = dot):
        if activation not in GAIN:
            raise ValueError(f"activation is {activation!r}; one of {', '.join(GAIN)} is expected")
        if n_inputs < 1:
            raise ValueError(f"n_inputs is {n_inputs}; at least 1 is expected")
        spread = GAIN[activation] / math.sqrt(n_inputs)
        self.weights = [Value(rng.gauss(0, spread)) for _ in range(n_inputs)]
        self.bias = Value(0.0)
        self.activation, self.weighted_sum = activation, weighted_sum

    def __call__(self, inputs: Sequence[Number]) -> Value:
        """The neuron's answer. Raises ValueError if there are not as many inputs as weights."""
        if len(inputs) != len(self.weights):
            raise ValueError(f"{len(inputs)} inputs for a neuron with {len(self.weights)} weights; as many are expected")
        total = self.weighted_sum(self.weights, as_values(inputs), self.bias)
        return total if self.activation == "linear" else getattr(total, self.activation)()

    def parameters(self) -> list[Value]:
        """Weights, then bias."""
        return [*self.weights, self.bias]


class Layer:
    """`n_outputs` neurons that see the same inputs."""

    def __init__(self, n_inputs: int, n_outputs: int, activation: str, rng: random.Random, weighted_sum: WeightedSum = dot):
        self.neurons = [Neuron(n_inputs, activation, rng, weighted_sum) for _ in range(n_outputs)]

    def __call__(self, inputs: Sequence[Number]) -> list[Value]:
        """One answer a neuron."""
        values = as_values(inputs)  # made once, for all neurons
        return [neuron(values) for neuron in self.neurons]

    def parameters(self) -> list[Value]:
        """Those of all neurons."""
        return [p for neuron in self.neurons for p in neuron.parameters()]


class MLP:
    """A multilayer perceptron: `sizes` = inputs, neurons of each layer; the last layer is linear, the others bend.

    `MLP([2, 16, 16, 1])` takes 2 numbers and answers with a list of 1.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "tanh", seed: int = 1337, weighted_sum: WeightedSum = dot):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes is {list(sizes)}; the number of inputs and of each layer's neurons is expected")
        rng = random.Random(seed)
        last = len(sizes) - 2
        self.layers = [
            Layer(n_in, n_out, "linear" if i == last else activation, rng, weighted_sum)
            for i, (n_in, n_out) in enumerate(pairwise(sizes))
        ]

    def __call__(self, inputs: Sequence[Number]) -> list[Value]:
        """The last layer's answers."""
        values = as_values(inputs)
        for layer in self.layers:
            values = layer(values)
        return values

    def parameters(self) -> list[Value]:
        """Those of all layers, first to last."""
        return [p for layer in self.layers for p in layer.parameters()]


class Optimizer:
    """What every rule of updates has: the parameters, and how to forget their gradients."""

    def __init__(self, parameters: Iterable[Value], lr: float):
        self.parameters, self.lr = list(parameters), lr
        if not self.parameters:
            raise ValueError("there are no parameters to optimize; a model's parameters() are expected")
        if not lr >= 0:  # nor is NaN
            raise ValueError(f"lr is {lr}; a number of at least 0 is expected")

    def zero_grad(self) -> None:
        """Set all gradients to 0; without this, the next `backward` adds to them."""
        for p in self.parameters:
            p.grad = 0.0


class SGD(Optimizer):
    """Downhill by `lr` times the gradient; with `momentum`, by a running sum of gradients that fades by that factor."""

    def __init__(self, parameters: Iterable[Value], lr: float, momentum: float = 0.0):
        super().__init__(parameters, lr)
        if not momentum >= 0:
            raise ValueError(f"momentum is {momentum}; a number of at least 0 is expected")
        self.momentum, self.velocities = momentum, [0.0] * len(self.parameters)

    def step(self) -> None:
        """One update of all parameters."""
        for i, p in enumerate(self.parameters):
            self.velocities[i] = self.momentum * self.velocities[i] + p.grad
            p.data -= self.lr * self.velocities[i]


class Adam(Optimizer):
    """Downhill by about `lr` in each parameter: the mean of its gradients over their root mean square (Kingma and Ba 2015)."""

    def __init__(
        self, parameters: Iterable[Value], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        super().__init__(parameters, lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas is {betas}; two numbers of at least 0 and below 1 are expected")
        self.betas, self.eps, self.steps = betas, eps, 0
        self.means, self.squares = [0.0] * len(self.parameters), [0.0] * len(self.parameters)

    def step(self) -> None:
        """One update of all parameters."""
        self.steps += 1
        beta1, beta2 = self.betas
        for i, p in enumerate(self.parameters):
            self.means[i] = beta1 * self.means[i] + (1 - beta1) * p.grad
            self.squares[i] = beta2 * self.squares[i] + (1 - beta2) * p.grad**2
            mean = self.means[i] / (1 - beta1**self.steps)  # both began at 0 and would be too small at first
            square = self.squares[i] / (1 - beta2**self.steps)
            p.data -= self.lr * mean / (math.sqrt(square) + self.eps)
