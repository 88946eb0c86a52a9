"""Devices, number formats, seeds and random states."""

import os
import random

import numpy as np
import pytest
import torch

from shared.cli import UsageError
from shared.devices import (
    choose_device,
    choose_dtype,
    describe,
    random_state,
    seed_everything,
    set_random_state,
    use_deterministic_kernels,
)


def test_auto_takes_the_fastest_kind_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda is not there; this machine has"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_takes_bfloat16_where_cuda_multiplies_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", torch.device("cuda")) == dtype


@pytest.mark.parametrize("amx", [False, True])
def test_auto_asks_the_cpu_what_it_supports(monkeypatch, amx):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    assert choose_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if amx else torch.float32)


def test_a_dtype_asked_for_is_taken():
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert choose_dtype("float32", torch.device("cpu")) == torch.float32


def test_the_same_seed_gives_the_same_numbers():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(2**40 + 3)
    first = draw()
    seed_everything(2**40 + 3)
    assert draw() == first


def test_random_numbers_go_on_where_their_state_was_taken():
    cpu = torch.device("cpu")
    torch.rand(random.randrange(100))
    state = random_state(cpu)
    expected = torch.rand(5), torch.nn.functional.dropout(torch.ones(50))
    torch.manual_seed(1)
    set_random_state(cpu, state)
    assert torch.equal(torch.rand(5), expected[0])
    assert torch.equal(torch.nn.functional.dropout(torch.ones(50)), expected[1])


def test_deterministic_kernels_are_switched_on_and_off(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    use_deterministic_kernels(True)
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    use_deterministic_kernels(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("n", "said"), [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
def test_the_cpu_is_described_with_its_threads(monkeypatch, n, said):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n)
    assert describe(torch.device("cpu")) == said
