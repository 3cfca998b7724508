"""How frames of medical image files are read: windows, which frames, limits; and what a reader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage

Source = Path | bytes  # a file, or its whole content
WindowName = Literal["stored", "range", "percentile", "custom", "lung", "soft_tissue", "bone", "brain"]
Pixels = npt.NDArray[np.uint8]

# Centre and width in Hounsfield units, as radiologists set them.
HOUNSFIELD_WINDOWS: Mapping[str, tuple[float, float]] = {
    "lung": (-600.0, 1500.0),
    "soft_tissue": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """Which frames of a file are taken, how their values become levels, and what is too large."""

    percentiles: tuple[float, float] = (0.5, 99.5)
    """percentile: the percentages of the values below which all is black, and above which all is white"""
    center: float = 0.0
    """custom: the value in the middle"""
    width: float = 0.0
    """custom: the distance from black to white"""
    every: int = 1
    """slices and frames: take every n-th"""
    skip_border: float = 0.0
    """slices and frames: share of them left out at each end, from 0 to below 0.5"""
    max_parts: int | None = None
    """slices and frames: at most as many of a file, evenly spread"""
    min_foreground: float = 0.02
    """slices and frames: reject those with a smaller share of pixels above a twentieth of the window"""
    square_pixels: bool = True
    """slices and frames: stretch images whose pixels are not square, as the file states their size"""
    burned_in: Literal["reject", "keep"] = "reject"
    """DICOM: what to do with images that say that annotations, perhaps of the patient, are part of the pixels"""
    max_pixels: int = 200_000_000
    """reject images with more pixels than this before decoding them"""
    max_frames: int = 100_000
    """reject files with more slices, frames or pages than this"""
    max_volume_mb: float = 4096.0
    """reject volumes and arrays that would take more memory than this, in MB"""

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"percentiles: got {low}, {high}; allowed: 0 <= low < high <= 100")
        if not 0 <= self.skip_border < 0.5:
            raise ConfigError(f"skip_border: got {self.skip_border}; allowed: 0 to below 0.5")
        if not 0 <= self.min_foreground <= 1:
            raise ConfigError(f"min_foreground: got {self.min_foreground}; allowed: 0 to 1")
        for name in ("every", "max_parts", "max_pixels", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: got {value}; allowed: 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPixels:
    """One image of a file."""

    pixels: Pixels
    """(H, W), or (H, W, 3) as RGB"""
    facts: dict[str, str] = field(default_factory=dict)
    """what the file tells of it in closed vocabularies: modality, view, body_part, each only where it is known"""


def rejected(reason: RejectReason, detail: str) -> ItemRejectedError:
    """Return the error that rejects an image. Details never quote what a file says: it may name a patient."""
    return ItemRejectedError(Stage.IMAGE, reason, detail)


def chosen(count: int, config: ScanConfig) -> list[int]:
    """Return the numbers of the slices or frames to take, of `count` that the file has, in rising order.

    Raises:
        ItemRejectedError: more than `max_frames`.
    """
    if count > config.max_frames:
        raise rejected(RejectReason.IMAGE_TOO_LARGE, f"{count} slices; allowed: {config.max_frames}")
    border = int(count * config.skip_border)
    numbers = list(range(border, count - border, config.every))
    if config.max_parts is None or len(numbers) <= config.max_parts:
        return numbers
    step = len(numbers) / config.max_parts
    return [numbers[int((place + 0.5) * step)] for place in range(config.max_parts)]


def check_pixels(width: int, height: int, config: ScanConfig) -> None:
    """Raise ItemRejectedError where an image has no pixels, or more than are decoded."""
    if width < 1 or height < 1:
        raise rejected(RejectReason.IMAGE_CORRUPT, f"{width}x{height} pixels")
    if width * height > config.max_pixels:
        raise rejected(RejectReason.IMAGE_TOO_LARGE, f"{width}x{height} pixels; allowed: {config.max_pixels}")


def check_memory(values: int, bytes_each: int, config: ScanConfig) -> None:
    """Raise ItemRejectedError where that many values would take more memory than allowed."""
    megabytes = values * bytes_each / 1e6
    if megabytes > config.max_volume_mb:
        detail = f"{megabytes:.0f} MB of values; allowed: {config.max_volume_mb:g} MB"
        raise rejected(RejectReason.IMAGE_TOO_LARGE, detail)
