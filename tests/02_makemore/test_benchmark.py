"""The ladder's table: the figures that counting must reach, and networks that learn; tests assert no times."""

import random
import re
from importlib import import_module

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


def table(text):
    """Kind and name -> parameters, train loss, validation loss."""
    rows = re.findall(r"^(counting|linear|perceptron) +(.+?) +([\d,]+) +([\d.]+) +([\d.]+) +[\d.]+", text, re.MULTILINE)
    return {(kind, name): (int(n.replace(",", "")), float(train), float(val)) for kind, name, n, train, val in rows}


def test_the_ladder_is_printed_by_kind(capsys):
    assert benchmark.main(["--steps", "30"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("32,469 names, 29,910 distinct")
    rows = table(text)
    assert [kind for kind, _ in rows] == ["counting"] * 7 + ["linear"] + ["perceptron"] * 4
    assert rows["perceptron", "3 letters, 10 × 200"][0] == 11_897 and rows["linear", "1 letter, one layer"][0] == 729
    counted = [rows["counting", f"{k} letter{'s' * (k > 1)}"] for k in range(1, 6)]
    assert min(counted, key=lambda row: row[2]) == counted[3]
    assert "published" not in text and "3 letters, from best to worst: counting, 3 letters, Kneser-Ney: " in text
    for (kind, _), (_, train, val) in rows.items():
        assert 1.4 < train < val < 2.6 if kind == "counting" else 1.9 < val < 3.0 and abs(train - val) < 0.1


def test_a_file_is_split_and_scored_as_published(tmp_path, capsys, monkeypatch):
    """Rows of the 2017 table stand in for the classic file; both have a bigram loss of 2.454."""
    monkeypatch.setattr(benchmark, "CLASSIC", (32_469, 29_910))
    file = tmp_path / "names.txt"
    file.write_text("\n".join(name.lower() for name in names(distinct=False)))
    assert benchmark.main(["--names", str(file), "--steps", "1"]) == 0
    text = capsys.readouterr().out
    assert "scored on all of them: 2.454 (published: 2.454)" in text
    assert re.search(r"^published +3 letters, 10 × 200 +11,897 +2.103$", text, re.MULTILINE)
    order = re.search(r"^3 letters, from best to worst: (.*)$", text, re.MULTILINE)[1]
    losses = [float(loss) for loss in re.findall(r": ([\d.]+)", order)]
    assert losses == sorted(losses) and len(losses) == 5 and "; published, 3 letters, 10 × 200: 2.103; perceptron" in order
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


def test_a_file_that_is_not_the_classic_one_stands_beside_no_published_figures(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("emma\n" * 1000 + "\n".join("abcdefghijk"))
    assert benchmark.main(["--names", str(tmp_path / "names.txt"), "--steps", "1"]) == 0
    assert "published" not in capsys.readouterr().out


def test_the_rows_are_scored_on_train_and_validation(monkeypatch):
    """The ladder's figures, computed again from the model that it trained and by n-grams of its own split."""
    models, made = import_module("02_makemore.models"), []
    monkeypatch.setattr(benchmark, "PERCEPTRONS", [(2, 3, 5, 0.4)])
    monkeypatch.setattr(benchmark, "Perceptron", lambda *shape: made.append(models.Perceptron(*shape)) or made[-1])
    parts = benchmark.split(name.lower() for name in names()[:500])
    *_, row = benchmark.ladder(parts, benchmark.BenchmarkConfig(steps=5))
    [model] = made
    assert model.layers.layers[-2].p == 0.4 and row.parameters == 27 * 3 + 7 * 5 + 6 * 27
    model.eval()
    for part, loss in zip(parts, (row.train, row.val), strict=False):
        assert loss == pytest.approx(model.loss(*benchmark.examples(part, 2)).item(), rel=1e-5)

    counted = benchmark.counted(parts[0], parts[1], 2)
    learned, held_out = (
        torch.cat([x, y[:, None]], dim=1).numpy() for x, y in (benchmark.examples(part, 2) for part in parts[:2])
    )
    assert counted.train == pytest.approx(-np.log(witten_bell(learned, learned, 27)).mean())
    assert counted.val == pytest.approx(-np.log(witten_bell(learned, held_out, 27)).mean())
    padded = [".." + name + "." for name in parts[0]]
    grams = {text[i - n : i + 1] for text in padded for i in range(2, len(text)) for n in range(3)}
    assert counted.parameters == len(grams)
