"""How a gradient becomes an update: which parameters decay, how fast to go at each step, and AdamW."""

import math

import torch
from torch import nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) in its fused kernel, which CPU, CUDA and MPS all have."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer: matrices and embeddings, which decay, and biases and LayerNorms, which do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]


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
