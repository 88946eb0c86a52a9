"""Layers and weights by name: PyTorch's modules by its own names, layers of bare tensors by those that PyTorch would give."""

from importlib import import_module

import torch
from torch import nn

from shared.parts import named_layers, named_weights

layers = import_module("02_makemore.layers")
models = import_module("02_makemore.models")


def test_pytorchs_modules_have_the_names_that_pytorch_gives_them():
    network = nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "norm": nn.LayerNorm(4)}))
    network[0].bias.requires_grad_(False)
    assert list(named_layers(network)) == list(network.named_modules())
    assert [name for name, _ in named_weights(network)] == ["0.weight", "1.a.weight", "1.norm.weight", "1.norm.bias"]


def test_the_same_network_of_our_layers_has_the_same_names():
    for kind in (layers, nn):
        network = kind.Sequential(kind.Linear(3, 4), kind.Sequential(kind.Tanh(), kind.BatchNorm1d(4)))
        assert [name for name, _ in named_layers(network)] == ["", "0", "1", "1.0", "1.1"]
        weights = dict(named_weights(network))
        assert list(weights) == ["0.weight", "0.bias", "1.1.weight", "1.1.bias"]
        assert all(a is b for a, b in zip(weights.values(), network.parameters(), strict=True))


def test_a_layer_in_two_places_is_named_once():
    model = models.Perceptron(3, 4, 5)
    names = dict(named_layers(model))
    assert (
        names["embedding"] is model.layers.layers[0]
        and "layers.0" not in names
        and names["layers.5"] is model.layers.layers[5]
    )
    assert [w is p for (_, w), p in zip(named_weights(model), model.parameters(), strict=True)] == [True] * 5


def test_pytorchs_modules_within_layers_of_bare_tensors_are_walked_too():
    model = Branches()
    model.torch = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh())
    assert [name for name, _ in named_layers(model)][-3:] == ["torch", "torch.0", "torch.1"]
    assert [name for name, _ in named_weights(model)][-1] == "torch.0.weight"


class Branches:
    """A model of another kind: layers in lists of lists, one tensor under two names, and a layer that points back."""

    def __init__(self):
        self.branches = [[layers.Tanh()], [layers.Linear(2, 3, bias=False), layers.Tanh()]]
        self.first = torch.ones(2, requires_grad=True)
        self.second, self.fixed = self.first, torch.ones(2)
        self.activation = layers.Tanh  # a class is no layer
        self.branches[0][0].owner = self

    def parameters(self):
        return [self.first, self.branches[1][0].weight]


def test_lists_of_lists_shared_tensors_and_rings_are_walked_once():
    model = Branches()
    assert [name for name, _ in named_layers(model)] == ["", "branches.0.0", "branches.1.0", "branches.1.1"]
    assert [name for name, _ in named_weights(model)] == ["first", "branches.1.0.weight"]
