"""The range test finds what is known to be right, suggests what its rule says, and leaves no trace."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared import lr_finder
from shared.lr_finder import Sweep, find_learning_rate, find_range, sweep


def descent(curvature=1.0, start=1.0):
    """Gradient descent on curvature · x² / 2, which shrinks x for rates below 2 / curvature and best at 1 / curvature."""
    x = torch.tensor([start], dtype=torch.float64)

    def step(lr):
        loss = curvature * x.item() ** 2 / 2
        x.sub_(lr * curvature * x)
        return loss

    return step, x


def everything_that_a_step_can_change():
    """A network with normalisation and dropout, Adam with momentum, a schedule, generators; and a step that uses them all."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    bare = torch.zeros(3, requires_grad=True)
    torchs, numpys, legacy, pythons = torch.Generator(), np.random.default_rng(1), np.random.RandomState(1), random.Random(1)

    def step(lr):
        x = torch.randn(16, 4, generator=torchs) + numpys.random() + legacy.rand() + pythons.random()
        x = x * random.random() + np.random.rand()
        loss = network(x).pow(2).mean() + (bare - 1).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        bare.data -= lr * bare.grad
        schedule.step()
        return loss

    return step, [network, optimizer, schedule, bare, torchs, numpys, legacy, pythons]


def bits(things):
    """The whole state as plain numbers."""
    network, optimizer, schedule, bare, *generators = things
    tensors = [*network.parameters(), *network.buffers(), bare, *(p.grad for p in (*network.parameters(), bare))]
    state = [None if tensor is None else tensor.tolist() for tensor in tensors]
    state += [repr(optimizer.state_dict()), repr(schedule.state_dict()), generators[0].get_state().tolist()]
    state += [repr(generators[1].bit_generator.state), repr(generators[2].get_state()), generators[3].getstate()]
    return [*state, random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("test", [find_range, find_learning_rate, lambda *a: sweep(*a, 1e-4, 1.0, 40, "linear")])
def test_afterwards_everything_is_as_it_was_to_the_bit(steps_before, test):
    step, things = everything_that_a_step_can_change()
    for _ in range(steps_before):
        step(0.01)
    before, identities = bits(things), [id(p) for p in things[0].parameters()]
    test(step, things)
    assert bits(things) == before and [id(p) for p in things[0].parameters()] == identities


def test_training_goes_on_as_if_nothing_had_been():
    losses = []
    for with_test in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        step, things = everything_that_a_step_can_change()
        things[4].manual_seed(2)
        losses.append([step(0.01).item() for _ in range(3)])
        if with_test:
            find_learning_rate(step, things, 30)
        losses[-1] += [step(0.01).item() for _ in range(5)]
    assert losses[0] == losses[1]


def test_a_step_that_raises_leaves_no_trace_either():
    step, x = descent()

    def fails(lr):
        step(lr)
        if lr > 0.1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        sweep(fails, [x], 0.01, 1.0, 20)
    assert x.item() == 1


def test_what_cannot_be_put_back_is_refused_before_any_step():
    def never(lr):
        raise AssertionError

    with pytest.raises(TypeError, match="a list_iterator cannot be put back; tensors, modules"):
        find_learning_rate(never, [iter([1])])


@pytest.mark.parametrize("curvature", [1e-2, 1.0, 30.0])
def test_the_range_holds_the_rates_that_matter(curvature):
    """At 2 / curvature descent begins to diverge; far below 1 / curvature nothing moves."""
    step, x = descent(curvature)
    low, high = find_range(step, [x])
    assert 1e-5 < low * curvature < 1e-2 and 2 <= high * curvature < 20


@pytest.mark.parametrize("spacing", ["exponential", "linear"])
@pytest.mark.parametrize("n_steps", [20, 101, 400])
def test_a_sweep_takes_the_rates_in_order_one_step_each(n_steps, spacing):
    rates = []

    def step(lr):
        rates.append(lr)
        return 1.0

    found = sweep(step, [], 1e-3, 1.0, n_steps, spacing)
    gaps = np.diff(np.log(rates) if spacing == "exponential" else rates)
    assert len(rates) == n_steps and rates == found.rates.tolist()
    assert rates[0] == pytest.approx(1e-3) and rates[-1] == pytest.approx(1.0)
    assert gaps == pytest.approx([gaps[0]] * (n_steps - 1)) and gaps[0] > 0


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, 1e6])
def test_a_sweep_stops_when_the_loss_runs_away(spoilt):
    calls = []

    def step(lr):
        calls.append(lr)
        return spoilt if lr > 0.15 else 1.0

    found = sweep(step, [], 1e-3, 1.0, 100)
    assert len(calls) == 73  # 72 of the rates are below 0.15; the next one ends it
    assert np.isfinite(found.losses).all() and found.suggestion < 0.15


