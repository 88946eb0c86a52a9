"""Training on 1, 2, ... N processes: what they reach together, and what of it the exchange of gradients takes away."""

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from shared.devices import choose_dtype

from .benchmark_ladder import GPT2, SMALL
from .config import GPTConfig
from .measure import n_cores
from .model import GPT
from .optim import parameter_groups

STEPS = 3  # measured together


def scaling(kind: str, rows: int, repeats: int) -> None:
    """Print tokens a second of each number of processes, up to the number of GPUs or of CPU cores."""
    n_most = torch.cuda.device_count() if kind == "cuda" else n_cores()
    shape = GPT2 if kind == "cuda" else SMALL
    print(f"{shape.n_params:,} parameters, {rows} rows of {shape.block_size:,} tokens in each process, one thread or GPU each")
    print(f"{'processes':>10}{'tokens/s':>12}{'x one':>8}{'no exchange':>14}{'x one':>8}{'exchange takes':>16}", flush=True)
    first: list[float] = []
    for n in range(1, n_most + 1):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (n, kind, shape, rows, repeats, Path(folder)), nprocs=n)
            seconds = torch.load(Path(folder) / "seconds")  # of a step with and without exchange
        rates = [n * rows * shape.block_size / each for each in seconds]
        first = first or rates
        (rate, times), (rate_alone, times_alone) = ((rate, rate / of_one) for rate, of_one in zip(rates, first, strict=True))
        row = f"{n:>10}{rate:>12,.0f}{times:>8.2f}{rate_alone:>14,.0f}{times_alone:>8.2f}"
        print(f"{row}{1 - seconds[1] / seconds[0]:>16.0%}", flush=True)


def work(rank: int, n_ranks: int, kind: str, shape: GPTConfig, rows: int, repeats: int, folder: Path) -> None:
    """One process: train on random tokens, in turn with and without adding up gradients; rank 0 leaves its seconds a step."""
    torch.set_num_threads(1)
    device = torch.device(f"cuda:{rank}" if kind == "cuda" else kind)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=n_ranks)
    with device:
        model = GPT(shape)
        idx = torch.randint(shape.vocab_size, (rows, shape.block_size + 1))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, fused=True)

    def seconds_a_step(exchange: bool) -> float:
        dist.barrier()
        started = time.perf_counter()
        for _ in range(STEPS):
            with nullcontext() if exchange else ddp.no_sync():
                with torch.autocast(kind, torch.bfloat16, enabled=choose_dtype("auto", device) == torch.bfloat16):
                    loss = ddp(idx[:, :-1], idx[:, 1:])
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        dist.barrier()
        return (time.perf_counter() - started) / STEPS

    seconds_a_step(True)
    measured = [(seconds_a_step(True), seconds_a_step(False)) for _ in range(repeats)]
    if rank == 0:
        torch.save([median(each) for each in zip(*measured, strict=True)], folder / "seconds")
    dist.destroy_process_group()
