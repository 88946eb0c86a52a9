"""The models against counting by hand and against PyTorch, and what they write."""

import math
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shared.ngrams import kneser_ney, witten_bell

data = import_module("02_makemore.data")
layers = import_module("02_makemore.layers")
models = import_module("02_makemore.models")

NAMES = data.names()[:2000]


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def all_models():
    pairs = data.examples(NAMES, 1)
    return [
        models.BigramTable(*pairs),
        models.BigramTable(*pairs, smoothing=1.0),
        models.Ngrams(*data.examples(NAMES, 3)),
        models.Ngrams(*data.examples(NAMES, 2), kneser_ney),
        models.BigramNetwork(generator()),
        models.Perceptron(3, 5, 20, generator()),
        models.Perceptron(8, 5, 20, generator(), dropout=0.5),
        models.Perceptron(3, 5, 20, generator(), batch_norm=True),
        models.WaveNet(4, 5, 20, generator(), dropout=0.5),
    ]


IDS = ["table", "smooth table", "Witten-Bell", "Kneser-Ney", "one layer"]
IDS += ["3 letters", "8 letters", "BatchNorm", "WaveNet"]
MODELS = pytest.mark.parametrize("model", all_models(), ids=IDS)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 3.0])
def test_the_bigram_table_counts_pairs(smoothing):
    pairs = Counter(pair for name in NAMES for pair in zip("." + name, name + ".", strict=True))
    table = models.BigramTable(*data.examples(NAMES, 1), smoothing=smoothing)
    for i, first in enumerate(data.SYMBOLS):
        total = sum(pairs[first, second] for second in data.SYMBOLS) + 27 * smoothing
        for j, second in enumerate(data.SYMBOLS):
            assert table.counts[i, j] == pairs[first, second]
            assert table.probabilities[i, j].item() == pytest.approx((pairs[first, second] + smoothing) / total)


@pytest.mark.parametrize("rule", [witten_bell, kneser_ney])
def test_longer_counts_are_their_rule(rule):
    x, y = data.examples(NAMES, 3)
    model = models.Ngrams(x, y, rule)
    unseen = torch.randint(27, (300, 3))
    for contexts, targets in ((x[:500], y[:500]), (unseen, torch.randint(27, (300,)))):
        rows = [torch.cat([c, t[:, None]], dim=1).numpy() for c, t in ((x, y), (contexts, targets))]
        logits = model(contexts)
        assert torch.allclose(logits.exp().sum(dim=1), torch.ones(len(contexts), dtype=torch.float64))
        assert model.loss(contexts, targets).item() == pytest.approx(-np.log(rule(*rows, 27)).mean())


def test_a_symbol_without_a_successor_is_followed_by_all_alike():
    table = models.BigramTable(*data.examples(["ab"], 1))
    assert table.probabilities[data.ID["q"]].tolist() == pytest.approx([1 / 27] * 27)
    assert table.probabilities[data.ID["a"]].tolist() == [0, 0, 1] + [0] * 24


def test_the_tables_loss_is_the_mean_surprise_of_its_pairs():
    x, y = data.examples(NAMES, 1)
    table = models.BigramTable(x, y)
    surprises = [-math.log(table.probabilities[i, j]) for i, j in zip(x[:, 0].tolist(), y.tolist(), strict=True)]
    assert table.loss(x, y).item() == pytest.approx(math.fsum(surprises) / len(surprises), rel=1e-5)
    assert models.BigramTable(*data.examples(["ab"], 1)).loss(*data.examples(["ba"], 1)) == math.inf


def test_no_other_table_has_a_lower_loss_on_what_was_counted():
    x, y = data.examples(NAMES, 1)
    table = models.BigramTable(x, y)
    lowest = table.loss(x, y).item()
    for _ in range(20):
        table.probabilities = models.BigramTable(x, y).probabilities * torch.exp(0.1 * torch.randn(27, 27))
        table.probabilities /= table.probabilities.sum(dim=1, keepdim=True)
        assert table.loss(x, y).item() > lowest


