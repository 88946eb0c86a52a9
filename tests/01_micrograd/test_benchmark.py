"""The benchmark prints its table; tests assert no times. The engine stands in for the peer, which need not be installed."""

import re
import sys
import types
from importlib import import_module

import pytest

benchmark = import_module("01_micrograd.benchmark")
engine = import_module("01_micrograd.engine")
nn = import_module("01_micrograd.nn")


def test_the_benchmark_prints_a_row_for_each_engine(monkeypatch, capsys):
    peer = types.ModuleType("micrograd.engine")
    peer.Value = engine.Value
    monkeypatch.setitem(sys.modules, "micrograd", types.ModuleType("micrograd"))
    monkeypatch.setitem(sys.modules, "micrograd.engine", peer)
    assert benchmark.main(["--points", "3", "--repeats", "1"]) == 0
    rows = re.findall(
        r"^(\S.*?)  +\d+\.\d{3} s +\d+\.\d× +\d+\.\d{3} s +\d+\.\d× +([\d,]+) ", capsys.readouterr().out, re.MULTILINE
    )
    assert [name for name, _ in rows] == ["micrograd", "ours", "ours, a sum as one node"]
    nodes = [int(n.replace(",", "")) for _, n in rows]
    assert nodes[0] == nodes[1] > 3 * nodes[2]


def test_both_ways_to_add_up_train_alike():
    points = benchmark.two_moons(20)
    plain, as_one_node = (benchmark.training_step(engine.Value, way, points) for way in (nn.plain_sum, engine.dot))
    losses = [(plain().data, as_one_node().data) for _ in range(5)]
    assert [a for a, _ in losses] == pytest.approx([b for _, b in losses])
    assert losses[-1][0] < losses[0][0]


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "micrograd", None)
    assert benchmark.main([]) == 2
    assert capsys.readouterr().err == 'error: the peer micrograd is not installed; pip install -e ".[bench]" brings it\n'
