"""One step against PyTorch's, schedules against their definition, the mean loss against one pass over everything."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

data = import_module("02_makemore.data")
models = import_module("02_makemore.models")
training = import_module("02_makemore.training")

X, Y = data.examples(data.names()[:3000], 3)


def perceptron(**options):
    return models.Perceptron(3, 5, 20, torch.Generator().manual_seed(1), **options)


def test_steps_are_those_of_a_plain_loop():
    ours, theirs = perceptron(), perceptron()
    step = training.training_step(ours, torch.optim.SGD(ours.parameters(), lr=9), X, Y, 32, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    for lr in (0.5, 0.1, 0.0, 0.3):
        batch = torch.randint(len(Y), (32,), generator=generator)
        expected = F.cross_entropy(theirs(X[batch]), Y[batch])
        slopes = torch.autograd.grad(expected, theirs.parameters())
        assert step(lr) == pytest.approx(expected.item(), rel=1e-5)
        for p, q, slope in zip(ours.parameters(), theirs.parameters(), slopes, strict=True):
            q.data -= lr * slope
            torch.testing.assert_close(p, q)


def test_the_rate_that_a_step_is_given_is_the_one_that_any_optimizer_takes():
    model = perceptron()
    optimizer = torch.optim.Adam([{"params": model.parameters()[:2]}, {"params": model.parameters()[2:]}], lr=9)
    before = [p.detach().clone() for p in model.parameters()]
    training.training_step(model, optimizer, X, Y, 32)(0.001)
    for p, old in zip(model.parameters(), before, strict=True):
        assert (p - old).abs().max().item() == pytest.approx(0.001, rel=1e-2)  # Adam's first step


def test_training_learns():
    model = perceptron()
    step = training.training_step(model, torch.optim.SGD(model.parameters(), lr=1), X, Y, 64, torch.Generator().manual_seed(2))
    before = training.mean_loss(model, X, Y)
    for lr in training.step_decay(0.3, 300):
        step(lr)
    assert training.mean_loss(model, X, Y) < before - 0.5


def test_schedules():
    assert training.step_decay(0.5, 8) == [0.5] * 6 + [0.05] * 2
    assert training.linear_decay(1.0, 4) == [1.0, 0.75, 0.5, 0.25]


def test_the_mean_loss_is_that_of_all_examples_at_once_in_evaluation_mode(monkeypatch):
    model = perceptron(dropout=0.5)
    monkeypatch.setattr(training, "CHUNK", 1000)
    assert len(Y) % 1000
    loss = training.mean_loss(model, X, Y)
    assert model.training and loss == training.mean_loss(model, X, Y)
    model.eval()
    assert loss == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-5)
    training.mean_loss(model, X, Y)
    assert not model.training
    model.train()
    with pytest.raises(IndexError):
        training.mean_loss(model, X + 27, Y)
    assert model.training
    with pytest.raises(ValueError, match="no examples"):
        training.mean_loss(model, X[:0], Y[:0])


def test_a_step_is_taken_in_training_mode():
    model = perceptron(dropout=0.5)
    step = training.training_step(model, torch.optim.SGD(model.parameters(), lr=1), X, Y, 32)
    model.eval()
    step(0.1)
    assert model.training and model.layers.training


def test_an_empty_mini_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        training.training_step(perceptron(), None, X, Y, 0)
