"""The benchmarks of a training step print and write what they say, here on small models; tests assert no times."""

import json
import re
from dataclasses import replace
from importlib import import_module

import pytest
import torch

benchmark = import_module("04_gpt2.benchmark")
config = import_module("04_gpt2.config")
ladder = import_module("04_gpt2.benchmark_ladder")
measure = import_module("04_gpt2.measure")
model = import_module("04_gpt2.model")
optimizers = import_module("04_gpt2.benchmark_optimizers")
scaling = import_module("04_gpt2.benchmark_scaling")
step = import_module("04_gpt2.benchmark_step")

CPU = torch.device("cpu")
TINY = config.GPTConfig(block_size=16, vocab_size=50_257, n_layer=1, n_head=2, n_embd=8)
POSSIBLE = [  # on any CPU
    "float32",
    "attention without the T x T table",
    "vocabulary 50,257 -> 50,304",
    "fused AdamW",
    "loss in chunks",
]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "SMALL", TINY)
    monkeypatch.setattr(ladder, "matmul_ceiling", lambda device: 1e12)
    monkeypatch.setattr(ladder, "choose_dtype", lambda name, device: torch.float32)  # as on a CPU without AMX


def test_the_ladder_prints_a_row_for_each_rung_and_leaves_lines_and_a_chart(tmp_path, small, capsys):
    folder = tmp_path / "new" / "ladder"
    flags = ["ladder", "--device", "cpu", "--repeats", "3", "--rows", "2", "--to", str(folder)]
    assert benchmark.main(flags) == 0
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "ladder.jsonl").read_text().splitlines()]
    assert [line["rung"] for line in lines] == [name for name, _ in ladder.CHANGES]
    assert [line["rung"] for line in lines if not line["why_not"]] == POSSIBLE
    for line in lines:
        assert line["torch"] == torch.__version__ and line["device"].startswith("cpu (") and line["date"]
        row = next(row for row in out.splitlines() if row.startswith(line["rung"]) and "set up" not in row)
        if line["why_not"]:
            assert row.endswith("left out: " + line["why_not"]) and line["seconds"] == []
            continue
        assert len(line["seconds"]) == 3
        middle = sorted(line["seconds"])[1]
        assert line["tokens_per_second"] == pytest.approx(2 * 16 / middle)
        assert line["share_of_ceiling"] == pytest.approx(TINY.flops_per_token * 2 * 16 / middle / 1e12)
        assert f"{middle * 1000:.4g}" in row and f"{line['tokens_per_second']:,.0f}" in row
    assert lines[0]["times_the_first"] == lines[0]["times_the_rung_before"] == 1
    assert (folder / "ladder.png").read_bytes().startswith(b"\x89PNG")
    before = (folder / "ladder.jsonl").read_bytes()
    assert benchmark.main(flags) == 2
    assert "ladder.jsonl is there already; name another folder by --to" in capsys.readouterr().err
    assert (folder / "ladder.jsonl").read_bytes() == before


def test_a_rung_that_fails_is_a_row_that_says_why_and_the_others_go_on(monkeypatch, small):
    def fail(*_):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", fail)
    table = ladder.ladder(CPU, TINY, 2, 1, compile_too=True, say=lambda text: None)
    assert [row.why_not for row in table if row.rung == "torch.compile"] == ["no C++ compiler"]
    assert [row.rung for row in table if row.seconds] == POSSIBLE


def test_compiling_is_a_rung_where_asked(monkeypatch, small):
    compiled, compile_with_torch = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda net: compiled.append(net) or compile_with_torch(net, backend="eager"))
    table = ladder.ladder(CPU, TINY, 2, 1, compile_too=True, say=lambda text: None)
    assert [row.rung for row in table if row.seconds] == [POSSIBLE[0], "torch.compile", *POSSIBLE[1:]]
    kinds = [type(net).__name__ for net in compiled]
    assert kinds == ["WithAllLogits"] * 4 + ["GPT"]


