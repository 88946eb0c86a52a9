"""The range test finds what is known to be right, suggests what its rule says, and leaves no trace."""

import math
import random
from importlib import import_module

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

    batches = iter([1])
    loader = torch.utils.data.DataLoader([1])
    for thing, name in (
        (object(), "object"),
        ("model", "str"),
        ([torch.zeros(1), batches], "list_iterator"),
        (loader, "DataLoader"),
    ):
        with pytest.raises(TypeError, match=f"a {name} cannot be put back; models, tensors"):
            find_learning_rate(never, [thing])
    assert next(batches) == 1


@pytest.mark.parametrize("curvature", [1e-2, 1.0, 2.0, 30.0, 200.0])
@pytest.mark.parametrize("offset", [0.0, -5.0, 40.0])
def test_the_range_holds_the_rates_that_matter(curvature, offset):
    """At 2 / curvature descent begins to diverge (just there the loss stands still); far below 1 / curvature nothing moves."""
    step, x = descent(curvature)
    low, high = find_range(lambda lr: offset + step(lr), [x])
    assert 1e-5 < low * curvature < 1e-2 and 1.9 <= high * curvature < 50
    found = find_learning_rate(lambda lr: offset + step(lr), [x])
    assert 0.1 < found.suggestion * curvature < 2.2  # without noise, up to the edge of divergence


def test_each_rate_is_probed_for_twenty_steps_from_the_same_start():
    rates = []
    step, x = descent()

    def watched(lr):
        rates.append((lr, x.item() if not rates or rates[-1][0] != lr or len(rates) == 20 else None))
        return step(lr)

    find_range(watched, [x])
    lengths = {lr: sum(other == lr for other, _ in rates) for lr, _ in rates}
    assert lengths.pop(0.0) == 40 and set(lengths.values()) == {20}
    assert all(start == 1 for _, start in rates if start is not None)


@pytest.mark.parametrize(("change", "harm"), [(1.6, True), (1.4, False)])
def test_harm_is_a_loss_half_as_much_again_as_that_of_not_training(change, harm):
    _, high = find_range(lambda lr: 2.0 * change if lr > 0.05 else 2.0 - lr, [])
    assert high == (0.1 if harm else 1000)


def test_a_step_that_cannot_be_repeated_is_refused():
    batches = iter(torch.randn(1000, 8))
    with pytest.raises(ValueError, match="the same step gives a loss of"):
        find_range(lambda lr: next(batches).pow(2).mean(), [])


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
    found = Sweep(rates, np.array(losses), window, "exponential", diverged=False)
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
        (lambda step, x: find_range(lambda lr: 1.0, [x]), "no rate changes the loss without harm"),
        (lambda step, x: find_range(lambda lr: 1.0 + (lr > 0), [x]), "already at a rate of 1e-07 the loss grows"),
        (lambda step, x: find_learning_rate(step, x, 10), "n_steps is 10; at least 20"),
        (lambda step, x: sweep(lambda lr: 1.0 if lr < 0.104 else math.nan, x, 0.1, 1.0), "within 10 steps from a rate of 0.1"),
    ],
)
def test_what_cannot_be_swept_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*descent())


@pytest.mark.parametrize("loss", [None, torch.zeros(2), "1.0"])
def test_a_step_that_returns_no_loss_is_refused(loss):
    with pytest.raises(
        TypeError, match=f"a step returns {type(loss).__name__}; its loss, a number or a tensor of one element"
    ):
        find_range(lambda lr: loss, [])


def test_changes_may_be_one_thing_or_lists_of_things():
    network = torch.nn.Linear(2, 1)
    before = [p.detach().clone() for p in network.parameters()]

    def step(lr):
        for p in network.parameters():
            p.data -= lr
        return 1.0

    for changes in (network, [[p] for p in network.parameters()], tuple(network.parameters())):
        sweep(step, changes, 0.1, 1.0, 20)
        assert all(map(torch.equal, network.parameters(), before))


