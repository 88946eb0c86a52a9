"""What a recorder sees, against numbers computed beside it, on PyTorch's layers and on stage 02's, and that it only looks."""

import copy
import math
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from shared import diagnostics
from shared.diagnostics import Recorder
from shared.plotting import save_figure

PLOTS = [
    diagnostics.plot_activations,
    diagnostics.plot_gradients,
    diagnostics.plot_weights,
    diagnostics.plot_ratios,
]


def torchs(seed=1):
    """A network of PyTorch's, an optimizer with momentum, and one training step."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(6, 30),
        nn.Tanh(),
        nn.Linear(30, 20),
        nn.ReLU(),
        nn.BatchNorm1d(20),
        nn.Linear(20, 10),
        nn.Sigmoid(),
        nn.Linear(10, 3),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def step():
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), x[:, :3].argmax(dim=1)).backward()
        optimizer.step()

    return network, optimizer, step


def ours(seed=1):
    """The same of stage 02's layers."""
    models, training = import_module("02_makemore.models"), import_module("02_makemore.training")
    generator = torch.Generator().manual_seed(seed)
    model = models.WaveNet(4, 5, 12, generator, dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randint(27, (200, 4), generator=generator)
    step = training.training_step(model, optimizer, x, x[:, 0], 32, generator)
    return model, optimizer, lambda: step(0.1)


BOTH = pytest.mark.parametrize("make", [torchs, ours], ids=["torch", "stage 02"])


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


@BOTH
def test_watching_changes_nothing(make):
    ends = []
    for watched in (False, True):
        model, optimizer, step = make()
        recorder = Recorder(model, optimizer) if watched else None
        for _ in range(20):
            step()
        ends.append([weights_of(model), torch.get_rng_state()])
        if recorder:
            recorder.close()
    assert all(map(torch.equal, ends[0][0], ends[1][0])) and torch.equal(ends[0][1], ends[1][1])


def test_what_is_recorded_is_what_pytorch_computes():
    """Each number of three steps, computed again from a copy of the network, with its own gradients and its own Adam."""
    network, optimizer, step = torchs()
    copy, its_optimizer, _ = torchs()
    with Recorder(network, optimizer) as recorder:
        torch.manual_seed(5)
        for _ in range(3):
            step()
    torch.manual_seed(5)
    for i in range(3):
        x = torch.randn(16, 6)
        outs = [x]
        for layer in copy:
            outs.append(layer(outs[-1]))
            outs[-1].retain_grad()
        before = weights_of(copy)
        its_optimizer.zero_grad()
        nn.functional.cross_entropy(outs[-1], x[:, :3].argmax(dim=1)).backward()
        its_optimizer.step()
        for name, out in enumerate(outs[1:]):
            seen = recorder.outputs[str(name)]
            values, grads = out.detach().numpy(), out.grad.numpy()
            assert seen.kind == type(copy[name]).__name__
            assert seen.mean[i] == pytest.approx(values.mean(), abs=1e-6) and seen.std[i] == pytest.approx(
                values.std(), rel=1e-4
            )
            assert seen.grad_std[i] == pytest.approx(grads.std(), rel=1e-4)
            expected = {
                "Tanh": (np.abs(values) > 0.97).mean(),
                "ReLU": (values == 0).mean(),
                "Sigmoid": ((values > 0.985) | (values < 0.015)).mean(),
            }.get(seen.kind, math.nan)
            assert seen.saturated[i] == pytest.approx(expected, nan_ok=True)
            if i == 2:
                assert np.array_equal(seen.values.numpy(), values.ravel()) and np.allclose(seen.grads.numpy(), grads.ravel())
        for (name, p), old in zip(copy.named_parameters(), before, strict=True):
            if p.dim() >= 2:
                seen = recorder.weights[name]
                assert seen.std[i] == pytest.approx(old.numpy().std(), rel=1e-4) and seen.shape == tuple(p.shape)
                assert seen.ratio[i] == pytest.approx((p.detach() - old).numpy().std() / old.numpy().std(), rel=1e-3)
                if i == 2:
                    assert np.allclose(seen.values.numpy(), p.detach().numpy().ravel())
            else:
                assert name not in recorder.weights
    assert recorder.steps == [0, 1, 2] and list(recorder.outputs) == [str(i) for i in range(8)]


def test_saturation_is_where_less_than_six_percent_of_the_slope_is_left():
    x = torch.linspace(-8, 8, 10_001, dtype=torch.float64, requires_grad=True)
    for kind in (nn.Tanh(), nn.Sigmoid()):
        out = kind(x)
        slopes = torch.autograd.grad(out.sum(), x)[0]
        assert torch.equal(diagnostics.SATURATED[type(kind).__name__](out), slopes / slopes.max() < 1 - 0.97**2)
    assert torch.equal(diagnostics.SATURATED["ReLU"](nn.functional.relu(x)), x <= 0)


def test_stage_02s_layers_are_watched_like_torchs():
    """The recorder's numbers of the last step, from the layers' own tensors."""
    model, optimizer, step = ours()
    captured = {}
    for i, layer in enumerate(model.layers.layers):
        layer.register_forward_hook(lambda layer, inputs, out, i=i: (out.retain_grad(), captured.update({i: out})))
    with Recorder(model, optimizer) as recorder:
        for _ in range(4):
            before = weights_of(model)
            step()
    assert list(recorder.outputs) == ["embedding", *(f"layers.{i}" for i in range(1, 13))]
    for i, out in captured.items():
        seen = recorder.outputs["embedding" if i == 0 else f"layers.{i}"]
        assert torch.equal(seen.values, out.detach().flatten()) and seen.kind == type(model.layers.layers[i]).__name__
        assert seen.grad_std[3] == pytest.approx(out.grad.std(correction=0).item(), rel=1e-5)
    matrices = [(p, old) for p, old in zip(model.parameters(), before, strict=True) if p.dim() == 2]
    for (p, old), seen in zip(matrices, recorder.weights.values(), strict=True):
        assert seen.ratio[3] == pytest.approx(((p - old).std() / old.std()).item(), rel=1e-3)
    assert list(recorder.weights) == [
        "embedding.weight", "layers.2.weight", "layers.7.weight", "layers.12.weight",
    ]  # fmt: skip


def test_layers_are_chosen_by_kind_or_name():
    network, optimizer, step = torchs()
    with Recorder(network, optimizer, ["Tanh", "5"]) as recorder:
        step()
    assert list(recorder.outputs) == ["1", "5"] and len(recorder.weights) == 4


def test_only_layers_that_hold_no_others_are_watched_unless_they_are_named():
    block = nn.ModuleDict({"a": nn.Linear(4, 4), "ab": nn.Sequential(nn.Linear(4, 4), nn.Tanh())})

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return block["ab"](block["a"](x))

    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for layers, expected in ((None, ["block.a", "block.ab.0", "block.ab.1"]), (["block.ab", "Network"], ["block.ab", ""])):
        with Recorder(network, optimizer, layers) as recorder:
            network(torch.randn(3, 4)).sum().backward()
            optimizer.step()
        assert list(recorder.outputs) == expected
    single = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(single.parameters(), lr=0.1)
    with Recorder(single, optimizer) as recorder:
        single(torch.randn(3, 3)).sum().backward()
        optimizer.step()
    assert list(recorder.outputs) == [""] and list(recorder.weights) == ["weight"]


@BOTH
def test_evaluation_and_passes_without_gradients_are_not_seen(make):
    model, optimizer, step = make()
    with Recorder(model, optimizer) as recorder:
        step()
        means = {name: seen.mean[-1] for name, seen in recorder.outputs.items()}
        model.eval()
        x = torch.randint(27, (5, 4)) if make is ours else torch.randn(5, 6)
        model(x).sum().backward()
        model.train()
        with torch.no_grad():
            model(x)
        assert not recorder._seen
        optimizer.step()
    assert {name: seen.mean[0] for name, seen in recorder.outputs.items()} == means
    assert all(len(seen.mean) == 2 and math.isnan(seen.mean[1]) for seen in recorder.outputs.values())


def test_a_layer_that_comes_late_is_recorded_from_then_on():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    network = nn.ModuleList([first, second])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Recorder(network, optimizer) as recorder:
        for late in (False, False, True):
            (second(first(torch.randn(5, 3))) if late else first(torch.randn(5, 3))).sum().backward()
            optimizer.step()
    assert [math.isnan(mean) for mean in recorder.outputs["1"].mean] == [True, True, False]
    assert len(recorder.outputs["0"].mean) == 3


def test_memory_is_bounded_and_the_whole_training_is_covered(monkeypatch):
    monkeypatch.setattr(diagnostics, "MOST", 8)
    monkeypatch.setattr(diagnostics, "SAMPLE", 50)
    network, optimizer, step = torchs()
    with Recorder(network, optimizer) as recorder:
        for taken in range(1, 101):
            step()
            assert len(recorder.steps) <= 8 and recorder.steps[0] == 0
            assert taken - 1 - recorder.steps[-1] < 2 * max(1, recorder.steps[-1] - recorder.steps[-2] if taken > 1 else 1)
            for known in (*recorder.outputs.values(), *recorder.weights.values()):
                assert len(known.std) == len(recorder.steps) and len(known.values) <= 50
    assert recorder.steps == [0, 16, 32, 48, 64, 80, 96]
    assert {len(known.values) for known in recorder.outputs.values()} == {48, 50}


def test_steps_that_are_kept_are_those_of_a_recorder_that_keeps_all(monkeypatch):
    records = []
    for most in (1000, 8):
        monkeypatch.setattr(diagnostics, "MOST", most)
        network, optimizer, step = torchs()
        with Recorder(network, optimizer) as recorder:
            for _ in range(30):
                step()
        records.append(recorder)
    every, thinned = records
    for name, known in thinned.weights.items():
        assert known.ratio == [every.weights[name].ratio[step] for step in thinned.steps]
    for name, known in thinned.outputs.items():
        assert known.grad_std == [every.outputs[name].grad_std[step] for step in thinned.steps]


def test_a_sample_is_like_the_whole():
    """A linear map of 64 channels whose means differ: a sample that took every 64th value would see one of them."""
    linear = nn.Linear(1, 64)
    linear.bias.data = torch.arange(64.0)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    with Recorder(linear, optimizer) as recorder:
        linear(torch.zeros(20_000, 1)).sum().backward()
        optimizer.step()
    [seen] = recorder.outputs.values()
    assert len(seen.values) == 10_000
    assert torch.histc(seen.values, 64, 0, 63).min() > 100  # 156 expected, 4.5 standard errors


def test_after_its_block_it_sees_nothing_and_holds_nothing():
    network, optimizer, step = torchs()
    with Recorder(network, optimizer) as recorder:
        step()
    step()
    assert recorder.steps == [0] and not recorder._before and not recorder._seen
    assert not any(layer._forward_hooks for layer in network) and not optimizer._optimizer_step_pre_hooks
    try:
        with Recorder(network, optimizer) as recorder:
            raise KeyError
    except KeyError:
        assert not any(layer._forward_hooks for layer in network) and not optimizer._optimizer_step_post_hooks


def test_of_several_passes_before_a_step_the_last_is_kept():
    linear = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    with Recorder(linear, optimizer) as recorder:
        for size in (100.0, 1.0):
            out = linear(torch.randn(50, 2) * size)
            out.sum().backward()
        expected = out.std(correction=0).item()
        optimizer.step()
    assert recorder.outputs[""].std == [pytest.approx(expected)]


def test_weights_that_do_not_move_or_are_zero_have_a_ratio_that_says_so():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    nn.init.zeros_(network[1].weight)
    optimizer = torch.optim.SGD([{"params": network[0].parameters(), "lr": 0.0}, {"params": network[1].parameters()}], lr=0.1)
    with Recorder(network, optimizer) as recorder:
        network(torch.randn(4, 3)).pow(2).sum().backward()
        optimizer.step()
    assert recorder.weights["0.weight"].ratio == [0.0] and math.isnan(recorder.weights["1.weight"].ratio[0])


def test_wrong_use_ends_with_one_sentence():
    network, optimizer, _step = torchs()
    with pytest.raises(
        ValueError, match=r"no layer has the name or kind 'Tahn'; the kinds are BatchNorm1d, .* the names are 0, 1"
    ):
        Recorder(network, optimizer, ["Tahn"])
    with pytest.raises(ValueError, match=r"layers is the text 'Tanh'; a list .* such as \['Tanh'\]"):
        Recorder(network, optimizer, "Tanh")
    with pytest.raises(ValueError, match="the optimizer trains no matrix of this model"):
        Recorder(nn.Linear(2, 2), optimizer)
    assert not any(layer._forward_hooks for layer in network)
    for plot in PLOTS:
        with (
            Recorder(network, optimizer) as recorder,
            pytest.raises(ValueError, match="nothing is recorded; take at least one"),
        ):
            plot({"no step": recorder})
        with pytest.raises(ValueError, match="nothing is recorded"):
            plot({})


@BOTH
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_two_recordings_are_drawn_side_by_side_on_the_same_axes(make, plot, tmp_path):
    records = {}
    for title, seed in (("sick", 1), ("mended", 2)):
        model, optimizer, step = make(seed)
        with Recorder(model, optimizer, ["Linear", "Tanh"]) as records[title]:
            for _ in range(5):
                step()
    figure = plot(records)
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["sick", "mended"]
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    assert left.get_xlabel() and right.get_xlabel() and left.get_ylabel() and not plt.get_fignums()
    drawn = len(records["sick"].weights) if plot in PLOTS[2:] else len(records["sick"].outputs)
    assert len(left.get_legend().get_texts()) == drawn + (plot is diagnostics.plot_ratios)
    save_figure(figure, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size < 150_000


def test_histograms_are_those_of_numpy():
    network, optimizer, step = torchs()
    with Recorder(network, optimizer, ["Tanh"]) as recorder:
        for _ in range(3):
            step()
    seen = recorder.outputs["1"]
    [axes] = diagnostics.plot_activations({"": recorder}).axes
    values, edges = axes.patches[0].get_data().values, axes.patches[0].get_data().edges
    assert np.allclose(values, np.histogram(seen.values, edges)[0] / len(seen.values)) and values.sum() == pytest.approx(1)
    assert f"spread {seen.std[-1]:#.2g}, saturated {seen.saturated[-1]:.0%}" in axes.get_legend().get_texts()[0].get_text()
    [axes] = diagnostics.plot_gradients({"": recorder}).axes
    values, edges = axes.patches[0].get_data().values, axes.patches[0].get_data().edges
    assert np.allclose(values, np.histogram(seen.grads.abs(), edges)[0] / len(seen.grads)) and 0.99 < values.sum() <= 1
    assert axes.get_xscale() == "log"
    [axes] = diagnostics.plot_weights({"": recorder}).axes
    assert all(0.99 < patch.get_data().values.sum() <= 1 for patch in axes.patches) and axes.get_xscale() == "log"
    [axes] = diagnostics.plot_ratios({"": recorder}).axes
    assert axes.get_yscale() == "log" and axes.lines[0].get_ydata()[0] == 1e-3
    for line, known in zip(axes.lines[1:], recorder.weights.values(), strict=False):
        assert list(line.get_ydata()) == known.ratio and list(line.get_xdata()) == [0, 1, 2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [0.0, torch.nan, torch.inf])
def test_dead_and_diverged_networks_are_drawn_too(number, tmp_path):
    """All gradients 0, or nothing finite at all: the pictures say so instead of failing."""
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network[0].weight.data[:], network[0].bias.data[:] = number, -1.0
    with Recorder(network, optimizer) as recorder:
        for _ in range(2):
            network(torch.ones(4, 3)).pow(2).sum().backward()
            optimizer.step()
    for plot in PLOTS:
        save_figure(plot({"dead": recorder}), tmp_path / "picture.png")
    if number == 0:
        [axes] = diagnostics.plot_gradients({"dead": recorder}).axes
        assert axes.get_legend().get_texts()[0].get_text().endswith("100% are 0")


def one_step(network, optimizer, x):
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()


def test_what_is_overwritten_in_place_is_recorded_as_it_was():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Recorder(network, optimizer) as recorder:
        one_step(network, optimizer, torch.randn(50, 4))
    assert recorder.outputs["0"].values.min() < 0 == recorder.outputs["1"].values.min()


def test_a_step_that_is_not_recorded_costs_nothing(monkeypatch):
    monkeypatch.setattr(diagnostics, "MOST", 2)
    network, optimizer, step = torchs()
    with Recorder(network, optimizer) as recorder:
        for _ in range(4):
            step()
        assert recorder.steps == [0, 2]
        monkeypatch.setattr(diagnostics, "_spread", None)  # step 4 would be recorded, 5 and 6 are not after it
        recorder._interval, recorder._step = 4, 5
        step(), step()
    assert recorder.steps == [0, 2]


@pytest.mark.parametrize(("taken", "kept"), [(1000, 1000), (1001, 501)])
def test_a_thousand_steps_are_kept(taken, kept):
    linear = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    with Recorder(linear, optimizer) as recorder:
        for _ in range(taken):
            optimizer.step()
    assert len(recorder.steps) == kept and len(recorder.weights["weight"].ratio) == kept


def test_a_layer_that_is_not_used_in_the_last_step_is_not_drawn_with_old_values():
    network = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Recorder(network, optimizer) as recorder:
        for names in ("ab", "a"):
            sum(network[name](torch.randn(5, 3)).sum() for name in names).backward()
            optimizer.step()
    for plot, label in zip(PLOTS, ("b Linear: not used in this step", "b Linear: no gradient in this step"), strict=False):
        [axes] = plot({"": recorder}).axes
        used, unused = (text.get_text() for text in axes.get_legend().get_texts())
        assert unused == label and "in this step" not in used
        assert axes.patches[1].get_data().values.sum() == 0 < axes.patches[0].get_data().values.sum()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_of_checkpointed_layers_are_seen(reentrant):
    torch.manual_seed(1)
    block, last, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2), torch.randn(9, 4, requires_grad=True)
    network = nn.ModuleList([block, last])
    spreads = []
    for checkpointed in (False, True):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        with Recorder(network, optimizer) as recorder:
            hidden = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant) if checkpointed else block(x)
            last(hidden).square().sum().backward()
            optimizer.step()
        spreads.append([recorder.outputs[name].grad_std for name in ("0.0", "0.1", "1")])
    assert spreads[0] == spreads[1]


