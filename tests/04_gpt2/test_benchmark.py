"""The benchmark command prints its table, here on a short text; tests assert no times."""

import re
from importlib import import_module

benchmark = import_module("04_gpt2.benchmark")


def test_the_tokenizer_benchmark_prints_a_ratio_for_each_size(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "shakespeare", lambda: "to be or not to be, that is the question\n" * 50)
    assert benchmark.main(["tokenizer", "--repeats", "1"]) == 0
    rows = re.findall(r"^ +([\d,]+) +\d+\.\d+ +\d+\.\d+ +(\d+\.\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert [size for size, _ in rows] == ["1,024", "4,096"]


def test_what_to_measure_must_be_said(capsys):
    assert benchmark.main([]) == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: what;")
