"""How fast the engine is, beside the PyPI package micrograd in the same run; and what one node for a whole sum brings.

Run it: python -m 01_micrograd.benchmark (the peer comes with pip install -e ".[bench]")
"""

import gc
import math
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Annotated, Any

from shared.cli import UsageError, command, parse

from .engine import Value, dot
from .nn import plain_sum

SIZES = [2, 16, 16, 1]
Step = Callable[[], Any]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What `python -m 01_micrograd.benchmark` does."""

    points: Annotated[int, "points of the two moons in one training step"] = 100
    repeats: Annotated[int, "measurements of each competitor, taken in turn"] = 7

    def __post_init__(self):
        for name in ("points", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is expected")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    config = parse(
        BenchmarkConfig(),
        argv,
        prog="python -m 01_micrograd.benchmark",
        description="Time one training step of a 2-16-16-1 network, beside the package micrograd.",
        examples=["python -m 01_micrograd.benchmark", "python -m 01_micrograd.benchmark --repeats 3"],
    )
    try:
        from micrograd.engine import Value as PeerValue
    except ImportError:
        raise UsageError('the peer micrograd is not installed; pip install -e ".[bench]" brings it') from None
    points = two_moons(config.points)
    steps = {
        "micrograd": training_step(PeerValue, plain_sum, points),
        "ours": training_step(Value, plain_sum, points),
        "ours, a sum as one node": training_step(Value, dot, points),
    }
    with_collector = in_turn(steps, config.repeats)
    gc.disable()
    try:
        without_collector = in_turn(steps, config.repeats)
    finally:
        gc.enable()
    print(f"one step on {config.points} points: median CPU seconds of {config.repeats} in turn, on one thread")
    print(f"{'':26}{'collector on':>14}{'ratio':>8}{'off':>10}{'ratio':>8}{'nodes':>10}{'nodes/s':>12}{'bytes/node':>12}")
    for name, step in steps.items():
        on, off = with_collector[name], without_collector[name]
        ratios = with_collector["micrograd"] / on, without_collector["micrograd"] / off
        nodes, n_bytes = size_of_graph(step)
        print(
            f"{name:26}{on:>12.3f} s{ratios[0]:>7.1f}×{off:>8.3f} s{ratios[1]:>7.1f}×{nodes:>10,}{nodes / on:>12,.0f}"
            f"{n_bytes / nodes:>12.0f}"
        )
    return 0


def two_moons(n: int, seed: int = 1337) -> list[tuple[list[Any], int]]:
    """Points on two interleaved half circles, with noise, and the half's name, -1 or 1."""
    rng = random.Random(seed)
    points = []
    for i in range(n):
        angle, label = math.pi * rng.random(), 1 if i % 2 else -1
        x, y = (math.cos(angle), math.sin(angle)) if i % 2 else (1 - math.cos(angle), 0.5 - math.sin(angle))
        points.append(([x + rng.gauss(0, 0.1), y + rng.gauss(0, 0.1)], label))
    return points


def training_step(make: Any, weighted_sum: Any, points: list[tuple[list[Any], int]]) -> Step:
    """One forward and backward pass and update of the network, built from `make`, with hinge loss; returns the loss.

    Both engines run this same code, but for the class of the numbers.
    """
    rng = random.Random(1337)
    layers = [
        [([make(rng.uniform(-1, 1)) for _ in range(n_in)], make(0.0)) for _ in range(n_out)] for n_in, n_out in pairwise(SIZES)
    ]
    parameters = [p for layer in layers for weights, bias in layer for p in (*weights, bias)]

    def step() -> Any:
        loss = make(0.0)
        for point, label in points:
            values = [make(x) for x in point]
            for i, layer in enumerate(layers):
                sums = [weighted_sum(weights, values, bias) for weights, bias in layer]
                values = sums if i == len(layers) - 1 else [s.relu() for s in sums]
            [score] = values
            loss = loss + (score * -label + 1.0).relu()
        for p in parameters:
            p.grad = 0.0
        loss.backward()
        for p in parameters:
            p.data -= 0.01 / len(points) * p.grad
        return loss

    return step


def size_of_graph(step: Step) -> tuple[int, int]:
    """Nodes of the graph that a step leaves behind, parameters among them, and the bytes that they take."""
    gc.collect()
    tracemalloc.start()
    loss = step()
    gc.collect()
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    graph, to_visit = {loss}, [loss]
    while to_visit:
        value = to_visit.pop()
        for parent in value.parents if isinstance(value, Value) else value._prev:
            if parent not in graph:
                graph.add(parent)
                to_visit.append(parent)
    return len(graph), n_bytes


def in_turn(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, one after the other, `repeats` times.

    A step is timed right after another one of the same kind, as in training: what that one left is for this one to collect.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            gc.collect()
            step()
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    return {name: median(measured) for name, measured in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