def test_one_layer_trained_on_all_pairs_reaches_the_table():
    x, y = data.examples(NAMES, 1)
    network, table = models.BigramNetwork(generator()), models.BigramTable(x, y)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        network.loss(x, y).backward()
        optimizer.step()
    assert network.loss(x, y).item() == pytest.approx(table.loss(x, y).item(), abs=0.005)


def test_the_network_of_one_layer_is_a_row_of_its_weight():
    network = models.BigramNetwork(generator())
    contexts = torch.randint(27, (50, 1))
    assert torch.allclose(network(contexts), F.embedding(contexts[:, 0], network.linear.weight.T))


def test_the_perceptron_is_torchs():
    ours = models.Perceptron(3, 10, 200, generator())
    theirs = torch.nn.Sequential(
        torch.nn.Embedding(27, 10), torch.nn.Flatten(), torch.nn.Linear(30, 200), torch.nn.Tanh(), torch.nn.Linear(200, 27)
    ).double()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        p.data, q.data = p.data.double(), p.data.double().clone()
    x, y = data.examples(NAMES[:50], 3)
    loss, expected = ours.loss(x, y), F.cross_entropy(theirs(x), y)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in ours.parameters()) == 11_897  # the published perceptron


def theirs_of(model):
    """The same network of PyTorch's layers, in double precision, as is then ours too."""
    made = {
        "Embedding": lambda layer: torch.nn.Embedding(*layer.weight.shape),
        "Linear": lambda layer: torch.nn.Linear(*reversed(layer.weight.shape), bias=layer.bias is not None),
        "BatchNorm1d": lambda layer: torch.nn.BatchNorm1d(len(layer.weight)),
        "Tanh": lambda layer: torch.nn.Tanh(),
        "Dropout": lambda layer: torch.nn.Dropout(layer.p),
    }
    parts = {}
    for i, layer in enumerate(model.layers.layers):
        kind = type(layer).__name__
        if kind in made:
            parts[i] = made[kind](layer).double()
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(layer, name, None) is not None:
                ours = getattr(layer, name)
                ours.data = ours.data.double()
                getattr(parts[i], name).data = ours.data.clone()
    return parts


