"""What a training step costs: its head, the whole of it beside Hugging Face's, and attention's memory as the text grows."""

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .config import GPTConfig
from .flash_attention import flash_attention
from .head import linear_cross_entropy
from .measure import alone, megabytes, restart_peak
from .model import GPT

HEAD_TOKENS, STEP_ROWS = 4096, 4
SHAPE = GPTConfig()
LENGTHS, HEADS, HEAD_SIZE = (512, 1024, 2048, 4096), 4, 64


class Try(NamedTuple):
    """CPU seconds, and the most memory in MB; nan where the system does not tell it."""

    seconds: float
    megabytes: float


def heads(repeats: int) -> None:
    """Print time and memory of the last layer and the loss, forward and backward: chunk by chunk, and in one piece."""
    print(f"{HEAD_TOKENS:,} tokens, {SHAPE.vocab_size:,} ids, width {SHAPE.n_embd}, forward and backward, float32")
    _print_costs({"chunk by chunk": (head, True), "all logits in one piece": (head, False)}, repeats)


def head(chunked: bool) -> Try:
    """The loss and the gradients of its inputs, which are there before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(HEAD_TOKENS, SHAPE.n_embd, requires_grad=True)
    weight = torch.nn.Parameter(0.02 * torch.randn(SHAPE.vocab_size, SHAPE.n_embd))
    targets = torch.randint(SHAPE.vocab_size, (HEAD_TOKENS,))

    def loss() -> torch.Tensor:
        return linear_cross_entropy(x, weight, targets) if chunked else F.cross_entropy(x @ weight.T, targets)

    return _second_try(lambda: loss().backward(), lambda: (setattr(x, "grad", None), setattr(weight, "grad", None)))


def whole_step(repeats: int) -> None:
    """Print time and memory of a training step of GPT-2 124M, ours and that of transformers."""
    ceiling = _gigaflops()
    gigaflops = SHAPE.flops_per_token * STEP_ROWS * SHAPE.block_size / 1e9
    print(f"GPT-2 124M, {STEP_ROWS} rows of {SHAPE.block_size:,} tokens, float32: forward, backward, AdamW")
    print(f"{gigaflops:,.0f} GFLOP, at the {ceiling:.0f} GFLOP/s of large products on one thread {gigaflops / ceiling:.1f} s")
    costs = _print_costs({"ours": (step, True), "transformers": (step, False)}, repeats)
    for name, seconds in costs.items():
        print(f"{name}: {gigaflops / ceiling / seconds:.0%} of that ceiling")


def step(is_ours: bool) -> Try:
    """A training step of a model that is there before, with AdamW's two means; gradients are the step's own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    idx = torch.randint(SHAPE.vocab_size, (STEP_ROWS, SHAPE.block_size + 1))
    if is_ours:
        ours = GPT(SHAPE)
        parameters, loss = list(ours.parameters()), lambda: ours(idx[:, :-1], idx[:, 1:])
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        shape.update({name: getattr(SHAPE, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")})
        shape.n_positions = SHAPE.block_size
        theirs = GPT2LMHeadModel(shape)
        parameters, loss = list(theirs.parameters()), lambda: theirs(idx[:, :-1], labels=idx[:, :-1]).loss
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def update() -> None:
        loss().backward()
        optimizer.step()

    def kept() -> list[torch.Tensor]:
        return [*parameters, *(mean for state in optimizer.state.values() for mean in state.values())]

    return _second_try(update, optimizer.zero_grad, kept)


def attention(repeats: int) -> None:
    """Print the memory of attention, forward and backward, as the text grows: by blocks, and with the table of all scores."""
    print(f"attention of {HEADS} heads of {HEAD_SIZE} numbers, forward and backward: most memory, MB")
    print(f"{'tokens':>8}{'by blocks':>12}{'one kernel':>12}{'all scores':>12}", flush=True)
    for T in LENGTHS:
        kinds = ("blocks", "kernel", "scores")
        costs = [median(alone(attend, kind, T).megabytes for _ in range(repeats)) for kind in kinds]
        print(f"{T:>8,}" + "".join(f"{cost:>12.0f}" for cost in costs), flush=True)


def attend(kind: str, T: int) -> None:
    """Attention over T tokens and its gradients, in one of three ways."""
    torch.set_num_threads(1)
    q, k, v = (torch.randn(1, HEADS, T, HEAD_SIZE, requires_grad=True) for _ in range(3))
    if kind == "blocks":
        y = flash_attention(q, k, v)
    elif kind == "kernel":
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = (q @ k.mT / HEAD_SIZE**0.5).masked_fill(future, float("-inf")).softmax(dim=-1) @ v
    y.sum().backward()


def _print_costs(competitors: dict[str, tuple[Callable[..., Try], bool]], repeats: int) -> dict[str, float]:
    """A row for each, each time in a process of its own, and their ratio -> CPU seconds by name."""
    print(f"{'':26}{'CPU s':>8}{'most MB':>10}", flush=True)
    tries: dict[str, list[Try]] = {name: [] for name in competitors}
    for _ in range(repeats):
        for name, call in competitors.items():
            tries[name].append(alone(*call).result)
    for name, measured in tries.items():
        print(f"{name:26}{median(each.seconds for each in measured):>8.1f}{median(t.megabytes for t in measured):>10,.0f}")
    pairs = list(zip(*tries.values(), strict=True))
    ratios = median(a.seconds / b.seconds for a, b in pairs), median(a.megabytes / b.megabytes for a, b in pairs)
    print(f"{'ratio':26}{ratios[0]:>8.2f}{ratios[1]:>10.2f}")
    return {name: median(each.seconds for each in measured) for name, measured in tries.items()}


def _second_try(
    work: Callable[[], object], clear: Callable[[], object], kept: Callable[[], Iterable[torch.Tensor]] = tuple
) -> Try:
    """What `work` takes once it has been done and cleared; the memory of the tensors that are `kept` counts too."""
    work()
    clear()
    restart_peak()
    at_rest, started = megabytes("VmRSS"), time.process_time()
    work()
    seconds = time.process_time() - started
    return Try(seconds, megabytes("VmHWM") - at_rest + sum(tensor.nbytes for tensor in kept()) / 1e6)


def _gigaflops(n: int = 1536) -> float:
    """The most that a product of two large matrices reaches on one thread, by CPU time."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.randn(n, n), torch.randn(n, n)
    fastest = min(_second_try(lambda: a @ b, lambda: None).seconds for _ in range(5))
    torch.set_num_threads(n_threads)
    return 2 * n**3 / fastest / 1e9
