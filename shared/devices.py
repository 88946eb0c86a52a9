"""Where the work runs: the device, its fast number format, its random state."""

import os
import random
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .cli import UsageError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes CUDA, else Apple's MPS, else the CPU. Raises UsageError if it is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present.get(name):
        raise UsageError(f"--device {name} is not there; this machine has {', '.join(k for k in present if present[k])}")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device in a few words, for the first line of a run."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type != "cpu":
        return device.type
    n = torch.get_num_threads()
    return f"cpu ({n} thread{'' if n == 1 else 's'})"


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Number format of the matrix products; "auto" takes bfloat16 where the hardware multiplies it, else float32.

    That is CUDA from compute capability 8.0 on, and CPUs with AMX. Elsewhere bfloat16 is emulated, many times slower.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def use_deterministic_kernels(on: bool) -> None:
    """Whether equal inputs must give equal bits on CUDA too, at the price of speed; call it before CUDA is first used."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's condition for it
    if on != torch.are_deterministic_algorithms_enabled():  # the call itself takes seconds, as it loads the compiler
        torch.use_deterministic_algorithms(on)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where PyTorch's random numbers for `device` stand, as (N,) bytes by device name; the CPU's are always among them."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Go on where `random_state` was taken; a device that `state` does not hold goes on where it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # since PyTorch 2.13
        return bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return False
