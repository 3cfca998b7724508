"""Images as users have them, to whole, upright RGB pictures of 8 bits; a clear error for everything that is none.

formats.py    encoded bytes: PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PGM and PPM; DICOM by `clipmed.scans`
deep.py       colours of more than 8 bits
wholeness.py  whether a file is all there, where decoders do not look
arrays.py     NumPy arrays and tensors
batches.py    many images to batches, decoded by threads
requests.py   texts, batch sizes and queries, checked
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from PIL import Image

from clipmed.errors import ClipmedError, ConfigError, ImageError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    ImageLike: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any] | "torch.Tensor"

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_BYTES = bytes | bytearray | memoryview
_SHOWN_LETTERS = 300
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has lost the second slash


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """What an image may take of the machine, and how long it may be.

    Checked before pixels are decoded; the shape of a DICOM image after it, as its pixels may not be square.
    """

    max_pixels: int = 200_000_000
    """most pixels: a small file may state a picture that fills the memory"""
    max_bytes: int = 2_000_000_000
    """most bytes of a file"""
    max_aspect: float = 50.0
    """how many times as long as the other one a side may be: a model sees only the middle of such a strip"""

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.max_bytes < 1 or self.max_aspect < 1:
            raise ConfigError(f"limits of images: got {self}; allowed: 1 or more each")


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was left out because it cannot be used."""

    position: int
    """its place among those given, from 0"""
    image: str
    """its path, or what it is"""
    reason: str
    """why, and what would be usable"""


def open_image(image: ImageLike, limits: InputLimits | None = None, *, frame: int | None = None) -> Image.Image:
    """Return an image as RGB of 8 bits, whole and upright.

    Args:
        image: the path of a file, a file's bytes, a Pillow image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
            or a tensor (H, W), (1, H, W) or (3, H, W). uint8 as it is; bool as black and white; floats from 0 to 1;
            uint16 as a file of 16 bits.
        limits: of size and shape; those of `InputLimits()` if not given.
        frame: which frame, page or slice of a file of several, from 0. Files of several are errors without it.

    Grey and colours of more than 8 bits are stretched from their own lowest value to their highest, over all channels,
    as training data was. Of such colours in PPM and CMYK files, only the upper 8 bits are read: where they all lie
    below half of the range that the file states, that is an error. In JPEG 2000 files, and in separate planes of TIFF
    files, they are an error. Transparent parts are laid on black. The orientation of an EXIF tag is applied. A DICOM
    file is shown as a viewer does, by its own window, with annotations that are part of the pixels; the extra `dicom`
    reads it.

    Raises:
        ImageError: not one whole still image, or one above a limit.
        ConfigError: a DICOM file, and the extra `dicom` is not installed.
    """
    limits = limits or InputLimits()
    try:
        return _opened(image, limits, frame)
    except ImageError as error:
        raise ImageError(f"cannot read image {shown(image)}: {error}") from error


def shown(image: object) -> str:
    """Return what messages call an image: its path, or what it is."""
    if isinstance(image, str | Path):
        path = str(image)
        return path if len(path) <= _SHOWN_LETTERS else f"…{path[-_SHOWN_LETTERS:]}"
    if isinstance(image, _BYTES):
        return f"({len(image)} bytes)"
    if isinstance(image, Image.Image):
        return f"({image.mode} of {image.width}x{image.height})"
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    return f"({type(image).__name__})" if shape is None else f"({dtype} of shape {tuple(shape)})"


def image_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return several images as a list: of one image, of an iterable, or of a batch.

    A batch is a tensor (N, C, H, W) or an array (N, H, W, C). Of three dimensions, both are one image: grey images
    without channels are given as a list.

    Raises:
        ClipmedError: nothing that is or holds images, or no image.
    """
    import numpy as np

    one: Any = images
    if isinstance(images, str | Path | Image.Image | _BYTES):
        return [one]
    if (isinstance(images, np.ndarray) or is_tensor(images)) and one.ndim != 4:
        return [one]
    if not isinstance(images, Iterable) or isinstance(images, dict):
        raise ClipmedError(f"images: got {type(images).__name__}; allowed: one image or a list of images")
    found = list(images)
    if not found:
        raise ClipmedError("no images to embed: got an empty list or batch; give one or more")
    return found


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of PyTorch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _opened(image: ImageLike, limits: InputLimits, frame: int | None) -> Image.Image:
    import numpy as np

    from clipmed.inputs.arrays import array_image, tensor_image
    from clipmed.inputs.formats import decode, rgb_of

    if isinstance(image, str) and not image:
        raise ImageError("the path is empty; give that of a file")
    if isinstance(image, str | Path):
        return decode(_file_bytes(Path(image), limits), limits, frame, suffix=Path(image).suffix.lower())
    if isinstance(image, _BYTES):
        return decode(bytes(image), limits, frame)
    if frame is not None:
        raise ImageError(f"frame={frame} is for files and their bytes; give the frame itself")
    if isinstance(image, Image.Image):
        return rgb_of(image, limits)
    if isinstance(image, np.ndarray):
        return array_image(image, limits)
    if is_tensor(image):
        return tensor_image(image, limits)
    raise ImageError("allowed: a path, bytes, a Pillow image, a NumPy array or a tensor")


def _file_bytes(path: Path, limits: InputLimits) -> bytes:
    """Return a file's content. What is no file is not opened: a pipe might never end, and a device might act."""
    try:
        _check_file(path.stat())
        # What has become a pipe meanwhile does not block either.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            state = os.fstat(stream.fileno())
            _check_file(state)
            if state.st_size > limits.max_bytes:
                raise ImageError(f"{state.st_size} bytes; allowed: {limits.max_bytes}")
            return stream.read(limits.max_bytes)
    except (OSError, ValueError) as error:
        if isinstance(error, ClipmedError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "; URLs are not fetched: give its bytes, or a file" if _URL.match(str(path)) else ""
        raise ImageError(f"{reason[0].lower()}{reason[1:]}{hint}") from error


def _check_file(state: os.stat_result) -> None:
    if stat.S_ISREG(state.st_mode):
        return
    if stat.S_ISDIR(state.st_mode):
        raise ImageError("it is a folder; give the files in it")
    raise ImageError("it is a pipe, a socket or a device; give a file, or bytes")