@pytest.mark.parametrize("training", [True, False])
def test_the_wavenet_is_torchs(training):
    """8 letters, three times two neighbours become one; in PyTorch's form, with channels before time where it wants them."""
    ours = models.WaveNet(8, 24, 128, generator())
    assert sum(p.numel() for p in ours.parameters()) == 76_579  # the published one
    parts = theirs_of(ours)

    def theirs(contexts):
        x = None
        for i, layer in enumerate(ours.layers.layers):
            kind = type(layer).__name__
            if kind == "FlattenConsecutive":
                x = torch.cat([x[:, 0::2], x[:, 1::2]], dim=2)
            elif kind == "Flatten":
                x = x[:, 0]
            elif kind == "BatchNorm1d":
                x = parts[i](x.transpose(1, 2)).transpose(1, 2)
            else:
                x = parts[i](contexts if kind == "Embedding" else x)
        return x

    x, y = data.examples(NAMES[:50], 8)
    for _ in range(3):
        ours.train(), theirs(x)
        ours(x)
    if not training:
        ours.eval()
        for part in parts.values():
            part.eval()
    loss, expected = ours.loss(x, y), F.cross_entropy(theirs(x), y)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    learned = [p for part in parts.values() for p in part.parameters()]
    for p, q in zip(ours.parameters(), learned, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


def test_the_wavenet_fuses_neighbours_first():
    """What the fourth letter changes in the first two layers is the second pair and the first four, nothing else."""
    model = models.WaveNet(8, 3, 5, generator()).eval()
    seen = []
    for layer in model.layers.layers:
        if type(layer).__name__ == "Linear":
            layer.register_forward_hook(lambda layer, inputs, out: seen.append(out))
    x = torch.randint(1, 27, (1, 8))
    model(x)
    x[0, 3] = 0
    model(x)
    changed = [(a != b).any(dim=-1)[0].tolist() for a, b in zip(seen[:3], seen[4:7], strict=True)]
    assert changed == [[False, True, False, False], [True, False], [True]]


MAKERS = {
    "one layer": lambda g: models.BigramNetwork(g),
    "perceptron": lambda g: models.Perceptron(3, 4, 10, g, dropout=0.5),
    "BatchNorm": lambda g: models.Perceptron(3, 4, 10, g, dropout=0.5, batch_norm=True),
    "WaveNet": lambda g: models.WaveNet(4, 4, 10, g, dropout=0.5),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_weights_and_dropout_come_from_the_generator_alone(make):
    before = torch.get_rng_state()
    a, b, c = (make(generator(seed)) for seed in (1, 1, 2))
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(p, q) and (p.std() == 0 or not torch.equal(p, r))
    x = data.examples(NAMES[:20], a.block_size)[0]
    assert torch.equal(a(x), b(x)) and torch.equal(torch.get_rng_state(), before)


def test_the_wavenets_dropout_silences_neurons_after_each_layer():
    model = models.WaveNet(4, 5, 1000, generator(), dropout=0.5)
    shares = []
    for layer in model.layers.layers:
        if type(layer).__name__ == "Dropout":
            layer.register_forward_hook(lambda layer, inputs, out: shares.append((out == 0).double().mean().item()))
    x = data.examples(NAMES[:10], 4)[0]
    model(x)
    assert shares == pytest.approx([0.5, 0.5], abs=0.03)
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("make", [models.Perceptron, models.WaveNet])
@pytest.mark.parametrize("width", [2, 8])
def test_contexts_of_another_length_are_refused(make, width):
    with pytest.raises(ValueError, match=rf"contexts are \(7, {width}\); 4 symbols in each row are expected"):
        make(4, 3, 5)(torch.zeros(7, width, dtype=torch.int64))


def test_longer_counts_look_at_the_last_symbols_and_need_something_to_count():
    x, y = data.examples(NAMES, 5)
    model = models.Ngrams(x[:, -2:], y)
    assert torch.equal(model(x[:50]), model(x[:50, -2:])) and model(x[:5]).dtype == torch.float64
    with pytest.raises(ValueError, match="0 rows; at least one"):
        models.Ngrams(x[:0], y[:0])
    with pytest.raises(ValueError, match="1 to 12"):
        models.Ngrams(torch.zeros(5, 12, dtype=torch.int64), y[:5])


@pytest.mark.parametrize("block_size", [0, 1, 3, 6, -2])
def test_letters_that_are_no_power_of_two_are_refused(block_size):
    with pytest.raises(ValueError, match=f"block_size is {block_size}; a power of two, at least 2"):
        models.WaveNet(block_size, 4, 8)


def test_the_perceptron_with_batchnorm_feeds_tanh_with_spread_one_whatever_its_weights():
    model = models.Perceptron(3, 10, 200, generator(), batch_norm=True)
    x = data.examples(NAMES, 3)[0]
    linear, norm = model.layers.layers[2:4]
    assert linear.bias is None and sum(p.numel() for p in model.parameters()) == 12_097  # the published one
    for scale in (1, 100):
        linear.weight.data *= scale
        out = norm(linear(model.embedding(x).flatten(1)))
        assert out.mean().abs() < 1e-4 and out.std().item() == pytest.approx(1, abs=1e-3)


@MODELS
def test_logits_are_one_row_of_27_for_each_context(model):
    contexts = torch.randint(27, (11, model.block_size))
    assert model(contexts).shape == (11, 27)
    assert model.loss(contexts, torch.randint(27, (11,))).shape == ()


@MODELS
def test_samples_follow_the_models_own_probabilities(model):
    """First letters (none is the dot), and whether the name ends after one letter, within five standard errors."""
    n = 4000
    names = model.sample(n, generator=generator())
    model.eval()
    start = model(torch.zeros(1, model.block_size, dtype=torch.int64)).softmax(dim=1)[0]
    start = start[1:] / start[1:].sum()
    firsts = Counter(name[0] for name in names)
    for letter, p in zip(data.SYMBOLS[1:], start.tolist(), strict=True):
        assert abs(firsts[letter] / n - p) <= 5 * (p * (1 - p) / n) ** 0.5 + 1e-9
    most, seen = firsts.most_common(1)[0]
    context = data.encode(("." * model.block_size + most)[-model.block_size :])
    ends = model(torch.tensor([context])).softmax(dim=1)[0, 0].item()
    assert abs(sum(name == most for name in names) / seen - ends) <= 5 * (ends * (1 - ends) / seen) ** 0.5 + 1e-9
    model.train()


@MODELS
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 0.5, 1.0, 100.0, 1e300])
def test_names_are_never_empty_and_end(model, temperature):
    names = model.sample(200, temperature, generator())
    assert len(names) == 200 and all(1 <= len(name) <= 30 and name.isalpha() for name in names)
    if temperature < 1e-9:
        assert len(set(names)) == 1


