"""Tensors onto disk: synced, with their digest, and patient with a file system that hiccups."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from clipmed.files import sha256_file, sync

Result = TypeVar("Result")

# What a network file system says when a server is slow or has been restarted.
TRANSIENT_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT})
# What it says when there is no room, or none for this user.
FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
RETRY_DELAYS_S = (1.0, 5.0, 25.0)
# Where torch's distributed checkpoint looks for the place of each part in its whole tensor.
OFFSETS_KEY = "DCP_SHARDING_INFO"


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], offsets: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Write a safetensors file to disk for good and return its SHA-256.

    Args:
        path: the file, replaced where there is one.
        tensors: contiguous host tensors by name.
        offsets: where the tensors are parts of larger ones, the index of each one's first element in its whole,
            one number a dimension; written as torch.distributed.checkpoint's HuggingFaceStorageReader expects it.

    Raises:
        OSError: with the system's error number.
    """
    metadata = None
    if offsets is not None:
        places = {name: {"saved_offsets": list(offsets[name])} for name in tensors}
        metadata = {OFFSETS_KEY: json.dumps(places, sort_keys=True)}
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise _system_error(error, path) from error
    sync(path)
    return sha256_file(path)


def retried(
    action: Callable[[], Result],
    delays_s: Sequence[float] = RETRY_DELAYS_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Return `action()`, called again after each delay while it meets an error that passes on a network file system."""
    for delay_s in delays_s:
        try:
            return action()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                raise
            sleep(delay_s)
    return action()


def _system_error(error: SafetensorError, path: Path) -> Exception:
    """The system's error that safetensors, written in Rust, puts into words; its own where it is another."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error
