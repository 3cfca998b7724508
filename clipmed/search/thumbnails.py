"""Small JPEGs that an index keeps of its images, so that what shows them need not read the images' paths."""

from __future__ import annotations

import io

from PIL import Image

from clipmed.errors import DataError

SIDE, QUALITY = 128, 80


def thumbnail(image: Image.Image) -> bytes:
    """Return an RGB image as a JPEG of up to 128 pixels a side, without metadata."""
    small = image.copy() if max(image.size) <= SIDE else image.resize(_fitted(*image.size), reducing_gap=2.0)
    small.info = {}  # a comment in the source would be copied
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def checked(jpeg: bytes, where: str) -> bytes:
    """Return the bytes again if they are a JPEG of up to 128 pixels a side.

    Raises:
        DataError: they are something else.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            size = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the thumbnail of {where} is no JPEG: {error}; build the index anew") from error
    if max(size) > SIDE:
        raise DataError(f"the thumbnail of {where} has {size[0]}x{size[1]} pixels; allowed: {SIDE}; build it anew")
    return jpeg


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