def test_an_untrained_network_that_wants_to_end_at_once_still_writes_a_letter():
    model = models.Perceptron(2, 3, 4, generator())
    model.layers.layers[-1].bias.data[0] = 1000.0
    assert all(len(name) == 1 for name in model.sample(50, generator=generator()))


def test_temperature_takes_probabilities_to_the_power_of_its_inverse():
    table = models.BigramTable(*data.examples(NAMES, 1))
    for temperature in (0.5, 2.0):
        names = table.sample(5000, temperature, generator())
        expected = table.probabilities[0].double() ** (1 / temperature)
        expected /= expected.sum()
        for letter in "ajmq":
            p = expected[data.ID[letter]].item()
            assert abs(sum(name[0] == letter for name in names) / 5000 - p) < 5 * (p * (1 - p) / 5000) ** 0.5 + 1e-9


def test_excluded_names_are_not_written():
    table = models.BigramTable(*data.examples(["ab", "cd"], 1))
    assert set(table.sample(50, generator=generator())) == {"ab", "cd"}
    assert set(table.sample(50, generator=generator(), exclude=["ab"])) == {"cd"}
    with pytest.raises(ValueError, match="only 0 of 300 names written are not among the 2 excluded; exclude less"):
        table.sample(3, generator=generator(), exclude={"ab", "cd"})
    with pytest.raises(ValueError, match="exclude is the text 'ab'; a list or set"):
        table.sample(3, exclude="ab")


def test_the_last_try_counts(monkeypatch):
    monkeypatch.setattr(models, "PATIENCE", 1)
    assert len(models.BigramTable(*data.examples(NAMES, 1)).sample(5)) == 5


def test_names_are_collected_until_there_are_as_many_as_asked_for():
    rare = models.BigramTable(*data.examples(["ab"] * 9 + ["cd"], 1))
    assert rare.sample(7, generator=generator(), exclude=["ab"]) == ["cd"] * 7


def test_sampling_is_a_loop_of_one_draw_a_letter():
    model, g = models.Perceptron(3, 5, 20, generator()), generator(5)
    expected = []
    for i in range(30):
        context = torch.tensor([data.encode(("..." + "".join(expected))[-3:])])
        p = model(context).double().softmax(dim=1)
        if i == 0:
            p[0, 0] = 0
        letter = torch.multinomial(p / p.sum(), 1, generator=g).item()
        if letter == 0:
            break
        expected.append(data.SYMBOLS[letter])
    assert model.sample(1, generator=generator(5)) == ["".join(expected)]


