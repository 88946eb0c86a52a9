"""The pieces of the GPT in scalars against torch.nn.functional, on torch's own single numbers."""

import math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

model = import_module("03_nanogpt.model")
scalar = import_module("03_nanogpt.scalar")

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def listed(tensor):
    """A tensor as nested lists of 0-d tensors, which know +, ×, **, exp, log and tanh."""
    return [listed(part) for part in tensor] if tensor.dim() else tensor


def stacked(nested):
    return torch.stack([stacked(part) for part in nested]) if isinstance(nested, list) else nested


def test_linear_is_a_matrix_product():
    x, weight, bias = random(5), random(3, 5), random(3)
    got = scalar.affine({"a.weight": listed(weight), "a.bias": listed(bias)}, "a.", listed(x))
    torch.testing.assert_close(stacked(got), F.linear(x, weight, bias), **CLOSE)


def test_softmax_gelu_and_layer_norm_are_pytorchs():
    x, gain, bias = random(6) * 3, random(6), random(6)
    torch.testing.assert_close(stacked(scalar.softmax(listed(x))), x.softmax(0), **CLOSE)
    torch.testing.assert_close(stacked([scalar.gelu(a) for a in x]), F.gelu(x, approximate="tanh"), **CLOSE)
    got = scalar.normalise({"n.weight": listed(gain), "n.bias": listed(bias)}, "n.", listed(x))
    torch.testing.assert_close(stacked(got), F.layer_norm(x, (6,), gain, bias), **CLOSE)


def test_the_loss_is_the_mean_cross_entropy():
    rows, targets = random(4, 7) * 3, torch.randint(7, (4,))
    got = scalar.cross_entropy(listed(rows), targets.tolist())
    torch.testing.assert_close(got, F.cross_entropy(rows, targets), **CLOSE)


@pytest.mark.parametrize("n_head", [1, 2, 3])
@pytest.mark.parametrize("T", [1, 5])
def test_the_whole_on_torchs_single_numbers_equals_nonagpt(n_head, T):
    net = model.NonaGPT(model.NonaGPTConfig(block_size=5, vocab_size=11, n_layer=3, n_head=n_head, n_embd=6)).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.randint(11, (T,))
    weights = scalar.lift(net.state_dict(), lambda number: torch.tensor(number, dtype=torch.float64))
    torch.testing.assert_close(stacked(scalar.logits(weights, ids.tolist(), n_head)), net(ids[None])[0][0], **CLOSE)


def test_numbers_come_in_the_order_of_the_parameters_and_are_those_of_the_weights():
    net = model.NonaGPT(model.NonaGPTConfig(block_size=4, vocab_size=5, n_layer=1, n_head=1, n_embd=4))
    weights = scalar.lift(net.state_dict(), float)
    assert scalar.numbers(weights) == torch.cat([p.flatten() for p in net.parameters()]).tolist()
    assert list(weights) == [name for name, _ in net.named_parameters()]
    assert weights["token_embedding_table.weight"][2][3] == net.lm_head.weight[2, 3].item()


class Counted:
    """A number that knows the six operations, the first three with plain numbers on the right too, and nothing else."""

    def __init__(self, x):
        self.x = x

    def __add__(self, other):
        return Counted(self.x + getattr(other, "x", other))

    def __mul__(self, other):
        return Counted(self.x * getattr(other, "x", other))

    def __pow__(self, other):
        assert isinstance(other, (int, float))
        return Counted(self.x**other)

    def exp(self):
        return Counted(math.exp(self.x))

    def log(self):
        return Counted(math.log(self.x))

    def tanh(self):
        return Counted(math.tanh(self.x))


def test_six_operations_are_enough():
    net = model.NonaGPT(model.NonaGPTConfig(block_size=4, vocab_size=9, n_layer=1, n_head=2, n_embd=4)).double()
    ids = torch.randint(9, (5,))
    weights = scalar.lift(net.state_dict(), Counted)
    loss = scalar.cross_entropy(scalar.logits(weights, ids[:-1].tolist(), 2), ids[1:].tolist())
    assert loss.x == pytest.approx(net(ids[None, :-1], ids[None, 1:])[1].item(), rel=1e-12)


@pytest.mark.parametrize(
    ("ids", "n_head", "message"),
    [
        ([1, 2], 3, "n_head 3 does not divide the width 4"),
        ([1] * 5, 2, "5 characters in a row, but these weights have 4 positions"),
        ([1, -1], 2, r"ids \[1, -1\]; each from 0 to 8 is expected"),
        ([9], 2, r"ids \[9\]; each from 0 to 8 is expected"),
    ],
)
def test_what_nonagpt_refuses_is_refused(ids, n_head, message):
    net = model.NonaGPT(model.NonaGPTConfig(block_size=4, vocab_size=9, n_layer=1, n_head=2, n_embd=4))
    with pytest.raises(ValueError, match=message):
        scalar.logits(scalar.lift(net.state_dict(), float), ids, n_head)