def test_a_layer_that_gives_its_parameter_is_not_hooked():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2))

        def forward(self, x):
            return self.weight

    table = Table()
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with Recorder(table, optimizer) as recorder:
        for _ in range(5):
            one_step(table, optimizer, None)
    assert not table.weight._backward_hooks and len(recorder.steps) == 5


def test_a_copy_of_the_model_is_not_watched():
    network, optimizer, step = torchs()
    with Recorder(network, optimizer) as recorder:
        step()
        twin = copy.deepcopy(network)
        twin(torch.randn(5, 6))
        assert not recorder._seen
        step()
    twin(torch.randn(5, 6)), network(torch.randn(5, 6))
    assert not recorder._seen and recorder.steps == [0, 1]


def test_a_container_of_layers_that_were_named_before_holds_others():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.net = nn.Sequential(self.first)

        def forward(self, x):
            return self.net(x)

    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Recorder(network, optimizer) as recorder:
        one_step(network, optimizer, torch.randn(4, 3))
    assert list(recorder.outputs) == ["first"]


def test_layers_that_show_nothing_or_cannot_be_watched_are_named():
    lstm = nn.LSTM(3, 4)
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1)
    with Recorder(lstm, optimizer) as recorder:
        lstm(torch.randn(5, 2, 3))[0].sum().backward()
        optimizer.step()
    for plot in PLOTS[:2]:
        with pytest.raises(ValueError, match="no layer that is watched gave one tensor"):
            plot({"": recorder})

    class Bare:
        def __init__(self):
            self.weight = torch.ones(2, 2, requires_grad=True)

        def parameters(self):
            return [self.weight]

    bare = Bare()
    with pytest.raises(ValueError, match="layer '' is a Bare without `register_forward_hook`, which is needed"):
        Recorder(bare, torch.optim.SGD(bare.parameters(), lr=0.1))