def test_a_name_that_does_not_end_ends_after_thirty_letters():
    model = models.Perceptron(2, 3, 4, generator())
    model.layers.layers[-1].bias.data[0] = -1000.0
    assert all(len(name) == 30 for name in model.sample(20, generator=generator()))


def test_a_model_that_has_diverged_is_named():
    model = models.BigramNetwork(generator())
    model.linear.weight.data[:] = torch.nan
    with pytest.raises(ValueError, match="the model's logits are not numbers; it has diverged"):
        model.sample(3)


class Watched(models.BigramNetwork):
    """Notes how it is called."""

    def forward(self, contexts):
        self.calls = getattr(self, "calls", 0) + 1
        assert not torch.is_grad_enabled() and not self.training
        return super().forward(contexts)


@pytest.mark.parametrize("training", [True, False])
def test_sampling_needs_no_gradients_stops_with_the_last_name_and_leaves_the_mode(training):
    model = Watched(generator()).train(training)
    names = model.sample(3, 0.5, generator())
    assert model.calls == min(30, max(map(len, names)) + 1) and model.training == training


def test_the_table_counts_the_last_symbol_of_longer_contexts():
    short, long = (models.BigramTable(*data.examples(NAMES, block_size)) for block_size in (1, 3))
    assert torch.equal(short.counts, long.counts)


def test_the_perceptrons_hidden_weights_make_up_for_what_tanh_squeezes():
    hidden = models.Perceptron(8, 50, 500, generator()).layers.layers[2]
    assert hidden.weight.std().item() == pytest.approx(5 / 3 / 400**0.5, rel=0.02)


def test_the_perceptrons_dropout_silences_hidden_neurons_in_training_from_its_generator():
    model = models.Perceptron(3, 5, 1000, generator(), dropout=0.5)
    x, before = data.examples(NAMES[:10], 3)[0], torch.get_rng_state()
    assert not torch.equal(model(x), model(x)) and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.eval()(x), model(x))


def test_the_network_of_one_layer_works_in_double_precision():
    model = models.BigramNetwork(generator())
    model.linear.weight.data = model.linear.weight.data.double()
    assert model(torch.zeros(1, 1, dtype=torch.int64)).dtype == torch.float64 and model.sample(2)


@MODELS
def test_sampling_repeats_with_its_generator_and_changes_nothing(model):
    before, mode, numbers = [p.clone() for p in model.parameters()], model.training, torch.get_rng_state()
    assert model.sample(20, generator=generator(3)) == model.sample(20, generator=generator(3))
    assert model.sample(20, generator=generator(3)) != model.sample(20, generator=generator(4))
    assert all(map(torch.equal, model.parameters(), before)) and model.training == mode
    assert torch.equal(torch.get_rng_state(), numbers) and model.sample(0) == []


def test_samples_are_written_in_evaluation_mode():
    model = models.Perceptron(3, 5, 50, generator(), dropout=0.9)
    assert len(set(model.sample(100, temperature=0.0))) == 1
    x = torch.zeros(1, 3, dtype=torch.int64)
    assert not torch.equal(model(x), model(x))  # in training mode, which it is in again, chance makes them differ


@pytest.mark.parametrize(("n", "temperature"), [(-1, 1.0), (3, -0.5), (3, math.nan), (3, math.inf)])
def test_what_cannot_be_sampled_is_refused(n, temperature):
    with pytest.raises(ValueError, match=f"n is {n} and temperature is {temperature}; finite"):
        models.BigramNetwork(generator()).sample(n, temperature)


@pytest.mark.parametrize("smoothing", [-1, math.inf, math.nan])
def test_smoothing_that_cannot_be_is_refused(smoothing):
    with pytest.raises(ValueError, match=f"smoothing is {smoothing}"):
        models.BigramTable(*data.examples(NAMES, 1), smoothing=smoothing)
