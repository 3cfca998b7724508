"""Settings that several commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clipmed.devices import DType
from clipmed.errors import ConfigError

CHECKPOINT_VARIABLE = "CLIPMED_CHECKPOINT"
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".pgm", ".ppm"),
    *(".dcm", ".dicom", ".ima"),
)
Images = Annotated[tuple[str, ...], tyro.conf.Positional]


def _checkpoint() -> str:
    return os.environ.get(CHECKPOINT_VARIABLE, "")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint, and where it runs."""

    checkpoint: str = field(default_factory=_checkpoint)
    """folder, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or a folder's URL; $CLIPMED_CHECKPOINT if not given"""
    device: str = "auto"
    """where to run: auto (a GPU where there is one), cpu, cuda, cuda:1, mps"""
    dtype: DType = "float32"
    """numbers to compute in: float32, bfloat16 or float16"""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError(
                "checkpoint: got none; give --checkpoint with a folder, hf-hub:org/name, MODEL:TAG or URL, or set "
                f"{CHECKPOINT_VARIABLE}"
            )


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How many images are read."""

    batch_size: int = 64
    """images that the model takes at a time; results do not depend on it"""
    on_error: Literal["stop", "skip"] = "stop"
    """what to do with an image that cannot be used: stop there, or go on, list it with its reason, and exit with
    status 1"""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: got {self.batch_size}; allowed: 1 or more")


def image_files(patterns: Sequence[str | Path]) -> list[Path]:
    """Return the image files of files, folders (searched to any depth) and globs: each once, a folder's own sorted.

    Raises:
        ConfigError: a path that is not there, or no image at all.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        files |= dict.fromkeys(_expanded(str(pattern)))
    if not files:
        shown = ", ".join(map(str, patterns)) or "nothing"
        raise ConfigError(f"no images in {shown}; allowed endings in a folder: {' '.join(IMAGE_SUFFIXES)}")
    return list(files)


def _expanded(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file())
    if path.exists():
        return [path]
    if not any(letter in pattern for letter in "*?["):
        raise ConfigError(f"no image at {pattern}; give image files, folders of them, or a glob in quotes")
    folder = Path(path.anchor)
    return sorted(entry for entry in folder.glob(str(path.relative_to(path.anchor))) if entry.is_file())
