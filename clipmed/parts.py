"""Parts of long work: what a killed run has finished, in files that tell by themselves whether they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clipmed.files import atomic_file

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


def write(path: Path, arrays: Arrays, texts: Mapping[str, str]) -> None:
    """Write arrays and texts atomically as safetensors, the texts and a checksum of it all as its metadata."""
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_file(path, durable=False) as temporary:  # the checksum tells what a loss of power left behind
        save_file(whole, temporary, metadata={**texts, "sha256": _checksum(whole, texts)})


def read(path: Path) -> tuple[Arrays, Mapping[str, str]] | None:
    """Return the arrays and texts of a part, or None where there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
            texts = stored.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None
    return (arrays, texts) if texts.pop("sha256", "") == _checksum(arrays, texts) else None


def _checksum(arrays: Arrays, texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape};".encode())
        digest.update(arrays[name].tobytes())
    for name in sorted(texts):
        digest.update(f"{name}:{texts[name]};".encode())
    return digest.hexdigest()
