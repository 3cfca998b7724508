"""What lets towers be larger and faster: sharded weights, compiled blocks, activations computed again.

All three act on the towers' blocks. From the outside in, a prepared block is checkpointed (by the tower that calls it),
sharded (FSDP2's hooks on it), and compiled (its `forward`): each of them sees the others as they are without it, and
none changes a parameter's name. Random numbers are eager torch's in all cases, so that dropout is the same in the pass
without gradients, in the pass with them, and in a recomputation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

from clipmed.errors import ConfigError
from clipmed.towers import TwoTower
from train.collectives import average_gradients, sum_over_processes
from train.config import ParallelConfig

TowerName = Literal["image", "text"]

# Forms of a block that are compiled at most, of both towers: with and without gradients, in training and evaluation, at
# fixed and free shapes. torch's own limit is 8, beyond which it silently compiles no more.
COMPILED_FORMS = 64


class Towers:
    """The prepared towers: when their gradients are exchanged, averaged and clipped.

    Sharded parameters exchange their gradients in the last backward pass of their tower; all others are averaged
    together at the end of the step.

    Args:
        model: an OpenCLIP model.
        sharded: the towers that FSDP2 has divided over the processes.
        world_size: number of processes.
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
        average_gradients(filter(_is_whole, self._model.parameters()), self._world_size)

    def unscale_gradients(self, scaler: Any, optimizer: Any) -> None:
        """Divide all gradients by the loss scaler's factor; they overflow for all processes where they do for one.

        Args:
            scaler: torch's GradScaler.
            optimizer: torch's, or accelerate's around it; its parameters are put in another order.
        """
        # Of gradients in one list, the scaler asks the first whether they are divided over processes.
        for group in optimizer.param_groups:
            group["params"].sort(key=_is_whole)
        optimizer.param_groups.sort(key=lambda group: _is_whole(group["params"][0]))
        scaler.unscale_(getattr(optimizer, "optimizer", optimizer))

    def clip_gradients(self, largest: float) -> float:
        """Scale all gradients down to the largest norm allowed; return the norm that they had, over all processes."""
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        whole = list(filter(_is_whole, gradients))
        squares = _square_sum(whole)
        if self._sharded:
            squares = squares + sum_over_processes(_square_sum(parts).to(squares), self._world_size)
        norm = squares.sqrt()
        if math.isfinite(largest):
            torch._foreach_mul_(parts + whole, (largest / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)


def prepare_towers(two_tower: TwoTower, config: ParallelConfig, device: torch.device, world_size: int) -> Towers:
    """Let towers recompute activations, be compiled and be sharded, in place, as the config asks.

    Sharded weights stay in float32, and so do the gradients that are exchanged: autocast casts what it has gathered, as
    it does without sharding, so that the numbers are those of whole weights. Weights are gathered block by block, and
    let go of after each use.

    Args:
        two_tower: on its device, the same on every process.
        config: what to do.
        device: the process's own.
        world_size: number of processes.

    Raises:
        ConfigError: sharded weights with a single process, or towers that cannot do what is asked.
    """
    model: Any = two_tower.model
    towers: dict[TowerName, Any] = {"image": model.visual, "text": model.text}
    if config.recompute_activations:
        for name, tower in towers.items():
            _recompute_activations(name, tower)
    if config.compile:
        # Images differ in number alone, and only in a tower's last micro-batch; texts come in many lengths.
        _compile(towers["image"], dynamic=None)
        _compile(towers["text"], dynamic=True)
    if not config.shard_weights:
        return Towers(model, {}, world_size)
    if world_size == 1:
        raise ConfigError(
            "parallel.shard_weights: got true for one process; allowed: two or more, by torchrun or Slurm tasks"
        )
    for tower in towers.values():
        _shard(tower, device, world_size)
    return Towers(model, towers, world_size)


def full_weights(model: torch.nn.Module, rank: int = 0) -> dict[str, torch.Tensor]:
    """Return the whole weights and buffers in host memory on rank 0, by name, and nothing on other ranks.

    Every process must call it, since sharded weights are gathered from all.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank == 0:
            weights[name] = whole.detach().cpu()
    return weights


def _recompute_activations(name: TowerName, tower: Any) -> None:
    """Let a tower keep its blocks' inputs alone; OpenCLIP's, timm's and Hugging Face's towers do it themselves."""
    inner: Any = getattr(tower, "trunk", None) or getattr(tower, "transformer", None)
    # Hugging Face's name for it, by version.
    enable = getattr(inner, "activation_checkpointing_enable", getattr(inner, "gradient_checkpointing_enable", None))
    try:
        if enable is not None:
            enable({"use_reentrant": False})
            inner.config.use_cache = False  # of keys and values, which an encoder has no use for
        elif hasattr(tower, "trunk"):
            tower.trunk.set_grad_checkpointing(True)  # OpenCLIP's own method passes over a trunk that cannot
        else:
            tower.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, ValueError) as error:
        raise _cannot_recompute(name, inner or tower) from error
    flags = ("grad_checkpointing", "gradient_checkpointing")
    if not any(getattr(module, flag, False) for module in tower.modules() for flag in flags):
        raise _cannot_recompute(name, inner or tower)


def _cannot_recompute(name: TowerName, tower: object) -> ConfigError:
    return ConfigError(
        f"parallel.recompute_activations: got true, but the {name} tower ({type(tower).__name__}) cannot compute its "
        f"activations again; allowed for this model: false; lower gradcache.{name}_micro_batch to save memory"
    )


def _compile(tower: torch.nn.Module, dynamic: bool | None) -> None:
    """Compile a tower's block once for all of its blocks, or the whole tower where it has none."""
    import torch._dynamo

    blocks = _blocks(tower) or [tower]
    torch._dynamo.config.recompile_limit = COMPILED_FORMS
    # Inductor's own random numbers would differ between the passes with and without gradients, which are two graphs.
    forward = torch.compile(type(blocks[0]).forward, dynamic=dynamic, options={"fallback_random": True})
    for block in blocks:
        block.forward = MethodType(forward, block)


def _shard(tower: torch.nn.Module, device: torch.device, world_size: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size,))
    for module in (*_blocks(tower), tower):
        # The tower itself too, which FSDP would leave whole after a forward pass without a backward pass: what reads
        # the parameters next, as validation's running means do, would find other tensors than before.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(tower: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Return a tower's blocks: the longest list of modules of one class."""
    longest: Sequence[torch.nn.Module] = ()
    for module in tower.modules():
        if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module) > len(longest):
            members = list(module)
            if len({type(member) for member in members}) == 1 and next(members[0].parameters(), None) is not None:
                longest = members
    return longest


def _is_whole(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, DTensor)


def _square_sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if not tensors:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(list(tensors))).square().sum()
