"""The ladder's table: the figures that counting must reach, and networks that learn; tests assert no times."""

import random
import re
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shared.corpora import names
from shared.ngrams import witten_bell

benchmark = import_module("02_makemore.benchmark")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(benchmark, "BATCH_SIZE", 32)
    monkeypatch.setattr(benchmark, "SWEEP_STEPS", 50)
    monkeypatch.setattr(benchmark, "N_SAMPLES", 40)


@pytest.fixture
def two_networks(monkeypatch):
    """One layer and the first perceptron, and no names by models that count anew for each letter: all would take minutes."""
    monkeypatch.setattr(benchmark, "NETWORKS", benchmark.NETWORKS[:2])
    monkeypatch.setattr(benchmark, "written", lambda model, seed: ["emma", "xq"])


def table(text):
    """Kind and name -> parameters, train loss, validation loss."""
    kinds = "counting|linear|perceptron|WaveNet"
    rows = re.findall(rf"^({kinds}) +(.+?) +([\d,]+) +([\d.]+) +([\d.]+) +[\d.]+ +[\d.]+%$", text, re.MULTILINE)
    return {(kind, name): (int(n.replace(",", "")), float(train), float(val)) for kind, name, n, train, val in rows}


def test_the_networks_are_as_large_as_the_published_ones():
    sizes = {}
    for network in benchmark.NETWORKS:
        model = network.make(torch.Generator().manual_seed(1))
        assert network.name.startswith(f"{model.block_size} letter")
        sizes[network.kind, network.name] = sum(p.numel() for p in model.parameters())
    for row in benchmark.PUBLISHED:
        [ours] = [size for (kind, name), size in sizes.items() if name == row.name or kind in row.name]
        assert ours == row.parameters <= 77_000


