"""The optimiser's parameter groups and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch

from train.config import OptimConfig

MAX_LOGIT_SCALE = math.log(100)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step (from 0): linear warm-up to the peak, then a half cosine down to 0 at the end."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; those with fewer than two dimensions have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], config.lr, config.betas, config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clamp_logit_scale(model: Any) -> None:
    """Hold the logarithm of the inverse temperature in 0 … ln 100, as CLIP does."""
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