def test_every_rung_trains_the_same_model(small):
    """Up to rounding: weights after three steps on the same batches."""
    reached = []
    for change in ({}, {"fused_attention": True}, {"fused_adamw": True}, {"chunked_loss": True}, {"asynchronous": True}):
        trained = ladder.Step(ladder.Rung(**change), TINY, 2, CPU)
        trained.run(1)
        reached.append([parameter.detach() for parameter in trained.model.parameters()])
    for others in reached[1:]:
        for a, b in zip(reached[0], others, strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_optimizers_are_compared_at_equal_time_and_leave_their_curves(tmp_path, monkeypatch, capsys):
    text = "".join(f"{n} times {n} is {n * n}.\n" for n in range(3000))
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.setattr(optimizers, "BUDGET", 0.5)
    monkeypatch.setattr(optimizers, "TRIAL_STEPS", 6)
    monkeypatch.setitem(optimizers.PRESETS, "shakespeare", config.PRESETS["debug"])
    monkeypatch.setitem(optimizers.RULES["AdamW"], "warmup_steps", 5)
    folder = tmp_path / "to"
    flags = ["optimizers", "--repeats", "2", "--data", str(tmp_path / "text.txt"), "--to", str(folder)]
    assert benchmark.main(flags) == 0
    out = capsys.readouterr().out
    curves = [json.loads(line) for line in (folder / "optimizers.jsonl").read_text().splitlines()]
    assert [(each["rule"], each["seed"]) for each in curves] == [(name, seed) for name in optimizers.RULES for seed in (1, 2)]
    for name in optimizers.RULES:
        ends = [each["curve"][-1][1] for each in curves if each["rule"] == name]
        assert re.search(
            rf"^{name} +\d+ +\d+\.\d +{sum(ends) / 2:.3f} +{min(ends):.3f} to {max(ends):.3f}$", out, re.MULTILINE
        )
        assert ends[0] != ends[1] and max(ends) < min(each["curve"][0][1] for each in curves)
    assert (folder / "optimizers.png").read_bytes().startswith(b"\x89PNG")
    assert benchmark.main(flags) == 2
    assert "optimizers.jsonl is there already; name another folder by --to" in capsys.readouterr().err


def test_a_signal_ends_a_race_and_not_only_the_run_that_it_meets(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("04_gpt2.benchmark_race").train, "start", lambda run, reason: 143)
    with pytest.raises(SystemExit, match="143"):
        optimizers.run(config.PRESETS["debug"])


def test_the_ceiling_is_that_of_a_matrix_product():
    assert 1e8 < ladder.matmul_ceiling(CPU) < 1e14


def test_the_head_and_a_whole_step_are_measured_beside_their_peers(monkeypatch, capsys):
    monkeypatch.setattr(step, "SHAPE", config.GPTConfig(block_size=16, vocab_size=97, n_layer=1, n_head=2, n_embd=8))
    monkeypatch.setattr(step, "alone", lambda call, which: measure.Cost(1, 1.0, step.Try(call(which).seconds + 1, 50.0)))
    for what, names in (("head", ["chunk by chunk", "all logits in one piece"]), ("step", ["ours", "transformers"])):
        assert benchmark.main([what, "--repeats", "2"]) == 0
        rows = re.findall(r"^(\S.*?) {2,}(\d\.\d+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
        assert [name for name, _, _ in rows] == [*names, "ratio"] and rows[0][2] == "50" and rows[2][2] == "1.00"


def test_attentions_memory_is_printed_for_each_length(monkeypatch, capsys):
    monkeypatch.setattr(step, "LENGTHS", (8, 16))
    monkeypatch.setattr(step, "alone", lambda call, kind, T: call(kind, T) or measure.Cost(1, T * len(kind), None))
    assert benchmark.main(["attention", "--repeats", "1"]) == 0
    assert re.findall(r"^ +(\d+)( +\d+){3}$", capsys.readouterr().out, re.MULTILINE)[1][0] == "16"


def test_scaling_measures_each_number_of_processes_with_and_without_exchange(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "SMALL", replace(TINY, vocab_size=61))
    monkeypatch.setattr(scaling, "n_cores", lambda: 2)
    assert benchmark.main(["scaling", "--device", "cpu", "--repeats", "1"]) == 0
    rows = re.findall(r"^ +(\d)( +[\d,]+ +\d+\.\d\d){2} +-?\d+%$", capsys.readouterr().out, re.MULTILINE)
    assert [n for n, _ in rows] == ["1", "2"]
