"""The ladder's table: the figures that counting must reach, and networks that learn; tests assert no times."""

import random
import re
from importlib import import_module

import pytest

from shared.corpora import names

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
    assert [kind for kind, _ in rows] == ["counting"] * 5 + ["linear"] + ["perceptron"] * 4
    assert rows["perceptron", "3 letters, 10 × 200"][0] == 11_897 and rows["linear", "1 letter, one layer"][0] == 729
    counted = [rows["counting", f"{k} letter{'s' * (k > 1)}"] for k in range(1, 6)]
    assert min(counted, key=lambda row: row[2]) == counted[3]
    assert "published" not in text and "with 3 letters, from best to worst: counting" in text
    for (kind, _), (_, train, val) in rows.items():
        assert 1.4 < train < val < 2.6 or (kind != "counting" and 1.9 < val < 3.0)


def test_a_file_is_split_and_scored_as_published(tmp_path, capsys):
    """Rows of the 2017 table stand in for the classic file; both have a bigram loss of 2.454."""
    file = tmp_path / "names.txt"
    file.write_text("\n".join(name.lower() for name in names(distinct=False)))
    assert benchmark.main(["--names", str(file), "--steps", "1"]) == 0
    text = capsys.readouterr().out
    assert "scored on the whole file: 2.454 (published: 2.454)" in text
    assert re.search(r"^published +3 letters, 10 × 200 +11,897 +2.103$", text, re.MULTILINE)
    assert re.search(r"^with 3 letters, from best to worst: counting 2\.\d+, published 2\.103, perceptron", text, re.MULTILINE)
    share, together, seen, unseen = map(
        float, re.findall(r"([\d.]+)% .* then has ([\d.]+), ([\d.]+) .* and ([\d.]+) on", text)[0]
    )
    assert 10 < share < 20 and seen < together < unseen
    assert together == pytest.approx(share / 100 * seen + (1 - share / 100) * unseen, abs=0.03)


def test_the_published_split_is_that_of_the_global_random_numbers():
    words = [str(i) for i in range(100)]
    shuffled = words.copy()
    random.seed(42)
    random.shuffle(shuffled)
    assert benchmark.published_split(words) == (shuffled[:80], shuffled[80:90], shuffled[90:])


def test_names_without_doubles_have_no_leak():
    assert benchmark.leak([chr(97 + i) + chr(97 + j) for i in range(26) for j in range(26)]).startswith("no name")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "--steps is 0; at least 1"),
        (["--names", "nowhere.txt"], "cannot read nowhere.txt"),
    ],
)
def test_wrong_use_ends_with_one_sentence(argv, message, capsys):
    assert benchmark.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
