"""The benchmark command prints its tables, here on short texts and small models; tests assert no times."""

import math
import re
import struct
import subprocess
import sys
from importlib import import_module

import pytest
import regex
import torch

from shared.corpora import tinyshakespeare
from shared.ngrams import bits_per_byte

benchmark = import_module("04_gpt2.benchmark")
bpe = import_module("04_gpt2.bpe")
config = import_module("04_gpt2.config")
data = import_module("04_gpt2.benchmark_data")
measure = import_module("04_gpt2.measure")
race = import_module("04_gpt2.benchmark_race")
tokens = import_module("04_gpt2.benchmark_tokens")
verify = import_module("04_gpt2.verify")


def test_the_tokenizer_benchmark_prints_its_tables(monkeypatch, capsys):
    for name in ("shakespeare", "tinyshakespeare"):
        monkeypatch.setattr(tokens, name, lambda: "to be or not to be, that is the question\n" * 50)
    monkeypatch.setattr(tokens, "LARGE_TEXT", 300_000)
    monkeypatch.setattr(tokens, "LARGE_VOCABULARY", 400)
    assert benchmark.main(["tokenizer", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^ +([\d,]+) +\d+\.\d+ +\d+\.\d+ +(\d+\.\d+)$", out, re.MULTILINE)
    assert [size for size, _ in rows] == ["1,024", "4,096"]
    assert re.search(r"1,024 tokens from 2,050 characters: the naive loop \d+ s .*, ours \d+\.\d\d s, \d+ times faster", out)
    large = re.findall(r"^ +(ours|tokenizers) +\d+\.\d +\d+ +144 +([\d,]+)$", out, re.MULTILINE)
    assert [name for name, _ in large] == ["ours", "tokenizers"] and large[0][1] == large[1][1]
    assert re.search(r"by hand \d+\.\d\d s, ours through tiktoken \d+\.\d\d s, tiktoken \d+\.\d\d s", out)


def test_the_naive_loop_learns_the_same_merges():
    text = tinyshakespeare()[:30_000]
    ours = tokens.ours([text], 600)
    assert tokens.naive_merges(text, 600 - 256) == ours.merges
    assert tokens.merged([1, 1, 1, 2, 1, 1], (1, 1), 9) == [9, 1, 2, 9]


def test_the_large_text_is_read_up_to_its_size():
    texts = list(tokens.installed_texts(500_000))
    assert 400_000 < sum(len(text.encode()) for text in texts) <= 501_000
    assert tokens.count_chunks(500_000) == len({chunk for text in texts for chunk in regex.findall(bpe.GPT2_PATTERN, text)})


def fill(n):
    return len(bytearray(n))


@pytest.mark.skipif(not measure.PROCESS.exists(), reason="only Linux tells a process's peak memory so simply")
def test_a_function_alone_is_charged_for_its_memory():
    assert measure.alone(fill, 300_000_000).result == 300_000_000
    assert 290 < measure.alone(fill, 300_000_000).megabytes < 330


def test_the_loading_benchmark_prints_both_loaders_memory(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(benchmark, "alone", lambda *call: asked.append(call[0]) or measure.Cost(1.0, 600.0, 0))
    assert benchmark.main(["loading", "--size", "gpt2"]) == 0
    assert asked == [verify.fresh, benchmark.load_ours, benchmark.load_theirs]
    assert re.findall(r"^ +(ours|transformers) +1\.21$", capsys.readouterr().out, re.MULTILINE) == ["ours", "transformers"]


def test_both_loaders_load_all(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2))
    model.save_pretrained(tmp_path)
    total = sum(parameter.sum().item() for parameter in model.parameters())
    assert benchmark.load_ours(tmp_path) == pytest.approx(total, rel=1e-4)
    assert benchmark.load_theirs(tmp_path) == pytest.approx(total, rel=1e-4)


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
    monkeypatch.setattr(race, "PEER_STEPS", 4)
    monkeypatch.setattr(race, "OUR_STEPS", (10, 32))
    monkeypatch.setitem(race.PRESETS, "shakespeare", config.PRESETS["debug"])
    assert benchmark.main(["race", "--repeats", "2", "--data", str(tmp_path / "text.txt")]) == 0
    out = capsys.readouterr().out
    assert out.count(" bits per byte after ") == 6
    table = dict(re.findall(r"^(\w.+?) +\d+\.\d +(\d\.\d{3})$", out, re.MULTILINE))
    cut = len(text) * 9 // 10
    assert table["counting 5-grams"] == f"{bits_per_byte(text[:cut].encode(), text[cut:].encode()):.3f}"
    ours = [f"04_gpt2.train --steps {steps}" for steps in (10, 32)]
    assert list(table) == ["counting 5-grams", "character GPT, 4 steps", *ours]
    assert table[ours[0]] > table[ours[1]]


def test_the_character_gpt_learns(monkeypatch):
    text = bytes(97 + n * n % 5 for n in range(999))
    bits = []
    for steps in (1, 60):
        monkeypatch.setattr(race, "PEER_STEPS", steps)
        bits.append(race.character_gpt(text, text[:100], seed=1)[1])
    assert bits[1] < bits[0] / 2


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 150])
def test_the_character_gpt_is_scored_on_every_character_once(n):
    net = race.CharacterGPT(7)
    torch.nn.init.zeros_(net.wte.weight)  # all characters are alike to it
    assert race.bits_per_character(net, torch.randint(7, (n + 1,)), 64) == pytest.approx(math.log2(7))


