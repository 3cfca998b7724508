"""What lets towers be larger and faster: sharded weights, compiled towers, activations computed again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

from clipmed.errors import ConfigError
from clipmed.towers import TwoTower
from train.collectives import average_gradients, sum_over_processes
from train.config import ParallelConfig

TowerName = Literal["image", "text"]


class Towers:
    """The prepared towers: when their gradients are exchanged, averaged and clipped.

    Sharded parameters exchange their gradients in the last backward pass of their tower; all others are averaged
    together at the end of the step.
    """

    def __init__(self, model: torch.nn.Module, sharded: dict[TowerName, Any], world_size: int) -> None:
        self._model = model
        self._sharded = sharded
        self._world_size = world_size

    @contextmanager
    def synchronise(self, tower: TowerName, last: bool) -> Iterator[None]:
        """Enter around every backward pass of a tower; `last` is whether it is the tower's last one of the step."""
        module = self._sharded.get(tower)
        if module is not None:
            module.set_requires_gradient_sync(last)
            module.set_is_last_backward(last)
        yield

    def average(self) -> None:
        """Average the gradients of the parameters that are not sharded over the processes."""
        average_gradients(self._whole(), self._world_size)

    def clip_gradients(self, largest: float) -> float:
        """Scale all gradients down to the largest norm allowed; return the norm that they had, over all processes."""
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
        is_sharded = [isinstance(gradient, DTensor) for gradient in gradients]
        device = local[0].device
        own = _square_sum([part for part, sharded in zip(local, is_sharded, strict=True) if sharded], device)
        whole = _square_sum([part for part, sharded in zip(local, is_sharded, strict=True) if not sharded], device)
        if self._sharded:
            own = sum_over_processes(own, self._world_size)
        norm = (own + whole).sqrt()
        if math.isfinite(largest):
            factor = (largest / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(local, factor.to(local[0].dtype))
        return float(norm)

    def _whole(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self._model.parameters() if not isinstance(parameter, DTensor)]


def prepare_towers(
    two_tower: TwoTower, config: ParallelConfig, precision: str, device: torch.device, world_size: int
) -> Towers:
    """Let towers recompute activations, be compiled and be sharded, in place, as the config asks.

    Raises:
        ConfigError: sharded weights with a single process, or towers that cannot do what is asked.
    """
    model: Any = two_tower.model
    if config.recompute_activations:
        _recompute_activations(model)
    if config.compile:
        _compile(model)
    sharded: dict[TowerName, Any] = {}
    if config.shard_weights:
        if world_size == 1:
            raise ConfigError(
                "parallel.shard_weights: got true for one process; allowed: two or more, by torchrun or Slurm tasks"
            )
        sharded = _shard(model, device)
    return Towers(model, sharded, world_size)


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole weights and buffers on the CPU, by their plain names; every process must call it."""
    return {
        name.replace("_orig_mod.", ""): (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
        for name, tensor in model.state_dict().items()
    }


def _recompute_activations(model: Any) -> None:
    text = getattr(model, "text", None)
    transformer = getattr(text, "transformer", None)
    model.visual.set_grad_checkpointing(True)
    if hasattr(transformer, "gradient_checkpointing_enable"):
        transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        text.set_grad_checkpointing(True)


def _compile(model: Any) -> None:
    import torch._inductor.config

    # The passes with and without gradients are compiled apart; eager's random numbers are the same in both.
    torch._inductor.config.fallback_random = True
    model.visual.compile()
    model.text.compile(dynamic=True)


def _shard(model: Any, device: torch.device) -> dict[TowerName, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    towers: dict[TowerName, Any] = {"image": model.visual, "text": model.text}
    for tower in towers.values():
        for block in _blocks(tower):
            fully_shard(block, mesh=mesh)
        fully_shard(tower, mesh=mesh)
    return towers


def _blocks(tower: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Return the transformer blocks: members of the longest list of modules."""
    lists = [module for module in tower.modules() if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential))]
    longest = max(lists, key=len, default=None)
    return list(longest) if longest is not None else []


def _square_sum(parts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    if not parts:
        return torch.zeros((), device=device, dtype=torch.float32)
    norms = torch._foreach_norm(list(parts))
    return torch.stack([norm.to(device=device) for norm in norms]).square().sum()