class Counter(torch.nn.Module):
    """A buffer that is made anew in each step, as moving averages often are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))
        self.p = torch.nn.Parameter(torch.ones(3))


def test_what_a_step_does_to_a_module_beside_writing_into_its_tensors_is_put_back():
    module = Counter().eval()
    module.p.grad = slope = torch.ones(3)
    storage, n, p = module.p.data_ptr(), module.n, module.p

    def step(lr):
        module.train()
        module.n = module.n + 1
        module.p.requires_grad_(False)
        module.p.data = module.p.data - lr
        module.p.grad = torch.zeros(3)
        module.extra = torch.nn.Parameter(torch.zeros(1))
        module.part = torch.nn.Linear(1, 1)
        slope.zero_()
        return 1.0

    sweep(step, module, 0.1, 1.0, 20)
    assert (
        not module.training
        and module.n is n
        and n == 0
        and module.p is p
        and not hasattr(module, "extra")
        and not hasattr(module, "part")
    )
    assert p.data_ptr() == storage and p.tolist() == [1, 1, 1] and p.requires_grad
    assert p.grad is slope and slope.tolist() == [1, 1, 1]


def test_an_optimizer_keeps_its_groups_and_the_precision_of_its_state():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.state[p]["master"] = torch.full((3,), 1.001)  # float32
    group = optimizer.param_groups[0]

    def step(lr):
        group["lr"] = lr
        group["params"].append(p)
        optimizer.state[p]["master"] += 1
        optimizer.state[torch.zeros(1)] = {}
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
        return 1.0

    master = optimizer.state[p]["master"]
    sweep(step, optimizer, 0.1, 1.0, 20)
    assert len(optimizer.param_groups) == 1 and list(optimizer.state) == [p] and optimizer.state[p]["master"] is master
    assert optimizer.param_groups[0] is group and group["lr"] == 0.1 and group["params"] == [p]
    state = optimizer.state[p]["master"]
    assert state.dtype == torch.float32 and torch.equal(state, torch.full((3,), 1.001))


def test_a_rate_that_is_a_tensor_is_written_back_in_place():
    p, rate = torch.nn.Parameter(torch.ones(1)), torch.tensor(0.1)
    optimizer = torch.optim.Adam([p], lr=rate)

    def step(lr):
        rate.fill_(lr)
        loss = p.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    find_learning_rate(step, [p, optimizer], 30)
    assert optimizer.param_groups[0]["lr"] is rate and rate == torch.tensor(0.1) and p == 1 and not optimizer.state[p]


def test_a_model_of_bare_tensors_keeps_its_mode_and_its_dropouts_random_numbers():
    models, training = import_module("02_makemore.models"), import_module("02_makemore.training")
    generator = torch.Generator().manual_seed(1)
    model = models.Perceptron(3, 4, 8, generator, dropout=0.5).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randint(27, (100, 3))
    step = training.training_step(model, optimizer, x, x[:, 0], 16, generator)
    before, state = [p.tolist() for p in model.parameters()], generator.get_state()
    find_learning_rate(step, [model, optimizer], 30)
    assert [p.tolist() for p in model.parameters()] == before and torch.equal(generator.get_state(), state)
    assert not model.training and not any(layer.training for layer in (model.layers, *model.layers.layers))


def test_a_model_of_bare_tensors_keeps_its_running_statistics():
    models, training = import_module("02_makemore.models"), import_module("02_makemore.training")
    model = models.WaveNet(4, 4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randint(27, (100, 4))
    generator = torch.Generator().manual_seed(1)
    step = training.training_step(model, optimizer, x, x[:, 0], 16, generator)
    step(0.1)
    norms = [layer for layer in model.layers.layers if hasattr(layer, "running_mean")]
    held = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    before = [tensor.tolist() for tensor in held]
    find_learning_rate(step, [model, optimizer, generator], 30)
    after = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    assert len(norms) == 2 and [tensor.tolist() for tensor in after] == before
    assert all(a is b for a, b in zip(held, after, strict=True))
    norms[0].running_mean = norms[0].running_mean.clone()
    kept = norms[0].running_mean

    def replacing(lr):
        norms[0].running_mean = norms[0].running_mean + 1
        return step(lr)

    find_learning_rate(replacing, [model, optimizer, generator], 30)
    assert norms[0].running_mean is kept


@pytest.mark.filterwarnings("error")
def test_what_a_layer_of_bare_tensors_keeps_is_put_back():
    """Generators in a list; an output that a layer keeps for a look, as many do."""

    class Noisy:
        def __init__(self):
            self.weight = torch.ones(3, requires_grad=True)
            self.generators = [torch.Generator().manual_seed(1)]
            self.out = None

        def parameters(self):
            return [self.weight]

    layer = Noisy()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step(lr):
        layer.out = layer.weight * (1 + 0.1 * torch.randn(3, generator=layer.generators[0]))
        loss = (layer.out - 3).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        return loss

    step(0.01)
    out, state = layer.out, layer.generators[0].get_state()
    find_learning_rate(step, [layer, optimizer], 30)
    assert layer.out is out and torch.equal(layer.generators[0].get_state(), state)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_noise_does_not_cut_the_range(batch_size):
    """From eight starts, the highest rate worth sweeping is the same within one power of ten."""
    highest = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=g)
        optimizer = torch.optim.Adam(network.parameters())
        x = torch.randn(512, 8, generator=g)
        y = x[:, :1] * x[:, 1:2]

        def step(lr, network=network, optimizer=optimizer, x=x, y=y, g=g):
            batch = torch.randint(512, (batch_size,), generator=g)
            loss = (network(x[batch]) - y[batch]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            return loss

        highest.append(find_range(step, [network, optimizer, g])[1])
    assert max(highest) <= 10 * min(highest)


@pytest.mark.parametrize(("last", "n"), [(1.9, 100), (2.1, 55)])  # 55: the window is full of the last loss
def test_the_sweep_ends_when_the_loss_is_twice_that_of_the_start(last, n):
    losses = iter([1.0] * 50 + [last] * 50)
    assert len(sweep(lambda lr: next(losses), [], 1e-3, 1.0, 100).rates) == n


def test_a_minimum_at_the_edge_is_said_to_be_one():
    falling = sweep(lambda lr: 2 - lr, [], 1e-3, 1.0, 100)
    assert falling.at_edge and falling.window == 5
    assert "edge of the sweep" in lr_finder.plot(falling).axes[0].get_title(loc="left")
    valley = sweep(lambda lr: 2 + abs(math.log10(lr) + 1.5), [], 1e-3, 1.0, 100)
    assert not valley.at_edge and valley.suggestion == pytest.approx(10**-1.5, rel=0.1)
    diverging = sweep(lambda lr: 2 - lr if lr < 0.9 else 100.0, [], 1e-3, 1.0, 100)
    assert diverging.diverged and not diverging.at_edge and not falling.diverged
    nearly = sweep(lambda lr: 2 - lr if lr < 0.95 else 1.06, [], 1e-3, 1.0, 100)
    assert nearly.at_edge


def test_the_picture_shows_what_was_seen():
    found = sweep(lambda lr: 2 + abs(math.log10(lr) + 1.5), [], 1e-3, 1.0, 100)
    [axes] = lr_finder.plot(found).axes
    dots, line = axes.lines[:2]
    assert dots.get_ydata().tolist() == found.losses.tolist() and line.get_ydata().tolist() == found.smooth[1].tolist()
    bottom, top = axes.get_ylim()
    assert bottom < found.losses.min() and top > found.losses[found.rates <= found.suggestion].max()


def test_even_a_flat_sweep_has_a_picture(recwarn):
    lr_finder.plot(sweep(lambda lr: 1.0, [], 1e-3, 1.0, 20))
    lr_finder.plot(sweep(lambda lr: 1.0 + lr, [], 1e-3, 1.0, 20))
    assert not recwarn.list


def test_the_picture_names_the_suggested_rate_and_its_rule():
    step, x = descent()
    for spacing in ("exponential", "linear"):
        found = find_learning_rate(step, [x], 100, spacing)
        [axes] = lr_finder.plot(found).axes
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        assert f"lowest mean: {found.suggestion:.2g} is suggested" in words
        assert axes.get_xscale() == ("log" if spacing == "exponential" else "linear")
        marked = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
        assert marked == [found.suggestion]
