"""Stage 01's Value, put into the GPT in scalars, gives NonaGPT's logits, gradients and training to 1e-9."""

from importlib import import_module

import pytest
import torch

engine = import_module("01_micrograd.engine")
nanogpt = import_module("03_nanogpt.model")
scalar = import_module("03_nanogpt.scalar")


def network(n_layer, n_head, seed):
    torch.manual_seed(seed)
    shape = {"block_size": 6, "vocab_size": 128, "n_layer": n_layer, "n_head": n_head, "n_embd": 8}
    net = nanogpt.NonaGPT(nanogpt.NonaGPTConfig(**shape)).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return net


def scalar_loss(weights, ids, n_head):
    return scalar.cross_entropy(scalar.logits(weights, ids[:-1], n_head), ids[1:])


@pytest.mark.parametrize(("n_layer", "n_head", "seed"), [(1, 1, 0), (2, 2, 1), (1, 4, 2)])
def test_logits_and_every_gradient_are_pytorchs(n_layer, n_head, seed):
    net = network(n_layer, n_head, seed)
    ids = torch.randint(128, (7,))
    weights = scalar.lift(net.state_dict(), engine.Value)
    rows = scalar.logits(weights, ids[:-1].tolist(), n_head)
    logits, loss = net(ids[None, :-1], ids[None, 1:])
    ours = torch.tensor([[value.data for value in row] for row in rows], dtype=torch.float64)
    assert (ours - logits[0]).abs().max() < 1e-9

    scalar.cross_entropy(rows, ids[1:].tolist()).backward()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters()])
    got = torch.tensor([value.grad for value in scalar.numbers(weights)], dtype=torch.float64)
    assert (got - expected).abs().max() < 1e-9
    assert (expected.abs() > 1e-6).float().mean() > 0.2  # there is something to compare


def test_ten_steps_of_training_follow_pytorchs_loss():
    net = network(1, 2, 3)
    texts = [torch.tensor(list(text.encode())) for text in ("To be, ", "or not ")]
    weights = scalar.lift(net.state_dict(), engine.Value)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    curve = []
    for step in range(10):
        ids = texts[step % 2]
        loss = scalar_loss(weights, ids.tolist(), 2)
        _, expected = net(ids[None, :-1], ids[None, 1:])
        assert loss.data == pytest.approx(expected.item(), abs=1e-9)
        curve.append(loss.data)
        for value in scalar.numbers(weights):
            value.grad = 0.0
        loss.backward()
        for value in scalar.numbers(weights):
            value.data -= 0.3 * value.grad
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    assert curve[-2] < curve[0] - 1 and curve[-1] < curve[1] - 1
