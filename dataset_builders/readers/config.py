"""How the images in a source's files are read: windows, slices, tiles, fit and limits, as data of a catalogue entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipmed.errors import ConfigError
from clipmed.scans.config import ScanConfig, WindowName

Kind = Literal["auto", "image", "dicom", "nifti", "slide", "arrays"]
FileKind = Literal["image", "dicom", "nifti", "slide", "arrays"]
Axis = Literal["axial", "coronal", "sagittal", 0, 1, 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig(ScanConfig):
    """How the images of a file are read. Settings that a file's kind does not know are without effect on it."""

    kind: Kind = "auto"
    """what the files are; auto: by their content"""
    windows: tuple[WindowName, ...] = ("stored",)
    """which values become black and white. stored: the file's own window (DICOM, NIfTI; percentile where deep ones
    have none; range for other deep images); range: lowest and highest value; percentile; custom: center and width; or
    a window in Hounsfield units. Several give several images each. 8-bit images with one window `stored` are taken as
    they are"""
    axis: Axis = "axial"
    """volumes: how slices lie, by the file's orientation; or 0, 1, 2: the axis as stored. Arrays: 0, 1 or 2, and the
    names mean 0"""
    channel: int = 0
    """volumes with a fourth dimension: which volume is taken"""
    array: str = ""
    """arrays: name of the array with the images; npy files have one, without a name"""
    tile_size: int = 512
    """slides: side of a tile, in pixels"""
    microns_per_pixel: float | None = None
    """slides: the scale of tiles, such as 0.5 for 20x; that of the finest level if not given"""
    min_tissue: float = 0.5
    """slides: smallest share of a tile that is tissue, from 0 to 1"""
    max_tiles: int | None = 256
    """slides: at most as many tiles of a slide, drawn by the hash of their place"""
    fit: Literal["none", "letterbox", "crop"] = "none"
    """how images become square: not at all, by black bars, or by their middle"""

    def __post_init__(self) -> None:
        ScanConfig.__post_init__(self)  # super() does not follow a slotted dataclass, which its decorator makes anew
        if not self.windows or len(set(self.windows)) != len(self.windows):
            raise ConfigError(f"windows: got {self.windows}; allowed: one or more, each once")
        if "custom" in self.windows and self.width <= 0:
            raise ConfigError(f"width: got {self.width}; allowed: above 0 with the window custom, beside center")
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"min_tissue: got {self.min_tissue}; allowed: 0 to 1")
        if self.microns_per_pixel is not None and self.microns_per_pixel <= 0:
            raise ConfigError(f"microns_per_pixel: got {self.microns_per_pixel}; allowed: above 0")
        self._check_counts()

    def _check_counts(self) -> None:
        if self.channel < 0:
            raise ConfigError(f"channel: got {self.channel}; allowed: 0 or more")
        for name in ("max_tiles", "tile_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: got {value}; allowed: 1 or more")
