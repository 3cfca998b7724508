"""Embeddings on disk: safetensors files that carry their own checksum, so that a damaged one is never believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.files import atomic_file

Arrays = Mapping[str, npt.NDArray[Any]]

VERSION = "v2"  # part of every key; change it with what the files hold


class CacheDamagedError(ValueError):
    """A cache file that does not hold what its checksum says; the caller computes it anew."""


def cache_key(*parts: str) -> str:
    """Return the 24 hex digits that name a cache file or folder for these inputs."""
    return hashlib.sha256("\n".join((VERSION, *parts)).encode()).hexdigest()[:24]


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays with a checksum, atomically; the checksum tells what a machine without power left behind."""
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_file(path, durable=False) as temporary:
        save_file(whole, temporary, metadata={"sha256": _checksum(whole)})


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a cache file, or None where there is none.

    Raises:
        CacheDamagedError: the file is no safetensors file, or its content does not match its checksum.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
            expected = (stored.metadata() or {}).get("sha256")
    except (SafetensorError, ValueError, OSError) as error:
        raise CacheDamagedError(f"{path}: {error}") from error
    if expected != _checksum(arrays):
        raise CacheDamagedError(f"{path}: the content does not match its checksum")
    return arrays


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
