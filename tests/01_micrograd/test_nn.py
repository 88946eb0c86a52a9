"""The network and its optimizers against torch.nn and torch.optim, weight for weight, in float64."""

import math
import random
from importlib import import_module
from statistics import stdev

import pytest
import torch

engine = import_module("01_micrograd.engine")
nn = import_module("01_micrograd.nn")


def twin(mlp, activation):
    """The same network in PyTorch."""
    bends = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    parts = []
    for layer in mlp.layers:
        linear = torch.nn.Linear(len(layer.neurons[0].weights), len(layer.neurons), dtype=torch.float64)
        with torch.no_grad():
            weights = [[w.data for w in neuron.weights] for neuron in layer.neurons]
            linear.weight.copy_(torch.tensor(weights, dtype=torch.float64))
            linear.bias.copy_(torch.tensor([neuron.bias.data for neuron in layer.neurons], dtype=torch.float64))
        parts += [linear, bends[activation]()]
    return torch.nn.Sequential(*parts[:-1])


def in_our_order(network):
    """PyTorch's parameters as one list of tensors: each neuron's weights, then its bias."""
    linears = [part for part in network if isinstance(part, torch.nn.Linear)]
    return lambda read: [
        x for linear in linears for row, b in zip(read(linear.weight), read(linear.bias), strict=True) for x in [*row, b]
    ]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("weighted_sum", [nn.plain_sum, engine.dot], ids=["node by node", "as one node"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: nn.SGD(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
        (lambda p: nn.SGD(p, lr=0.02, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)),
        (lambda p: nn.Adam(p, lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    ],
    ids=["SGD", "momentum", "Adam"],
)
def test_training_equals_pytorch_step_by_step(activation, weighted_sum, ours, theirs):
    chance = random.Random()
    points = [([chance.uniform(-1, 1), chance.uniform(-1, 1)], chance.choice([-1.0, 1.0])) for _ in range(12)]
    mlp = nn.MLP([2, 5, 4, 1], activation, seed=chance.randrange(2**31), weighted_sum=weighted_sum)
    network = twin(mlp, activation)
    optimizer, their_optimizer = ours(mlp.parameters()), theirs(network.parameters())
    x = torch.tensor([x for x, _ in points], dtype=torch.float64)
    y = torch.tensor([y for _, y in points], dtype=torch.float64)
    for _ in range(10):
        optimizer.zero_grad()
        loss = sum((mlp(inputs)[0] - target) ** 2 for inputs, target in points) / len(points)
        loss.backward()
        optimizer.step()
        their_optimizer.zero_grad()
        their_loss = ((network(x)[:, 0] - y) ** 2).mean()
        their_loss.backward()
        their_optimizer.step()
        read = in_our_order(network)
        assert loss.data == pytest.approx(their_loss.item(), rel=1e-9)
        assert [p.grad for p in mlp.parameters()] == pytest.approx(read(lambda t: t.grad.tolist()), rel=1e-7, abs=1e-10)
        assert [p.data for p in mlp.parameters()] == pytest.approx(read(lambda t: t.tolist()), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_weights_start_with_the_spread_that_pytorch_recommends(activation):
    layer = nn.Layer(50, 60, activation, random.Random(3))
    weights = [w.data for neuron in layer.neurons for w in neuron.weights]
    assert stdev(weights) == pytest.approx(torch.nn.init.calculate_gain(activation) / math.sqrt(50), rel=0.06)
    assert all(neuron.bias.data == 0 for neuron in layer.neurons)


def test_the_same_seed_gives_the_same_network():
    first, again, other = (nn.MLP([2, 3, 1], seed=seed).parameters() for seed in (1, 1, 2))
    assert [p.data for p in first] == [p.data for p in again] != [p.data for p in other]


def test_a_gradient_that_is_not_forgotten_adds_up():
    mlp = nn.MLP([2, 3, 1])
    optimizer = nn.SGD(mlp.parameters(), lr=0.1)
    gradients = []
    for _ in range(2):
        mlp([0.5, -1.0])[0].backward()
        gradients.append([p.grad for p in mlp.parameters()])
    assert gradients[1] == pytest.approx([2 * g for g in gradients[0]])
    optimizer.zero_grad()
    assert not any(p.grad for p in mlp.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MLP([2, 3, 1])([1.0]), "1 inputs for a neuron with 2 weights"),
        (lambda: nn.MLP([2, 3, 1])([1.0, 2.0, 3.0]), "3 inputs for a neuron with 2 weights"),
        (lambda: nn.MLP([2]), r"sizes is \[2\]; the number of inputs and of each layer's neurons"),
        (lambda: nn.MLP([2, 0, 1]), r"sizes is \[2, 0, 1\]"),
        (lambda: nn.MLP([2, 1, 1], "step"), "activation is 'step'; one of tanh, relu, linear"),
        (lambda: nn.Neuron(0, "tanh", random.Random(1)), "n_inputs is 0; at least 1"),
        (lambda: nn.SGD([], lr=0.1), "there are no parameters to optimize"),
        (lambda: nn.SGD([engine.Value(1.0)], lr=-0.1), r"lr is -0\.1; a number of at least 0"),
        (lambda: nn.SGD([engine.Value(1.0)], lr=math.nan), "lr is nan"),
        (lambda: nn.SGD([engine.Value(1.0)], lr=0.1, momentum=-1), "momentum is -1; a number of at least 0"),
        (lambda: nn.Adam([engine.Value(1.0)], betas=(0.9, 1.0)), r"betas is \(0\.9, 1\.0\); two numbers"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
