"""Settings of all tests and of the kernels that run notebooks: one thread each, because two threads on two busy cores are
slower than one; no network. At the end of a run the notebooks' times are listed."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("MPLBACKEND", None)  # a kernel would take it, and its pictures would go nowhere
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script: the programs under test need Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections import Counter, defaultdict

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each notebook took, its kernel's start and end included, whichever worker ran it."""
    seconds: defaultdict[str, float] = defaultdict(float)
    cells: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (notebook := report.nodeid.partition("::")[0]).endswith(".ipynb"):
                seconds[notebook] += report.duration
                cells[notebook] += report.when == "call"
    if seconds:
        terminalreporter.write_sep("=", "notebooks")
    for notebook in sorted(seconds):
        terminalreporter.write_line(f"{seconds[notebook]:6.1f} s {cells[notebook]:4d} cells  {notebook}")
