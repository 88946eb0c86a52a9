"""How a model of names is trained and judged: one step on a mini-batch, rates that fall, the loss on all examples."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from .models import NameModel

Step = Callable[[float], float]

CHUNK = 16_384  # examples evaluated at once, so that memory stays small


def training_step(
    model: NameModel,
    optimizer: Optimizer,
    contexts: Tensor,
    targets: Tensor,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Step:
    """A function that takes one step with the learning rate it is given, and returns the loss of its mini-batch, in nats.

    Each mini-batch is `batch_size` examples, drawn at random, with replacement, from contexts (N, T) and targets (N,). The
    model is then in training mode. Raises ValueError if batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least 1 is expected")

    def step(lr: float) -> float:
        model.train()
        batch = torch.randint(len(targets), (batch_size,), generator=generator)
        loss = model.loss(contexts[batch], targets[batch])
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        return loss.item()

    return step


def step_decay(lr: float, n_steps: int) -> list[float]:
    """A rate for each step: `lr` for the first three quarters, a tenth of it for the last."""
    return [lr if 4 * step < 3 * n_steps else lr / 10 for step in range(n_steps)]


def linear_decay(lr: float, n_steps: int) -> list[float]:
    """A rate for each step: from `lr` down to almost 0 on a straight line."""
    return [lr * (1 - step / n_steps) for step in range(n_steps)]


@torch.no_grad()
def mean_loss(model: NameModel, contexts: Tensor, targets: Tensor) -> float:
    """The loss on all examples, in nats a symbol, in evaluation mode. Raises ValueError if there are none."""
    if not len(targets):
        raise ValueError("there are no examples to take the mean of; at least one is expected")
    training = model.training
    model.eval()
    try:
        chunks = zip(contexts.split(CHUNK), targets.split(CHUNK), strict=True)
        return sum(model.loss(x, y).item() * len(y) for x, y in chunks) / len(targets)
    finally:
        model.train(training)