@pytest.mark.parametrize("start", [-2.0, 1e-3, 50.0])
def test_a_loss_that_only_falls_is_swept_to_the_end_whatever_its_sign(start):
    losses = iter(np.linspace(start, start - 5, 100))
    assert len(sweep(lambda lr: next(losses), [], 1e-3, 1.0, 100).rates) == 100


@given(
    losses=st.lists(st.floats(0.1, 10), min_size=5, max_size=60),
    window=st.integers(1, 5),
)
def test_the_suggestion_is_the_middle_of_the_window_with_the_lowest_mean(losses, window):
    rates = np.geomspace(1e-3, 1, len(losses))
    found = Sweep(rates, np.array(losses), window, "exponential")
    means = [sum(losses[i : i + window]) / window for i in range(len(losses) - window + 1)]
    lowest = min(means)
    chosen = [mean for i, mean in enumerate(means) if rates[i + window // 2] == found.suggestion]
    assert chosen and chosen[0] == pytest.approx(lowest, rel=1e-9)


def test_noise_does_not_move_the_suggestion_far():
    """A valley with its floor at 0.1, with noise half as high as the valley is deep."""
    noise = np.random.default_rng()

    def step(lr):
        return 3 + 0.2 * abs(math.log10(lr / 0.1)) + noise.normal(0, 0.2)

    assert 0.02 < sweep(step, [], 1e-4, 10.0, 2000).suggestion < 0.5


def test_it_works_on_a_network_of_torch_and_its_suggestion_trains_it():
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(network.parameters())
    x = torch.randn(512, 8)
    y = x[:, :1] * x[:, 1:2]

    def step(lr):
        batch = torch.randint(512, (64,))
        loss = (network(x[batch]) - y[batch]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        return loss.item()

    rate = find_learning_rate(step, [network, optimizer]).suggestion
    assert 1e-3 < rate < 0.3
    before = [step(0.0) for _ in range(20)]
    for _ in range(300):
        step(rate)
    assert np.mean([step(0.0) for _ in range(20)]) < 0.3 * np.mean(before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda step, x: sweep(step, [x], 1.0, 0.1), "low is 1 and high is 0.1; 0 < low < high"),
        (lambda step, x: sweep(step, [x], 0.0, 0.1), "low is 0 and"),
        (lambda step, x: sweep(step, [x], 0.1, math.nan), "high is nan"),
        (lambda step, x: sweep(step, [x], 0.1, 1.0, 19), "n_steps is 19; at least 20"),
        (lambda step, x: sweep(step, [x], 0.1, 1.0, 20, "quadratic"), "spacing is 'quadratic'; one of exponential, linear"),
        (lambda step, x: sweep(lambda lr: math.nan, [x], 0.1, 1.0), "diverges within 1 steps from a rate of 0.1"),
        (lambda step, x: find_range(lambda lr: math.nan, [x]), "the loss is nan before any training"),
        (lambda step, x: find_range(lambda lr: 1.0, [x]), "no rate up to 1000 changes the loss"),
        (lambda step, x: find_range(lambda lr: 1.0 + (lr > 0), [x]), "already at a rate of 1e-07 the loss grows"),
    ],
)
def test_what_cannot_be_swept_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*descent())


def test_the_picture_names_the_suggested_rate_and_its_rule():
    step, x = descent()
    for spacing in ("exponential", "linear"):
        found = find_learning_rate(step, [x], 100, spacing)
        [axes] = lr_finder.plot(found).axes
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        assert any(f"{found.suggestion:.2g}" in text and lr_finder.RULE in text for text in words)
        assert axes.get_xscale() == ("log" if spacing == "exponential" else "linear")
        marked = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
        assert marked == [found.suggestion]
