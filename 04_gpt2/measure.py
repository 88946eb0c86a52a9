"""How the benchmarks measure: CPU seconds of competitors that take turns, or each alone in a process, with its memory;
and the large text that several of them read.
"""

import math
import multiprocessing
import os
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

PROCESS = Path("/proc/self")


def in_turn(competitors: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each competitor; they run one after the other, `repeats` times."""
    seconds: list[list[float]] = [[] for _ in competitors]
    for _ in range(repeats):
        for competitor, measured in zip(competitors, seconds, strict=True):
            started = time.process_time()
            competitor()
            measured.append(time.process_time() - started)
    return [median(measured) for measured in seconds]


class Cost(NamedTuple):
    """What a function has taken in a process of its own."""

    seconds: float  # of the CPU
    megabytes: float  # the most memory in use, less what was in use before; Linux tells it, elsewhere it is nan
    result: Any


def alone(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Call a module's function in a new process, so that nothing from before or beside it counts."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # whose processes may have their own
        return Cost(*pool.submit(_measured, function, arguments).result())


def n_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed_texts(n_bytes: int) -> Iterator[str]:
    """The .py, .md and .txt files of the environment's packages, one after the other, up to `n_bytes` in all."""
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*")):
        if path.suffix in (".py", ".md", ".txt") and path.is_file():
            content = path.read_bytes()
            n_bytes -= len(content)
            if n_bytes < 0:
                return
            yield content.decode("utf-8", errors="replace")


def restart_peak() -> None:
    """Let the process's peak memory begin anew, where Linux tells it."""
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")


def _measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float, Any]:
    restart_peak()
    before, started = megabytes("VmRSS"), time.process_time()
    result = function(*arguments)
    return time.process_time() - started, megabytes("VmHWM") - before, result


def megabytes(what: str) -> float:
    """Memory of this process: VmRSS, in use now; VmHWM, the peak; RssAnon, beside the files' own. Linux alone tells it."""
    if not PROCESS.exists():
        return math.nan
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024 / 1e6
