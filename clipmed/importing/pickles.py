"""Weights out of pickles, without running what else is in them.

PyTorch's restricted unpickler (`weights_only`) builds tensors and plain containers and refuses every other name.
Besides, only NumPy's scalars are let in: trainers leave learning rates and losses as such beside the weights. A file
that asks for anything else, such as a function of the operating system, is refused with that name, before it is called.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# What trainers call the weights in what they save.
INNER_NAMES = ("state_dict", "model_state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel and compiled models

_REFUSED_NAME = re.compile(r"(?:Unsupported (?:global|class|operand|type)[^\n]*?GLOBAL |Unsupported class )([\w.]+)")


def read_pickled_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickled state dict by name, wrappers' prefixes removed.

    Raises:
        CheckpointError: not a file of PyTorch, one that asks for more than tensors, or one without a state dict.
    """
    return inner_state(_load(path), path)


def inner_state(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of what a file holds: itself, or what trainers call `state_dict`.

    Raises:
        CheckpointError: there is none.
    """
    import torch

    state = loaded
    if isinstance(loaded, Mapping):
        name = next((name for name in INNER_NAMES if isinstance(loaded.get(name), Mapping)), None)
        state = loaded if name is None else loaded[name]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds {type(loaded).__name__}; allowed: a state dict, or a dict with one")
    others = sorted(str(name) for name, value in state.items() if not isinstance(value, torch.Tensor))
    if others:
        raise CheckpointError(
            f"{path}: {len(others)} entries are no tensors: {others[:3]}; allowed: a state dict, or a dict with one "
            f"under {', '.join(INNER_NAMES)}"
        )
    return _unwrapped({str(name): tensor for name, tensor in state.items()})


def _load(path: Path) -> Any:
    import torch

    zipped = path.is_file() and zipfile.is_zipfile(path)
    if zipped and _is_script(path):
        raise CheckpointError(f"{path} is a TorchScript archive, which holds code; ask its authors for a state dict")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except Exception as error:
        said = str(error)
        refused = _REFUSED_NAME.search(said)
        if refused:
            raise CheckpointError(
                f"{path} asks for {refused[1]}, which is no tensor: it is not loaded, since that could run code; "
                "allowed: tensors, containers and NumPy scalars. Ask its authors for a state dict"
            ) from error
        raise CheckpointError(
            f"{path} is not a file of weights that PyTorch reads without running code "
            f"({type(error).__name__}: {' '.join(said.split())[:200]}); a TorchScript archive or a whole pickled model "
            "is none: ask its authors for a state dict"
        ) from error


def _is_script(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _numpy_scalars() -> list[Any]:
    """Return what a pickled NumPy number asks for, under its names in NumPy 1 and 2."""
    import numpy as np
    from numpy._core import multiarray

    numbers = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    kinds = [type(np.dtype(number)) for number in numbers]
    scalar: Any = multiarray.scalar
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


def _unwrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
