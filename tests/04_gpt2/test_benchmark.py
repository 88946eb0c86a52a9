"""The benchmark command prints its tables, here on short texts and small models; tests assert no times."""

import math
import re
import sys
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from shared.ngrams import bits_per_byte

benchmark = import_module("04_gpt2.benchmark")
config = import_module("04_gpt2.config")


def test_the_tokenizer_benchmark_prints_a_ratio_for_each_size(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "shakespeare", lambda: "to be or not to be, that is the question\n" * 50)
    assert benchmark.main(["tokenizer", "--repeats", "1"]) == 0
    rows = re.findall(r"^ +([\d,]+) +\d+\.\d+ +\d+\.\d+ +(\d+\.\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert [size for size, _ in rows] == ["1,024", "4,096"]


def test_the_generation_benchmark_prints_two_ratios_for_each_prompt(monkeypatch, capsys):
    import transformers

    small = {"n_layer": 1, "n_head": 2, "n_embd": 8}
    peer = transformers.GPT2Config
    monkeypatch.setattr(transformers, "GPT2Config", lambda: peer(**small))
    monkeypatch.setattr(benchmark, "GPTConfig", lambda: config.GPTConfig(**small))
    monkeypatch.setattr(benchmark, "NEW_TOKENS", 3)
    assert benchmark.main(["generate", "--repeats", "1"]) == 0
    rows = re.findall(r"^ +(\d+)(?: +\d+\.\d+){5}$", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["16", "64", "256"]


def test_the_race_prints_what_each_competitor_reached(monkeypatch, tmp_path, capsys):
    text = "".join(f"{n} times {n} is {n * n}.\n" for n in range(3000))
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.setattr(benchmark, "PEER_STEPS", 4)
    monkeypatch.setitem(benchmark.PRESETS, "shakespeare", replace(config.PRESETS["debug"], steps=32))
    assert benchmark.main(["race", "--repeats", "2", "--data", str(tmp_path / "text.txt")]) == 0
    out = capsys.readouterr().out
    assert out.count(" bits per byte after ") == 4
    table = dict(re.findall(r"^(\w.+?) +(?:\d+\.\d|inf) +(\d\.\d{3})$", out, re.MULTILINE))
    cut = len(text) * 9 // 10
    assert table["counting 5-grams"] == f"{bits_per_byte(text[:cut].encode(), text[cut:].encode()):.3f}"
    assert set(table) == {
        "counting 5-grams",
        "character GPT, 4 steps",
        "04_gpt2.train, when it has passed the character GPT",
        "04_gpt2.train, when it has passed counting",
        "04_gpt2.train, at its end",
    }


def test_the_character_gpt_learns(monkeypatch):
    text = bytes(97 + n * n % 5 for n in range(999))
    bits = []
    for steps in (1, 60):
        monkeypatch.setattr(benchmark, "PEER_STEPS", steps)
        bits.append(benchmark.character_gpt(text, text[:100], seed=1)[1])
    assert bits[1] < bits[0] / 2


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 150])
def test_the_character_gpt_is_scored_on_every_character_once(n):
    net = benchmark.CharacterGPT(7)
    torch.nn.init.zeros_(net.wte.weight)  # all characters are alike to it
    assert benchmark.bits_per_character(net, torch.randint(7, (n + 1,)), 64) == pytest.approx(math.log2(7))


def test_the_character_gpt_sees_nothing_of_the_future():
    torch.manual_seed(0)
    net, idx = benchmark.CharacterGPT(7), torch.randint(7, (1, 20))
    changed = idx.clone()
    changed[0, 10:] = 6 - changed[0, 10:]
    losses = [net(x[:, :10], idx[:, 1:11]).item() for x in (idx, changed)]
    assert losses[0] == losses[1] and net(idx, changed).item() != net(changed, changed).item()


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert benchmark.main(["tokenizer"]) == 2
    assert capsys.readouterr().err == 'error: the peer tokenizers is not installed; pip install -e ".[bench]" brings it\n'


def test_what_to_measure_must_be_said(capsys):
    assert benchmark.main([]) == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: what;")