def test_the_character_gpt_sees_nothing_of_the_future():
    torch.manual_seed(0)
    net, idx = race.CharacterGPT(7), torch.randint(7, (1, 20))
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


@pytest.fixture
def in_this_process(monkeypatch):
    """What `alone` would call in a process of its own is called here, so that it sees smaller numbers."""
    monkeypatch.setattr(data, "alone", lambda function, *arguments: measure.Cost(0, 0, function(*arguments)))


def test_the_benchmark_of_preparing_counts_the_same_tokens_on_both_sides(monkeypatch, capsys, in_this_process):
    monkeypatch.setattr(data, "TEXT", 300_000)
    counted = []
    monkeypatch.setattr(data, "_measured", lambda run: data.Run(counted.append(run()) or 2.0, 3.0, 500.0))
    assert benchmark.main(["data", "--repeats", "1"]) == 0
    assert len(counted) == 2 and counted[0] == counted[1] > 50_000
    ours, peer, ratio, memory = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert ours[0] == "04_gpt2.data," and peer[0] == "tiktoken," and ours[-2:] == peer[-2:] == ["2", "3"]
    assert ratio == ["ratio", "1.00", "1.00"] and memory[-2:] == ["500", "MB"]


def test_what_is_measured_of_a_run_is_its_tokens_over_its_time():
    fill = "content = bytearray(100_000_000); import time; time.sleep(1)"
    run = data._measured(lambda: subprocess.run([sys.executable, "-c", fill], check=True) and 1000)
    assert 0 < run.rate < 1000 and 0 < run.cpu_rate < 1e6 and 100 < run.megabytes < 200


def test_the_benchmark_of_batches_reads_an_epoch_with_each_loader(monkeypatch, capsys, in_this_process):
    monkeypatch.setattr(data, "SHARD", 60_000)
    monkeypatch.setattr(data, "B", 4)
    monkeypatch.setattr(data, "T", 64)
    assert benchmark.main(["loader", "--repeats", "1"]) == 0
    row = r"^(windows of all shards|shard after shard|the classic loader) +[\d,]+ +[\d,]+ +\d+\.\d +-?(\d+|nan)$"
    assert len(re.findall(row, capsys.readouterr().out, re.MULTILINE)) == 3


def test_the_classic_loader_reads_each_shard_in_order_and_then_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "B", 2)
    monkeypatch.setattr(data, "T", 3)
    for i in range(2):
        tokens_of = range(100 * i, 100 * i + 14)
        (tmp_path / f"{i}.bin").write_bytes(
            struct.pack("<256i", 20240520, 1, 14, *[0] * 253) + struct.pack("<14H", *tokens_of)
        )
    loader = data.ClassicLoader(sorted(tmp_path.iterdir()))
    for first in (0, 6, 100, 106, 0):
        x, y = next(loader)
        assert x.flatten().tolist() == list(range(first, first + 6)) and torch.equal(y, x + 1)
