"""How a gradient becomes an update: which parameters decay, how fast to go at each step, AdamW and Muon."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shared.devices import choose_dtype

from .config import TrainConfig

MOMENTUM = 0.95  # Muon's memory of gradients
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # Jordan's polynomial: steep at 0, and never far from 1 between 0 and 1


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW in PyTorch's fused kernel, which CPU, CUDA and MPS all have, or Muon."""
    betas = config.beta1, config.beta2
    if config.optimizer == "muon":
        return Muon(muon_groups(model, config.weight_decay, config.split_qkv), config.lr, betas)
    return torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, betas=betas, eps=1e-8, fused=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer: matrices and embeddings, which decay, and biases and LayerNorms, which do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]


def muon_groups(model: nn.Module, weight_decay: float, split_qkv: bool) -> list[dict]:
    """The same two groups without the blocks' matrices, and two for Muon: c_attn's, which may count as three, and the rest.

    A token table is no such matrix: each of its rows is a vector of its own.
    """
    matrices = {name: p for name, p in model.named_parameters() if ".h." in name and p.dim() == 2}
    chosen = set(matrices.values())
    rest = [
        {**group, "params": [p for p in group["params"] if p not in chosen]} for group in parameter_groups(model, weight_decay)
    ]
    joint = [p for name, p in matrices.items() if "c_attn" in name]
    others = [p for name, p in matrices.items() if "c_attn" not in name]
    return [
        *rest,
        {"params": joint, "weight_decay": weight_decay, "matrices": 3 if split_qkv else 1},
        {"params": others, "weight_decay": weight_decay, "matrices": 1},
    ]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the groups that say of how many "matrices" each parameter is made, AdamW for the others.

    An orthogonal update of m rows and n columns has entries of the size 1 / sqrt(max(m, n)); it is made 0.2 on average, which
    is about AdamW's, so that one learning rate serves both (Liu et al. 2025, section 2.2).
    """

    def __init__(self, groups: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.95)):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": 1e-8, "weight_decay": 0.0, "matrices": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = muon_update if group["matrices"] else adamw_update
                    update(parameter, parameter.grad, self.state[parameter], group)
        return loss


def adamw_update(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """AdamW (Loshchilov and Hutter 2019): the mean gradient over the root of the mean square, and a decay apart from it."""
    if not state:
        state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
    beta1, beta2 = group["betas"]
    state["step"] += 1
    mean, square, t = state["exp_avg"], state["exp_avg_sq"], state["step"].item()
    mean.lerp_(grad, 1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (square / (1 - beta2**t)).sqrt_().add_(group["eps"])  # both means began at 0 and are that much too small
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**t))


def muon_update(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Momentum that looks one step ahead (Nesterov), made orthogonal, and the same decay."""
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
    matrices = grad.lerp(momentum, MOMENTUM).unflatten(0, (group["matrices"], -1))  # (matrices, m, n)
    size = 0.2 * math.sqrt(max(matrices.shape[1:]))
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(orthogonalise(matrices).flatten(0, 1), alpha=-group["lr"] * size)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (..., m, n) with the same singular vectors and singular values of about 1, in float32.

    Where A = U S V.T, an odd polynomial of A, a A + b (A A.T) A + c (A A.T)^2 A, is U (a S + b S^3 + c S^5) V.T: products
    alone bend all singular values at once. Five rounds bring those above 0.003 to between 0.68 and 1.21. (Jordan 2024, after
    Newton and Schulz)
    """
    x = matrices.to(choose_dtype("auto", matrices.device))  # bfloat16 where it is fast: no digit is worth more here
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT  # A A.T is the smaller one then
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value is above 1 then
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()


def cosine_with_warmup(step: int, config: TrainConfig) -> float:
    """Learning rate of update `step`, counted from 0: linear warm-up to `lr`, a cosine down to `min_lr`, which then stays.

    Schedule as in GPT-3 (Brown et al. 2020, appendix B). Update `warmup_steps - 1` runs at `lr`, update `steps` at `min_lr`.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if step >= config.steps:
        return config.min_lr
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)  # 0 to 1
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.lr - config.min_lr)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` in all parameter groups from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