@pytest.mark.usefixtures("two_networks")
def test_the_ladder_is_printed_by_kind(capsys):
    assert benchmark.main(["--steps", "30"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("32,469 names, 29,910 distinct")
    rows = table(text)
    assert [kind for kind, _ in rows] == ["counting"] * 7 + ["linear", "perceptron"]
    assert rows["perceptron", "3 letters, 10 × 200"][0] == 11_897 and rows["linear", "1 letter, one layer"][0] == 729
    counted = [rows["counting", f"{k} letter{'s' * (k > 1)}"] for k in range(1, 6)]
    assert min(counted, key=lambda row: row[2]) == counted[3]
    assert "published" not in text and "3 letters, from best to worst: counting, 3 letters, Kneser-Ney: " in text
    for (kind, _), (_, train, val) in rows.items():
        assert 1.4 < train < val < 2.6 if kind == "counting" else 1.9 < val < 3.3 and abs(train - val) < 0.1


def test_each_model_writes_names_and_those_in_the_data_are_marked(tmp_path, capsys, monkeypatch):
    words = [name.lower() for name in names()[:300]]
    (tmp_path / "names.txt").write_text("\n".join(words))
    monkeypatch.setattr(benchmark, "NETWORKS", benchmark.NETWORKS[:1])
    assert benchmark.main(["--names", str(tmp_path / "names.txt"), "--steps", "5"]) == 0
    table, lists = capsys.readouterr().out.split(
        "the first 10 of 40 names that each wrote, in brackets those that are in the data:\n"
    )
    assert len(lists.splitlines()) == 8
    for line in lists.splitlines():
        shown = line[55:].split()
        assert len(shown) == 10 and all((name[1:-1] in words) if name[0] == "(" else (name not in words) for name in shown)
    model = import_module("02_makemore.models").Ngrams(*benchmark.examples(benchmark.published_split(words)[0], 3))
    written = model.sample(40, generator=torch.Generator().manual_seed(1337))
    assert f"{sum(name not in words for name in written) / 40:.1%}" == re.search(r"3 letters .* ([\d.]+%)", table)[1]
    first = next(line for line in lists.splitlines() if "3 letters  " in line)[55:].split()
    assert [name.strip("()") for name in first] == written[:10]


@pytest.mark.usefixtures("two_networks")
def test_a_file_is_split_and_scored_as_published(tmp_path, capsys, monkeypatch):
    """Rows of the 2017 table stand in for the classic file; both have a bigram loss of 2.454."""
    monkeypatch.setattr(benchmark, "CLASSIC", (32_469, 29_910))
    file = tmp_path / "names.txt"
    file.write_text("\n".join(name.lower() for name in names(distinct=False)))
    assert benchmark.main(["--names", str(file), "--steps", "1"]) == 0
    text = capsys.readouterr().out
    assert "scored on all of them: 2.454 (published: 2.454)" in text
    assert re.search(r"^published +3 letters, 10 × 200 +11,897 +2.103$", text, re.MULTILINE)
    assert re.search(r"^published +8 letters, WaveNet, 24 × 128 +76,579 +1.769 +1.993$", text, re.MULTILINE)
    order = re.search(r"^3 letters, from best to worst: (.*)$", text, re.MULTILINE)[1]
    losses = [float(loss) for loss in re.findall(r": ([\d.]+)", order)]
    assert losses == sorted(losses) and len(losses) == 5 and "; published, 3 letters, 10 × 200: 2.103; published" in order
    [figures] = re.findall(
        r"line, ([\d.]+)% .* has ([\d.]+) on them, and ([\d.]+) once .* validation ([\d.]+) and ([\d.]+)", text
    )
    share, known, unknown, before, after = map(float, figures)
    assert 10 < share < 20 and known < unknown - 0.2 and before < after
    assert after - before == pytest.approx(share / 100 * (unknown - known), abs=0.02)  # nothing else has changed much


def test_the_published_split_is_that_of_the_global_random_numbers():
    words = [str(i) for i in range(100)]
    shuffled = words.copy()
    random.seed(42)
    random.shuffle(shuffled)
    assert benchmark.published_split(words) == (shuffled[:80], shuffled[80:90], shuffled[90:])


def test_names_without_doubles_have_no_leak():
    assert benchmark.leak([chr(97 + i) + chr(97 + j) for i in range(26) for j in range(26)]).endswith(
        "no names of the validation part are also in train"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "--steps is 0; 1 to 1,000,000"),
        (["--steps", "100000000000"], "--steps is 100000000000"),
        (["--seed", "99999999999999999999999"], "--seed is 99999999999999999999999"),
        (["--names", "nowhere.txt"], "cannot read nowhere.txt"),
    ],
)
def test_wrong_use_ends_with_one_sentence(argv, message, capsys):
    assert benchmark.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_file_with_too_few_names_is_refused(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("emma\n" * 1000 + "mia\n")
    assert benchmark.main(["--names", str(tmp_path / "names.txt")]) == 2
    assert "names.txt holds 2 distinct names; at least 10 are expected" in capsys.readouterr().err


@pytest.mark.usefixtures("two_networks")
def test_a_file_that_is_not_the_classic_one_stands_beside_no_published_figures(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("emma\n" * 1000 + "\n".join("abcdefghijk"))
    assert benchmark.main(["--names", str(tmp_path / "names.txt"), "--steps", "1"]) == 0
    assert "published" not in capsys.readouterr().out


def test_the_rows_are_scored_on_train_and_validation(monkeypatch):
    """The ladder's figures, computed again from the model that it trained and by n-grams of its own split."""
    models, made = import_module("02_makemore.models"), []

    def make(generator):
        made.append(models.Perceptron(2, 3, 5, generator, 0.4, batch_norm=True))
        return made[-1]

    monkeypatch.setattr(benchmark, "NETWORKS", [benchmark.Network("perceptron", "small", make, 0.5)])
    parts = benchmark.split(name.lower() for name in names()[:500])
    *_, row = benchmark.ladder(parts, benchmark.BenchmarkConfig(steps=5))
    [model] = made
    assert (row.kind, row.name, row.letters, row.parameters) == ("perceptron", "small", 2, 27 * 3 + 6 * 5 + 10 + 6 * 27)
    model.eval()
    for part, loss in zip(parts, (row.train, row.val), strict=False):
        assert loss == pytest.approx(model.loss(*benchmark.examples(part, 2)).item(), rel=1e-5)
    assert row.written == model.sample(40, generator=torch.Generator().manual_seed(1337))

    counted = benchmark.counted(parts[0], parts[1], 2)
    learned, held_out = (
        torch.cat([x, y[:, None]], dim=1).numpy() for x, y in (benchmark.examples(part, 2) for part in parts[:2])
    )
    assert counted.train == pytest.approx(-np.log(witten_bell(learned, learned, 27)).mean())
    assert counted.val == pytest.approx(-np.log(witten_bell(learned, held_out, 27)).mean())
    padded = [".." + name + "." for name in parts[0]]
    grams = {text[i - n : i + 1] for text in padded for i in range(2, len(text)) for n in range(3)}
    assert counted.parameters == len(grams)


def test_a_network_is_trained_by_its_part_of_the_finders_rate(monkeypatch):
    """The weights after five steps, by AdamW from half the rate that the finder suggests, down on a straight line."""
    models, training = import_module("02_makemore.models"), import_module("02_makemore.training")
    monkeypatch.setattr(benchmark, "find_learning_rate", lambda *_: SimpleNamespace(suggestion=0.02))
    parts = benchmark.split(name.lower() for name in names()[:500])
    weights = []
    for by_benchmark in (True, False):
        generator = torch.Generator().manual_seed(3)
        model = models.Perceptron(2, 3, 5, generator)
        if by_benchmark:
            benchmark.trained(benchmark.Network("", "", type(model), 0.5), model, generator, parts, 5)
        else:
            optimizer = torch.optim.AdamW(model.parameters())
            step = training.training_step(model, optimizer, *benchmark.examples(parts[0], 2), 32, generator)
            for lr in (0.01, 0.008, 0.006, 0.004, 0.002):
                step(lr)
        weights.append(model.parameters())
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
