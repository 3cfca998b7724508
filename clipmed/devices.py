"""Where a model runs, and in which numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from clipmed.errors import ConfigError

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]
AUTO = "auto"


def resolve_device(name: str | torch.device = AUTO) -> torch.device:
    """Return the device of a name: auto is the first CUDA GPU, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine or this PyTorch does not have.
    """
    import torch

    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device: got {name!r}; allowed: auto, cpu, cuda, cuda:1, mps") from error
    if device.type == "cpu":
        return device
    count = _count(device.type)
    if (device.index or 0) >= count:
        found = f"{count} of that type" if count else f"none of that type (PyTorch {torch.__version__})"
        raise ConfigError(f"device: {str(device)!r} is not there: got {found}; use one that is, or auto, or cpu")
    return device


def check_dtype(dtype: str) -> None:
    """Raise ConfigError unless `dtype` is one that embeddings are computed in."""
    if dtype not in get_args(DType):
        raise ConfigError(f"dtype: got {dtype!r}; allowed: {', '.join(get_args(DType))}")


@contextmanager
def compiler_errors(compiled: bool) -> Iterator[None]:
    """Say what to do where PyTorch's compiler fails, which it does when the first batch is there."""
    try:
        yield
    except Exception as error:
        if not compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        said = " ".join(str(error).split()).partition(" Set TORCH")[0][:300]
        raise ConfigError(
            f"compile: PyTorch cannot compile this model here: {said}; it needs a C++ compiler on the CPU and Triton "
            "on a GPU; load the model with compile=False"
        ) from error


def _count(kind: str) -> int:
    """Return how many devices of a type can be used."""
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and hasattr(module, "device_count") else 0
