"""The speed ladder: one training step, and one change after the other, each with all those before it, on the reader's device.

A rung that a device cannot do is left out of those above it, and its row says why.
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_

from shared.devices import choose_dtype, describe
from shared.plotting import BLUE, Picture, new_figure, save_figure

from .config import GPTConfig
from .loader import Loader
from .measure import megabytes, restart_peak
from .model import GPT
from .optim import parameter_groups

LADDER_FILES = "ladder.jsonl", "ladder.png"
GPT2 = GPTConfig()
SMALL = GPTConfig(block_size=256, n_layer=4, n_head=4, n_embd=256)  # for devices on which GPT-2 would take minutes


@dataclass(frozen=True)
class Rung:
    """How a step is done."""

    tf32: bool = False
    bfloat16: bool = False
    compiled: bool = False
    fused_attention: bool = False
    vocab_size: int = 50_257
    fused_adamw: bool = False
    chunked_loss: bool = False
    asynchronous: bool = False


CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("float32", {}),
    ("TF32", {"tf32": True}),
    ("bfloat16 autocast", {"bfloat16": True}),
    ("torch.compile", {"compiled": True}),
    ("attention without the T x T table", {"fused_attention": True}),
    ("vocabulary 50,257 -> 50,304", {"vocab_size": 50_304}),
    ("fused AdamW", {"fused_adamw": True}),
    ("loss in chunks", {"chunked_loss": True}),
    ("no waiting for the device", {"asynchronous": True}),
)


@dataclass
class Row:
    """What was measured of a rung, or why it was not."""

    rung: str
    why_not: str = ""
    seconds: list[float] = field(default_factory=list)  # of a step, each time that it was measured
    warm_up_seconds: float = 0.0
    tokens_per_second: float = 0.0
    peak_mb: float = 0.0
    share_of_ceiling: float = 0.0  # of what matrix products of their own reach
    times_the_rung_before: float = 0.0
    times_the_first: float = 0.0


def cannot(change: dict[str, Any], device: torch.device, compile_too: bool) -> str:
    """Why this device cannot make a change; empty if it can."""
    if "tf32" in change and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        return "only NVIDIA GPUs from Ampere on have this format"
    if "bfloat16" in change and choose_dtype("auto", device) != torch.bfloat16:
        return "emulated here, many times slower"
    if "compiled" in change and not compile_too:
        return "compiling takes longer here than all the rest; --compile on measures it"
    if "asynchronous" in change and device.type != "cuda":
        return "the program itself computes here, and waits for nobody"
    return ""


def ladder(
    device: torch.device, shape: GPTConfig, rows: int, repeats: int, compile_too: bool, say: Callable[[str], None]
) -> list[Row]:
    """Measure each rung with `rows` rows of text in a step, `repeats` times in turn; what is under way is said to `say`."""
    n_tokens, steps_at_once = rows * shape.block_size, 10 if device.type == "cuda" else 1
    ceiling = matmul_ceiling(device)
    say(f"{describe(device)}; matrix products of their own reach {ceiling / 1e12:.3g} TFLOP/s")
    rung, table, steps = Rung(), [], {}
    for name, change in CHANGES:
        row = Row(name, why_not=cannot(change, device, compile_too))
        table.append(row)
        if row.why_not:
            continue
        try:
            step = Step(replace(rung, **change), shape, rows, device)
        except (RuntimeError, MemoryError) as error:  # as compilers and devices without enough memory say it
            row.why_not = str(error).partition("\n")[0]
            continue
        rung, steps[name] = step.rung, step
        row.warm_up_seconds, row.peak_mb = step.warm_up_seconds, step.peak_mb
        say(f"{name}: set up in {step.warm_up_seconds:.1f} s")
    for _ in range(repeats):
        for row in table:
            if row.rung in steps:
                row.seconds.append(steps[row.rung].run(steps_at_once))
    measured = [row for row in table if row.seconds]
    for before, row in zip([measured[0], *measured], measured, strict=False):
        row.tokens_per_second = n_tokens / median(row.seconds)
        row.share_of_ceiling = shape.flops_per_token * row.tokens_per_second / ceiling
        row.times_the_rung_before = median(a / b for a, b in zip(before.seconds, row.seconds, strict=True))
        row.times_the_first = median(a / b for a, b in zip(measured[0].seconds, row.seconds, strict=True))
    return table


class Step:
    """One training step as a rung has it, on random tokens: batch, forward, backward, clipping, update.

    warm_up_seconds     of the first step, in which compilers do their work
    peak_mb             of memory that a later one needs at most, model and optimizer included; nan where no system tells
    """

    def __init__(self, rung: Rung, shape: GPTConfig, rows: int, device: torch.device):
        self.rung, self.device = rung, device
        torch.manual_seed(0)
        with device:
            self.model = GPT(replace(shape, vocab_size=rung.vocab_size))
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.1), lr=1e-4, fused=rung.fused_adamw or None)
        tokens = np.random.default_rng(0).integers(50_257, size=100 * rows * shape.block_size, dtype=np.uint16)
        self.loader = Loader(tokens, rows, shape.block_size, 0, device=device, ahead=rung.asynchronous)
        forward = self.model if rung.chunked_loss else WithAllLogits(self.model)
        self.forward: Callable[[Tensor, Tensor], Tensor] = torch.compile(forward) if rung.compiled else forward
        self.warm_up_seconds = self.run(1)
        kept = [*self.model.parameters(), *(t for state in self.optimizer.state.values() for t in state.values())]
        self._restart_peak()
        at_rest = self._memory()
        self.run(1)
        self.peak_mb = sum(tensor.nbytes for tensor in kept) / 1e6 + self._memory(peak=True) - at_rest

    def run(self, n: int) -> float:
        """Seconds of a step, when `n` are done."""
        self._wait()
        started = time.perf_counter()
        with ExitStack() as settings:
            if not self.rung.fused_attention:
                settings.enter_context(sdpa_kernel(SDPBackend.MATH))  # the T x T table, written out
            if self.device.type == "cuda":
                torch.set_float32_matmul_precision("high" if self.rung.tf32 else "highest")
            for _ in range(n):
                x, y = next(self.loader)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.rung.bfloat16):
                    loss = self.forward(x, y)
                loss.backward()
                grad_norm = clip_grad_norm_(self.model.parameters(), 1.0)
                if not self.rung.asynchronous:
                    torch.stack([loss, grad_norm]).tolist()  # the program waits until both are known
                self.optimizer.step()
                self.optimizer.zero_grad()
        self._wait()
        return (time.perf_counter() - started) / n

    def _wait(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def _memory(self, peak: bool = False) -> float:
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e6
        return megabytes("VmHWM" if peak else "VmRSS") if self.device.type == "cpu" else float("nan")

    def _restart_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            restart_peak()


class WithAllLogits(nn.Module):
    """A GPT whose loss is taken from all logits in one piece."""

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats; x and y (B, T)"""
        return F.cross_entropy(self.gpt(x).flatten(0, 1), y.flatten())


