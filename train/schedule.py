"""What learns, how fast: locked towers, the optimiser's groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from clipmed.errors import ConfigError
from train.config import OptimConfig

MAX_LOGIT_SCALE = math.log(100)
TowerName = Literal["image", "text"]

# Names in OpenCLIP's, timm's and Hugging Face's towers.
# The leftmost number counts: timm's hierarchical trunks number stages before blocks, T5 blocks before layers.
_BLOCK = re.compile(r"\.(?:stages|resblocks|blocks?|layers?)\.(\d+)\.")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:conv1|class_embedding|positional_embedding|ln_pre|patch_embed|cls_token|reg_token|pos_embed|norm_pre"
    r"|stem|token_embedding|cls_emb|embeddings|shared)(?:\.|$)"
)
_PROJECTION = re.compile(r"^(?:visual\.(?:proj|head|attnpool\.c_proj)|(?:text\.)?(?:text_projection|proj))(?:\.|$)")


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the rate of a step (from 0): linear warm-up to the peak, then a half cosine down to 0 at the end."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, grouped by learning rate and weight decay.

    Weight decay is for matrices: vectors (biases, norms) and scalars have none, nor has what the towers themselves
    except, which is their position embeddings and class tokens.

    Raises:
        ConfigError: `layer_decay` for a tower whose layers are not known.
    """
    factors = learning_rate_factors(model, config)
    spared = _spared_from_decay(model)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim >= 2 and name not in spared else 0.0
            groups.setdefault((factors[name], decay), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    on_cuda = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(listed, config.lr, config.betas, config.eps, fused=True if on_cuda else None)


def learning_rate_factors(model: torch.nn.Module, config: OptimConfig) -> dict[str, float]:
    """Return each parameter's learning rate as a multiple of the schedule's, by name.

    In a tower of L blocks (stages, where it has stages) a parameter of block l (from 0) has layer_decay ** (L - l),
    embeddings have layer_decay ** (L + 1), and what follows the last block, the projection and the temperature have 1
    (Clark et al. 2020, arXiv 2003.10555); the tower's own factor multiplies.

    Raises:
        ConfigError: `layer_decay` for a tower whose layers are not known.
    """
    names = [name for name, _ in model.named_parameters()]
    depths = {tower: _depth([name for name in names if tower_of(name) == tower]) for tower in ("image", "text")}
    unknown = [tower for tower, depth in depths.items() if depth == 0 and tower not in config.locked]
    if config.layer_decay < 1 and unknown:
        raise ConfigError(
            f"optim.layer_decay: got {config.layer_decay}, but the {unknown[0]} tower has no numbered transformer "
            "blocks; allowed for this model: 1.0"
        )
    tower_factors = {"image": config.image_lr_factor, "text": config.text_lr_factor}

    def factor(name: str) -> float:
        tower = tower_of(name)
        if tower is None:
            return 1.0
        return tower_factors[tower] * float(config.layer_decay ** _layers_above(name, depths[tower]))

    return {name: factor(name) for name in names}


def tower_of(name: str) -> TowerName | None:
    """Return the tower of a parameter of an OpenCLIP model, by name; None for temperature and bias."""
    if name.startswith("visual."):
        return "image"
    return None if name in {"logit_scale", "logit_bias"} else "text"


def lock_towers(model: torch.nn.Module, locked: Sequence[TowerName]) -> None:
    """Let the weights of towers stay as they are, but for their projections into the joint space (Zhai et al. 2022).

    Raises:
        ConfigError: both towers are to be locked.
    """
    if len(set(locked)) > 1:
        raise ConfigError(
            f"optim.locked: got {list(locked)}, which leaves only projections to train; allowed: one tower"
        )
    for name, parameter in model.named_parameters():
        if tower_of(name) in locked and not _PROJECTION.match(name):
            parameter.requires_grad_(False)


def set_training_mode(model: torch.nn.Module, locked: Sequence[TowerName]) -> None:
    """Set the model to training mode, and the locked parts to evaluation mode: no dropout, fixed statistics."""
    model.train()
    for name, module in model.named_modules():
        own = list(module.parameters())
        is_locked = bool(own) and not any(parameter.requires_grad for parameter in own)
        if is_locked and tower_of(f"{name}.") in locked:
            module.eval()
    if "image" in locked:
        for module in model.modules():
            if type(module).__name__ == "PatchDropout":
                module.eval()


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Let the model be in evaluation mode inside, and every module in its own mode again after: locked ones differ."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def clamp_logit_scale(model: Any) -> None:
    """Hold the logarithm of the inverse temperature in 0 … ln 100, as CLIP does."""
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def _spared_from_decay(model: torch.nn.Module) -> set[str]:
    """Return the names of the parameters that OpenCLIP's and timm's modules say should not decay."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def _depth(names: Sequence[str]) -> int:
    """Return the number of blocks of a tower."""
    return max((int(found[1]) + 1 for name in names if (found := _BLOCK.search(name))), default=0)


def _layers_above(name: str, depth: int) -> int:
    if found := _BLOCK.search(name):
        return depth - int(found[1])
    return depth + 1 if _EMBEDDING.search(name) else 0
