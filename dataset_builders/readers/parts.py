"""The way in: the images of a file by name, their pixels, and what to store of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np

from clipmed.images import ImageConfig, StoredImage, ingest_image, store_pixels
from clipmed.rejects import RejectReason
from clipmed.scans.config import PartPixels, Pixels, Source, WindowName, rejected
from clipmed.scans.dicom import dicom_parts, read_frame
from dataset_builders.readers.arrays import array_parts, read_row
from dataset_builders.readers.bytesources import whole
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.detection import kind_of
from dataset_builders.readers.nifti import nifti_parts, read_slice
from dataset_builders.readers.plain import is_ordinary, plain_parts, read_image
from dataset_builders.readers.shape import fitted
from dataset_builders.readers.slides import read_tile, slide_parts


def list_parts(source: Source, config: ReaderConfig) -> list[str]:
    """Return the names of the images in a file, from its headers: [""] where it is one image.

    Names are such as frame-007, page-003, axial-012, x1024-y2048-l1 or, for rows of arrays, 12; with several windows
    each name comes once a window, as axial-012-lung. Slides are also looked at for tissue, at a small scale.

    Raises:
        ItemRejectedError: the file is missing, not read, or above a limit; nothing can be taken from it.
    """
    kind = kind_of(source, config)
    if kind == "slide":
        return slide_parts(source, config)
    if kind == "dicom":
        names = dicom_parts(source, config)
    elif kind == "nifti":
        names = nifti_parts(source, config)
    elif kind == "arrays":
        names = array_parts(_path(source), config)
    else:
        names = plain_parts(source, config)
    if len(config.windows) == 1:
        return names
    return [f"{name}-{window}" if name else window for name in names for window in config.windows]


def read_part(source: Source, part: str, config: ReaderConfig) -> PartPixels:
    """Return the pixels of an image of a file, one of `list_parts`, and what the file tells of it.

    Raises:
        ItemRejectedError: with the stage `image` and the reason code.
    """
    kind = kind_of(source, config)
    if kind == "slide":
        found = read_tile(source, part, config)
    else:
        name, window = _named(part, config)
        if kind == "dicom":
            found = read_frame(source, name, window, config)
        elif kind == "nifti":
            found = read_slice(source, name, window, config)
        elif kind == "arrays":
            found = read_row(_path(source), name, window, config)
        else:
            found = read_image(source, name, window, config)
    return PartPixels(pixels=fitted(found.pixels, config), facts=found.facts)


def ingest_part(
    source: Source, part: str, config: ReaderConfig, image_config: ImageConfig
) -> tuple[StoredImage, dict[str, str]]:
    """Return an image of a file as a sample keeps it, and the facts that the file tells.

    An ordinary 8-bit image without a window or a fit of its own is `ingest_image`'s, byte for byte.

    Raises:
        ItemRejectedError: with the stage `image` and the reason code.
    """
    untouched = config.fit == "none" and config.windows == ("stored",)
    if untouched and not part and kind_of(source, config) == "image" and is_ordinary(source, config):
        return ingest_image(whole(source), image_config), {}
    found = read_part(source, part, config)
    return store_pixels(_greyed(found.pixels), image_config), found.facts


def _named(part: str, config: ReaderConfig) -> tuple[str, WindowName]:
    """Return the name of an image without its window, and the window."""
    if len(config.windows) == 1:
        return part, config.windows[0]
    name, _, last = part.rpartition("-")
    for window in get_args(WindowName):
        if last == window and window in config.windows:
            return name, window
    detail = f"no image {part!r}; the windows are: {', '.join(config.windows)}"
    raise rejected(RejectReason.MEDIA_MISSING, detail)


def _path(source: Source) -> Path:
    if isinstance(source, Path):
        return source
    raise rejected(RejectReason.IMAGE_UNSUPPORTED, "arrays are read from a path alone")


def _greyed(pixels: Pixels) -> Pixels:
    """Return the pixels without a colour axis where none of them has a colour."""
    if pixels.ndim == 3 and bool((pixels[..., :1] == pixels).all()):
        return np.ascontiguousarray(pixels[..., 0])
    return pixels