def matmul_ceiling(device: torch.device) -> float:
    """Floating-point operations in a second that a product of large matrices reaches, in the device's fastest format."""
    dtype, n = choose_dtype("auto", device), 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * n**3 / fastest


def print_table(table: list[Row]) -> None:
    """The rungs from the first to the last."""
    print(f"{'':36}{'ms a step':>10}{'spread':>18}{'tokens/s':>12}{'most MB':>9}{'ceiling':>9}{'x before':>10}{'x first':>9}")
    for row in table:
        if row.why_not:
            print(f"{row.rung:36}  left out: {row.why_not}")
            continue
        ms = [1000 * seconds for seconds in row.seconds]
        spread = f"{min(ms):.4g} to {max(ms):.4g}"
        print(f"{row.rung:36}{median(ms):>10.4g}{spread:>18}{row.tokens_per_second:>12,.0f}{row.peak_mb:>9,.0f}", end="")
        print(f"{row.share_of_ceiling:>9.1%}{row.times_the_rung_before:>10.2f}{row.times_the_first:>9.2f}")


def draw(table: list[Row], title: str) -> Picture:
    """Tokens a second of each rung as a bar chart."""
    figure, axes = new_figure(title, "tokens a second", "", (9, 4.5))
    names = [row.rung + (" (left out)" if row.why_not else "") for row in table]
    bars = axes.barh(names, [row.tokens_per_second for row in table], color=BLUE)
    axes.margins(x=0.1)
    axes.bar_label(bars, [f"{row.times_the_first:.2f}×" if row.seconds else "" for row in table], padding=3)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure


def write(table: list[Row], device: torch.device, folder: Path) -> None:
    """ladder.jsonl, a line for each rung, and ladder.png."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"device": describe(device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    lines = [json.dumps(asdict(row) | about) + "\n" for row in table]
    (folder / LADDER_FILES[0]).write_text("".join(lines), encoding="utf-8")
    save_figure(draw(table, f"One change after the other, {describe(device)}"), folder / LADDER_FILES[1])
