"""The last layer and the loss together, chunk by chunk, so that the logits of all tokens are never held at once.

At 4,096 tokens and GPT-2's vocabulary the logits take 823 MB, and the usual way holds almost three times that: logits,
logarithms of probabilities, gradients. Yet a row of logits is needed only until it has given its loss and its part of the
gradient, and both can be had in one go. Legend of the shapes: N tokens, n of them in a chunk, C channels, V vocab_size.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the target of a token after which nothing is to be predicted, as in F.cross_entropy
CHUNK = {"cpu": 2**24, "cuda": 2**28}  # logits held at a time: 67 MB in float32; a large GPU needs larger pieces to be busy


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What F.cross_entropy(x @ weight.T, targets) gives: the mean in nats over the tokens whose target is not -100.

    x (N, C), weight (V, C), targets (N,) ids. Gradients of x and weight are computed on the way forward; backward may be
    called once. Under autocast the products are in its number format, the rest in float32.
    """
    return _LinearCrossEntropy.apply(x, weight, targets)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        kind, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        table = weight.to(dtype)
        wanted = any(ctx.needs_input_grad)
        grad_x = torch.empty_like(x) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        total = torch.zeros((), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        counts = (targets != IGNORED).to(total.dtype)
        share = 1 / counts.sum()  # of each token in the mean
        size = max(1, CHUNK.get(kind, CHUNK["cpu"]) // len(weight))
        for start in range(0, len(x), size):
            end = start + size
            rows, of_these = x[start:end].to(dtype), counts[start:end, None]
            logits = (rows @ table.T).to(total.dtype)  # (n, V)
            target = targets[start:end, None].clamp(min=0)  # (n, 1), any id where it does not count
            logits -= logits.amax(dim=1, keepdim=True)
            at_target = logits.gather(1, target)
            sums = logits.exp_().sum(dim=1, keepdim=True)
            total += ((sums.log() - at_target) * of_these).sum()
            if grad_x is None or grad_weight is None:
                continue
            scale = of_these * share  # (n, 1)
            grad = logits.mul_(scale / sums)  # d loss / d logits: probability less 1 at the target, in the same memory
            grad = grad.scatter_add_(1, target, -scale).to(dtype)
            grad_x[start:end] = grad @ table
            if dtype == weight.dtype:
                grad_weight.addmm_(grad.T, rows)
            else:
                grad_weight += grad.T @ rows
            del logits, grad  # before the next ones are made
        ctx.save_for_backward(grad_x, grad_weight)
        return total * share

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x.mul_(grad_outputs[0]), grad_weight.mul_(grad_outputs[0]), None
