"""The chunked head: PyTorch's loss and gradients, in less memory, alone and within everything that training does to it."""

from importlib import import_module

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

config = import_module("04_gpt2.config")
head = import_module("04_gpt2.head")
measure = import_module("04_gpt2.measure")
model = import_module("04_gpt2.model")

SHAPE = config.GPTConfig(block_size=24, vocab_size=61, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setitem(head.CHUNK, "cpu", 61 * 7)  # seven tokens at a time


def usual(x, weight, targets):
    return F.cross_entropy(x @ weight.T, targets)


def loss_and_gradients(function, x, weight, targets, factor=1.0):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = function(x, weight, targets)
    (loss * factor).backward()
    return loss.detach(), x.grad, weight.grad


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 300), st.floats(0, 0.9), st.floats(0.1, 30))
def test_loss_and_gradients_are_those_of_the_logits_in_one_piece(N, C, V, ignored, spread):
    x, weight = torch.randn(N, C, dtype=torch.float64) * spread, torch.randn(V, C, dtype=torch.float64)
    targets = torch.where(torch.rand(N) < ignored, -100, torch.randint(V, (N,)))
    targets[-1] = V - 1
    ours, expected = (loss_and_gradients(f, x, weight, targets, -2.5) for f in (head.linear_cross_entropy, usual))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_float32_is_as_exact_as_pytorchs():
    x, weight, targets = torch.randn(50, 32) * 3, torch.randn(61, 32), torch.randint(61, (50,))
    exact = loss_and_gradients(usual, x.double(), weight.double(), targets)
    ours, theirs = (loss_and_gradients(f, x, weight, targets) for f in (head.linear_cross_entropy, usual))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32 and (a - c).norm() <= 3 * (b - c).norm() + 1e-6 * c.norm()


def test_logits_far_apart_give_finite_numbers():
    x = torch.tensor([[300.0], [-300.0], [0.0]])
    weight, targets = torch.linspace(-2, 2, 61)[:, None], torch.tensor([60, 60, 3])
    ours, expected = (loss_and_gradients(f, x, weight, targets) for f in (head.linear_cross_entropy, usual))
    assert expected[0] > 100
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_without_a_target_the_mean_is_as_undefined_as_pytorchs():
    x, weight, targets = torch.randn(5, 3), torch.randn(7, 3), torch.full((5,), -100)
    assert usual(x, weight, targets).isnan() and head.linear_cross_entropy(x, weight, targets).isnan()


def test_autocast_rounds_as_it_does_for_the_logits_in_one_piece():
    x, weight, targets = torch.randn(50, 32), torch.randn(61, 32), torch.randint(61, (50,))
    exact = loss_and_gradients(usual, x, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (loss_and_gradients(f, x, weight, targets) for f in (head.linear_cross_entropy, usual))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert 1e-6 * c.norm() < (a - c).norm() < 2 * (b - c).norm() + 1e-3 * c.norm()


def test_gradients_are_computed_once_and_not_at_all_where_none_is_wanted():
    x, weight, targets = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3), torch.randint(7, (5,))
    loss = head.linear_cross_entropy(x, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.no_grad():
        assert head.linear_cross_entropy(x, weight, targets) == loss
    assert head.linear_cross_entropy(x.detach(), weight, targets).grad_fn is None


def gradients(net, forward, batches, factor=1.0):
    net.zero_grad()
    for x, y in batches:
        (forward(x, y) * factor).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def a_batch(rows=4):
    idx = torch.randint(SHAPE.vocab_size, (rows, 25))
    return idx[:, :-1], idx[:, 1:]


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_micro_batches_add_up_to_the_large_batch():
    net, (x, y) = model.GPT(SHAPE), a_batch()
    whole = gradients(net, lambda x, y: F.cross_entropy(net(x).flatten(0, 1), y.flatten()), [(x, y)])
    assert_same(gradients(net, net, zip(x.split(2), y.split(2), strict=True), factor=0.5), whole)


def test_compiling_changes_nothing_and_breaks_no_graph():
    net, batch = model.GPT(SHAPE), a_batch()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert_same(gradients(net, compiled, [batch]), gradients(net, net, [batch]))


def of_rank(rank, folder, state, x, y):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = model.GPT(SHAPE)
    net.load_state_dict(state)
    wrapped = torch.nn.parallel.DistributedDataParallel(net)
    torch.save(gradients(net, wrapped, [(x[rank::2], y[rank::2])]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_gradients_of_the_whole_batch(tmp_path):
    net, (x, y) = model.GPT(SHAPE), a_batch()
    mp.spawn(of_rank, (tmp_path, net.state_dict(), x, y), nprocs=2)
    expected = gradients(net, net, [(x, y)])
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pt"), expected)


def learn(chunk):
    head.CHUNK["cpu"] = chunk
    x, weight = torch.randn(1024, 16, requires_grad=True), torch.randn(50_257, 16, requires_grad=True)
    head.linear_cross_entropy(x, weight, torch.randint(50_257, (1024,))).backward()


@pytest.mark.skipif(not measure.PROCESS.exists(), reason="only Linux tells a process's peak memory so simply")
def test_the_logits_are_not_held():
    """All of them would be 206 MB; besides, the table's gradient is 3 MB, and the first use of PyTorch's kernels some more."""
    assert measure.alone(learn, 2**20).megabytes < 60
    assert measure.alone(learn, 2**30).megabytes > 206