def test_labels_are_those_of_the_last_step():
    """Weights and activations that halve at each step, down to where two decimals would show 0.00."""
    linear = nn.Linear(30, 40, bias=False)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0)
    x = torch.randn(50, 30)
    with Recorder(linear, optimizer) as recorder:
        for _ in range(10):
            (linear(x) * (x.T @ x).inverse().trace()).sum().backward()
            linear.weight.grad = linear.weight.detach() / 2
            optimizer.step()
    [seen], [weight] = recorder.outputs.values(), recorder.weights.values()
    assert seen.std[0] == pytest.approx(512 * seen.std[-1], rel=1e-3)
    labels = [plot({"": recorder}).axes[0].get_legend().get_texts()[0].get_text() for plot in PLOTS[:3]]
    assert labels == [
        f"Linear: spread {seen.std[-1]:#.2g}",
        f"Linear: spread {seen.grad_std[-1]:.1e}",
        f"weight 40 × 30: spread {weight.std[-1] / 2:#.2g}",
    ]
    assert "0.00" in labels[0]


def test_what_is_not_finite_is_counted_in_the_label():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    x = torch.randn(10, 3)
    x[:5] = torch.inf
    with Recorder(network, optimizer) as recorder:
        one_step(network, optimizer, x)
    [axes] = diagnostics.plot_activations({"": recorder}).axes
    assert axes.get_legend().get_texts()[0].get_text().endswith(", 50% not finite")
    assert axes.patches[0].get_data().values.sum() == pytest.approx(0.5)


