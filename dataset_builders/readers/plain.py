"""Ordinary image files. What is deep, or has pages, is read here; the rest is `clipmed.images.ingest_image`'s."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmed.images import ImageConfig, SourceImage
from clipmed.rejects import RejectReason
from clipmed.scans.config import PartPixels, Source, WindowName, chosen, rejected
from clipmed.scans.intensity import check_foreground, limits, to_levels
from dataset_builders.readers.bytesources import TIFF_MAGIC, first_bytes, whole
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.tiff import TiffPages

_PNG, _DEEP = b"\x89PNG\r\n\x1a\n", b"\x10"  # the byte behind width and height is the depth of a channel


def plain_parts(source: Source, config: ReaderConfig) -> list[str]:
    """Return the names of the images: the empty name, or such as page-003 for the pages of a TIFF file."""
    if not first_bytes(source, 4).startswith(TIFF_MAGIC):
        return [""]
    with TiffPages(source, config) as pages:
        count = len(pages)
    return [""] if count == 1 else [f"page-{number:03d}" for number in chosen(count, config)]


def is_ordinary(source: Source, config: ReaderConfig) -> bool:
    """Whether `ingest_image` reads the file as it should be: no colours above 8 bits, no deep TIFF, no pages."""
    start = first_bytes(source, 26)
    if start.startswith(TIFF_MAGIC):
        with TiffPages(source, config) as pages:
            return pages.ordinary
    return not _is_deep_png(start)


def read_image(source: Source, part: str, window: WindowName, config: ReaderConfig) -> PartPixels:
    """Return the image, or a page: 8-bit images as they are with the window `stored`, deep ones by their range.

    Raises:
        ItemRejectedError: no such page, a form that is not read, or a page of several with too little content.
    """
    start = first_bytes(source, 26)
    if start.startswith(TIFF_MAGIC):
        with TiffPages(source, config) as pages:
            if not pages.ordinary:
                values = pages.read(int(part.rpartition("-")[2] or 0))
                return _shown(values, window, config, paged=len(pages) > 1)
    raw = whole(source)
    limit = ImageConfig(min_side=1, max_side=config.max_pixels, max_aspect=1e9, max_pixels=config.max_pixels)
    pixels: npt.NDArray[Any] = SourceImage(raw, limit).pixels()
    return _shown(_deep_png(raw) if _is_deep_png(start) else pixels, window, config, paged=False)


def _shown(values: npt.NDArray[Any], window: WindowName, config: ReaderConfig, *, paged: bool) -> PartPixels:
    levels = values
    if window != "stored" or values.dtype != np.uint8:
        levels = to_levels(values, *limits(values, "range" if window == "stored" else window, config))
    if paged:
        check_foreground(levels, config)
    return PartPixels(pixels=np.asarray(levels, np.uint8))


def _is_deep_png(start: bytes) -> bool:
    return start.startswith(_PNG) and start[24:25] == _DEEP


def _deep_png(raw: bytes) -> npt.NDArray[Any]:
    """Return the values of a 16-bit PNG that Pillow decodes: (H, W), or (H, W, 3) on black where transparent."""
    import cv2

    image = Image.open(io.BytesIO(raw))
    if image.mode.startswith("I"):
        return np.asarray(image)
    values = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow keeps 8 bits of colours
    if values is None:
        raise rejected(RejectReason.IMAGE_CORRUPT, "a 16-bit PNG that does not decode")
    if values.ndim == 2:
        return np.asarray(values)
    colours = values[..., 2::-1]
    if values.shape[2] == 4:
        colours = np.rint(colours * (values[..., 3:] / 65535.0)).astype(np.uint16)
    return np.ascontiguousarray(colours)
