"""Preparing token shards, beside tiktoken in as many processes; reading batches, beside the classic loader."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .loader import Loader
from .measure import alone, installed_texts, megabytes, n_cores
from .shards import HEADER, Manifest, Shards, header
from .tokenizer import gpt2_tokenizer

TEXT, TIMES = 200_000_000, 3  # bytes of text, and how often they are prepared: the tokenizers keep nothing of a text
DOCUMENT, FILES = 4000, 4  # characters of each document, parquet files
SHARD, SHARDS, B, T = 100_000_000, 2, 16, 1024  # tokens, files; rows and tokens of a batch


def preparing(repeats: int) -> None:
    """Print tokens a second: `python -m 04_gpt2.data` from parquet to shards, tiktoken counting tokens of texts in memory."""
    n = n_cores()
    competitors = {"04_gpt2.data, parquet to shards": ours, "tiktoken, texts in memory, nothing written": tiktoken_alone}
    costs: dict[str, list[Run]] = {name: [] for name in competitors}
    with tempfile.TemporaryDirectory() as folder:
        alone(write_parquet, Path(folder))
        print(f"{TEXT / 1e6:.0f} MB of installed texts, {TIMES} times over, in documents of {DOCUMENT:,} characters;")
        print(f"{n} processes, started anew each time: median of {repeats}, in turn")
        print(f"{'':44}{'tokens/s':>12}{'tokens/CPU s':>14}", flush=True)
        for _ in range(repeats):
            for name, run in competitors.items():
                costs[name].append(alone(run, Path(folder), n).result)
    for name, runs in costs.items():
        print(f"{name:44}{median(r.rate for r in runs):>12,.0f}{median(r.cpu_rate for r in runs):>14,.0f}")
    ours_and_theirs = list(zip(*costs.values(), strict=True))
    ratios, cpu_ratios = ([a[i] / b[i] for a, b in ours_and_theirs] for i in range(2))
    print(f"{'ratio':44}{median(ratios):>12.2f}{median(cpu_ratios):>14.2f}")
    print(f"most memory of 04_gpt2.data and its workers: {max(run.megabytes for run, _ in ours_and_theirs):,.0f} MB")


class Run(NamedTuple):
    """Tokens in a second, and in one of the CPUs; the most memory that the processes begun for it held together."""

    rate: float
    cpu_rate: float
    megabytes: float


def ours(folder: Path, n: int) -> Run:
    """Prepare the parquet files as a user does."""

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as to:
            flags = ["--source", folder / "parquet", "--to", to, "--workers", str(n), "-q"]
            subprocess.run([sys.executable, "-m", "04_gpt2.data", *flags], check=True)
            return sum(entry.tokens for entry in Manifest.load(Path(to)).shards)

    return _measured(run)


def tiktoken_alone(folder: Path, n: int) -> Run:
    """Count the tokens of the same documents, by as many processes, which are at hand when the time begins."""
    tables = [pq.read_table(path, columns=["text"]) for path in sorted((folder / "parquet").iterdir())]
    texts = [text for table in tables for text in table["text"].to_pylist()]
    groups = [texts[i : i + 256] for i in range(0, len(texts), 256)]

    fork = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = multiprocessing.get_context(fork).Pool(n, _open_tiktoken)

    def run() -> int:
        n_tokens = sum(pool.imap(_count, groups)) + len(texts)  # <|endoftext|> before each, as the other has it
        pool.close()
        pool.join()  # whose CPU time is known then
        return n_tokens

    return _measured(run)


def _measured(run: Callable[[], int]) -> Run:
    """Call `run`, which returns a number of tokens, with an eye on time, CPUs and memory."""
    process, samples, ended = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while True:
            with suppress(psutil.NoSuchProcess):  # a worker that has just ended
                samples.append(sum(each.memory_info().rss for each in process.children(recursive=True)))
            if ended.wait(0.1):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])  # of this process and of workers that have ended
    try:
        n_tokens = run()
        seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
    finally:
        ended.set()
        watcher.join()
    return Run(n_tokens / seconds, n_tokens / cpu_seconds, max(samples) / 1e6)


def _open_tiktoken() -> None:
    globals()["encoding"] = gpt2_tokenizer().tiktoken_encoding


def _count(texts: list[str]) -> int:
    return sum(map(len, globals()["encoding"].encode_ordinary_batch(texts, num_threads=1)))


def write_parquet(folder: Path) -> None:
    """The installed texts as documents, several times over, in parquet files."""
    documents = [text[i : i + DOCUMENT] for text in installed_texts(TEXT) for i in range(0, len(text), DOCUMENT)] * TIMES
    (folder / "parquet").mkdir()
    for i in range(FILES):
        pq.write_table(pa.table({"text": documents[i::FILES]}), folder / "parquet" / f"{i}.parquet", row_group_size=1000)


def batches(repeats: int) -> None:
    """Print how fast batches come, how long the slowest was waited for, and the memory held meanwhile."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(SHARDS):
            content = random.integers(50_257, size=SHARD, dtype=np.uint16)
            (Path(folder) / f"train_{i:06}.bin").write_bytes(header(SHARD) + content.tobytes())
        print(f"an epoch of {SHARDS} shards of {SHARD:,} tokens, just written, in batches of {B} x {T}:")
        print(f"each in a process of its own, median of {repeats}, in turn")
        print(f"{'':24}{'tokens/s':>14}{'tokens/CPU s':>14}{'longest wait, ms':>18}{'memory held, MB':>17}", flush=True)
        competitors = {"windows of all shards": "windows", "shard after shard": "shards", "the classic loader": "classic"}
        costs = {name: [] for name in competitors}
        for _ in range(repeats):
            for name, kind in competitors.items():
                costs[name].append(alone(read_epoch, Path(folder), kind).result)
    for name, measured in costs.items():
        rate, cpu_rate, wait, held = (median(values) for values in zip(*measured, strict=True))
        print(f"{name:24}{rate:>14,.0f}{cpu_rate:>14,.0f}{wait * 1000:>18.1f}{held:>17.0f}")


