"""The tensors of a run: copied to host memory to be written, and put back from what was written.

Weights, optimiser states and averaged weights are named alike in every format: `NAME` for a weight or buffer,
`STATE/NAME` for what the optimiser keeps of a parameter, `ema/NAME` for a running mean. A tensor that FSDP2 has
divided over processes is either gathered, or copied as the part that this process has, with the place of its first
element. torch.distributed.checkpoint reads both, into any division over any number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from clipmed.errors import CheckpointError

Form = Literal["whole", "sharded"]
EMA_PREFIX = "ema/"
# What torch.compile and activation checkpointing put into the names of the modules they wrap.
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """What training changes: the model, its optimiser (torch's or accelerate's), and running means of weights."""

    model: torch.nn.Module
    optimizer: Any = None
    ema: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Host copies of what this process writes. `offsets` are None where tensors are whole.

    `groups` has the tensors of each file by name; `num_bytes` counts those of all processes together.
    """

    groups: dict[str, dict[str, torch.Tensor]]
    offsets: dict[str, tuple[int, ...]] | None
    num_bytes: int


def take_snapshot(state: TrainState, form: Form, rank: int) -> Snapshot:
    """Copy the state to host memory; every process calls this, since gathering takes all of them.

    A whole snapshot is that of rank 0, and empty elsewhere.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {}
    offsets: dict[str, tuple[int, ...]] = {}
    num_bytes = 0
    for group, tensors in _groups(state).items():
        groups[group] = {}
        for name, tensor in tensors.items():
            num_bytes += tensor.numel() * tensor.element_size()
            part = _own_part(tensor, form, rank)
            if part is not None:
                groups[group][name], offsets[name] = _to_host(part[0]), part[1]
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # copies from the device are in flight until here
    return Snapshot(groups=groups, offsets=offsets if form == "sharded" else None, num_bytes=num_bytes)


def put_back(folder: Path, state: TrainState) -> None:
    """Read a checkpoint's files into the model, the optimiser (where given) and the running means (where given).

    Each process reads what it has a part of, from files of either form; the processes do not wait for each other.

    Raises:
        CheckpointError: where names or shapes are not those of the model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    stored: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    weights = _weights(state.model)
    means = {EMA_PREFIX + name: tensor for name, tensor in state.ema.items()}
    _check_names(folder, stored, weights | means)
    targets: dict[str, Any] = weights | means
    states: dict[int, dict[str, torch.Tensor]] = {}
    if state.optimizer is not None:
        states = _empty_states(folder, stored, state)
        names = _names_in_order(state.model, _unwrapped(state.optimizer))
        targets |= {f"{what}/{names[number]}": tensor for number in states for what, tensor in states[number].items()}
    with warnings.catch_warnings():
        # It says that the processes read independently, as they should.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(targets, storage_reader=reader, no_dist=True)
    if state.optimizer is not None:
        optimizer = _unwrapped(state.optimizer)
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _groups(state: TrainState) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": _weights(state.model),
        "optimizer": {} if state.optimizer is None else _optimizer_tensors(state.model, _unwrapped(state.optimizer)),
        "ema": {EMA_PREFIX + name: tensor for name, tensor in state.ema.items()},
    }


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers by name, as they lie in the model: what is copied into them is in the model."""
    return {_plain(name): tensor for name, tensor in model.state_dict().items()}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    parameters = dict(zip(_names_in_order(model, optimizer), _parameters(optimizer), strict=True))
    return {
        f"{what}/{name}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def _names_in_order(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Parameter names in the order of the optimiser's own numbering."""
    names = {id(parameter): _plain(name) for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in _parameters(optimizer)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _unwrapped(optimizer: Any) -> Any:
    """torch's optimiser, where accelerate's wraps it."""
    return getattr(optimizer, "optimizer", optimizer)


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _own_part(tensor: torch.Tensor, form: Form, rank: int) -> tuple[torch.Tensor, tuple[int, ...]] | None:
    """What this process writes of a tensor, with the index of its first element; None where it writes nothing.

    What every process has whole is written by rank 0, and of equal parts the first.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor) and form == "sharded":
        return _division(tensor)
    # Gathering takes every process, those that keep nothing of it too.
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return (whole, (0,) * whole.ndim) if rank == 0 else None


def _division(tensor: Any) -> tuple[torch.Tensor, tuple[int, ...]] | None:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh = tensor.device_mesh
    place = mesh.get_coordinate() or ()
    is_copy = any(placement.is_replicate() and at > 0 for placement, at in zip(tensor.placements, place, strict=True))
    part = tensor.to_local()
    if is_copy or part.numel() == 0:
        return None
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, mesh, tensor.placements)
    return part, tuple(offsets)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy in host memory (pinned, and possibly still in flight, where it comes from a GPU)."""
    return tensor.detach().contiguous().to("cpu", non_blocking=True, copy=True)


def _check_names(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> None:
    missing = sorted(wanted.keys() - stored.keys())
    unknown = sorted(name for name in stored.keys() - wanted.keys() if "/" not in name)
    other = sorted(name for name, tensor in wanted.items() if name in stored and stored[name].size != tensor.shape)
    for names, what in ((missing, "lacks"), (unknown, "has, unlike the model,"), (other, "has in another shape")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{folder} {what} {names[0]}{more}; it was written by a run with another model or other settings of "
                "optim: go on with the config.yaml of that run"
            )


def _empty_states(folder: Path, stored: Mapping[str, Any], state: TrainState) -> dict[int, dict[str, torch.Tensor]]:
    """Room for what the optimiser had kept, by its own numbering of parameters, divided as the parameters are."""
    optimizer = _unwrapped(state.optimizer)
    numbers = {name: number for number, name in enumerate(_names_in_order(state.model, optimizer))}
    parameters = _parameters(optimizer)
    states: dict[int, dict[str, torch.Tensor]] = {}
    for full_name, info in stored.items():
        what, slash, name = full_name.partition("/")
        if not slash or full_name.startswith(EMA_PREFIX):
            continue
        if name not in numbers:
            raise CheckpointError(f"{folder} has {full_name}, but the optimiser has no parameter {name}")
        parameter = parameters[numbers[name]].detach()
        alike = parameter.ndim > 0 and info.size == parameter.shape
        dtype = info.properties.dtype
        room = torch.empty_like(parameter, dtype=dtype) if alike else torch.empty(info.size, dtype=dtype)
        states.setdefault(numbers[name], {})[what] = room
    return states
