"""Pictures of requests: opened within limits, told by their content, and shown as JPEG."""

from __future__ import annotations

import io

from PIL import Image

from clipmed.errors import FramesError, ImageError
from clipmed.inputs import InputLimits, open_image
from clipmed.inputs.formats import is_known
from clipmed.serve.limits import Limits, RefusedError

PREVIEW_SIDE = 1024
_QUALITY = 85


def open_picture(image: bytes, limits: Limits, frame: int | None = None) -> Image.Image:
    """Return an encoded image as RGB, or one frame of it.

    Raises:
        RefusedError: 415 it is not of a format that is read, whatever its name and type said; 422 it is damaged, of
            several frames of which none was chosen, or too large when decoded.
    """
    try:
        return open_image(image, InputLimits(max_pixels=limits.pixels, max_bytes=limits.upload_bytes), frame=frame)
    except ImageError as error:
        if isinstance(error.__cause__, FramesError):
            count = error.__cause__.num_frames
            several = f"the image has {count} frames or pages; choose one by the field frame, from 0 to {count - 1}"
            raise RefusedError(422, several, num_frames=count) from error
        raise RefusedError(
            422 if is_known(image) or not image else 415, f"image: {error.__cause__ or error}"
        ) from error


def preview_jpeg(image: Image.Image) -> bytes:
    """Return an RGB image as JPEG without metadata, scaled down to a long side of at most `PREVIEW_SIDE`."""
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    small.info = {}
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