def read_epoch(folder: Path, kind: str) -> tuple[float, float, float, float]:
    """Tokens a second and a CPU second over an epoch, the longest wait in seconds, MB of memory beside the files' own."""
    torch.set_num_threads(1)
    before = megabytes("RssAnon")
    paths = sorted(folder.iterdir())
    if kind == "windows" or kind == "shards":
        loader = Loader(Shards(paths, 50_257, read_ahead=kind == "shards"), B, T, seed=0, order=kind)
    else:
        loader = ClassicLoader(paths)
    n, waits, held = SHARD * SHARDS // (B * T) - 1, [], 0.0
    started, cpu_started = time.perf_counter(), time.process_time()
    for i in range(n):
        asked = time.perf_counter()
        next(loader)
        waits.append(time.perf_counter() - asked)
        if i % (n // 20) == 0:
            held = max(held, megabytes("RssAnon") - before)
    n_tokens, now, cpu_now = n * B * T, time.perf_counter(), time.process_time()
    return n_tokens / (now - started), n_tokens / (cpu_now - cpu_started), max(waits), held


class ClassicLoader:
    """The loader of many GPT-2 reproductions: a whole shard as a tensor of int64, read in order, then the next one."""

    def __init__(self, paths: list[Path]):
        self.paths, self.index = paths, -1
        self._open_next()

    def _open_next(self) -> None:
        self.index, self.place = (self.index + 1) % len(self.paths), 0
        tokens = np.fromfile(self.paths[self.index], dtype=np.uint16, offset=HEADER)
        self.tokens = torch.tensor(tokens.astype(np.int32), dtype=torch.long)

    def __next__(self) -> tuple[Tensor, Tensor]:
        rows = self.tokens[self.place : self.place + B * T + 1]
        self.place += B * T
        if self.place + B * T + 1 > len(self.tokens):
            self._open_next()
        return rows[:-1].view(B, T), rows[1:].view(B, T)