def test_ratios_of_zero_leave_a_gap_and_a_single_step_is_a_dot():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD([{"params": network[0].parameters(), "lr": 0.0}, {"params": network[1].parameters()}], lr=0.1)
    with Recorder(network, optimizer) as recorder:
        one_step(network, optimizer, torch.randn(4, 3))
    [axes] = diagnostics.plot_ratios({"": recorder}).axes
    _guide, still, moving = axes.lines
    assert np.isnan(still.get_ydata()).all() and moving.get_ydata()[0] > 0 and moving.get_marker() == "."


def test_curves_differ_in_colour_and_lie_within_the_axes():
    network, optimizer, step = torchs()
    with Recorder(network, optimizer) as recorder:
        step()
    [axes] = diagnostics.plot_activations({"": recorder}).axes
    colours = {tuple(patch.get_edgecolor()) for patch in axes.patches}
    assert len(colours) == len(axes.patches) == 8
    linear = nn.Linear(6, 3)
    nn.init.constant_(linear.weight, 5.0)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    with Recorder(linear, optimizer) as recorder:
        one_step(linear, optimizer, torch.randn(4, 6))
    [axes] = diagnostics.plot_weights({"": recorder}).axes
    assert axes.get_xlim()[0] < 5 < axes.get_xlim()[1] and axes.patches[0].get_data().values.max() == 1


def test_the_smallest_layer_is_not_cut_off():
    """Gradients of a last layer with few values, far below those of the others."""
    network = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    network[1].weight.data *= 1e4
    with Recorder(network, optimizer) as recorder:
        network(torch.randn(100, 100)).mean().backward()
        optimizer.step()
    [axes] = diagnostics.plot_gradients({"": recorder}).axes
    assert all(patch.get_data().values.sum() > 0.99 for patch in axes.patches)


def test_of_several_passes_before_one_backward_the_last_is_kept():
    linear, small, large = nn.Linear(3, 3), torch.randn(20, 3), 10 * torch.randn(20, 3)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    with Recorder(linear, optimizer) as recorder:
        for first, last in ((small, large), (large, small)):
            (linear(first).square().sum() + linear(last).square().sum()).backward()
            optimizer.step()
            assert recorder.outputs[""].std[-1] == pytest.approx(linear(last).std(correction=0).item(), rel=1e-5)
            assert len(recorder.outputs[""].grads) == 60
    out = linear(small)
    recorder.close()
    out.sum().backward()
    assert not recorder._seen
