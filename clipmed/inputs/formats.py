"""Encoded images to pictures: the formats that are read, and what makes a file of them not one whole still image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clipmed.decoding import strict_decoders
from clipmed.errors import ClipmedError, FramesError, ImageError, ItemRejectedError
from clipmed.images import decode_jpeg, to_rgb8
from clipmed.inputs.deep import colours_of, is_deep
from clipmed.inputs.wholeness import PNG_MAGIC, check_whole
from clipmed.jpeg2000 import J2K_MAGIC, JP2_MAGIC

if TYPE_CHECKING:
    from clipmed.inputs import InputLimits

ALLOWED = "PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PGM, PPM and DICOM"
# How files of a format start, and what reads them. A JPEG with further pictures behind it (MPO) is its first one.
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (PNG_MAGIC, PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    *((magic, TiffImagePlugin.TiffImageFile) for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (J2K_MAGIC, Jpeg2KImagePlugin.Jpeg2KImageFile),
    (JP2_MAGIC, Jpeg2KImagePlugin.Jpeg2KImageFile),
    *((b"P%d" % number, PpmImagePlugin.PpmImageFile) for number in (4, 5, 6)),
)
# What else lies in folders of images.
_OTHERS = (
    (b"%PDF", "a PDF file; render its page first"),
    (b"%!PS", "a PostScript file; render it first"),
    (b"\x5c\x01\0\0", "a NIfTI volume; give a slice of it as an array"),
    (b"\x1f\x8b", "a gzip file, perhaps a NIfTI volume; give a slice of it as an array"),
    (b"PK\x03\x04", "a zip file; unpack it first"),
    (b"\x93NUMPY", "a NumPy file; load it and give the array"),
    (b"<", "text, perhaps a page of HTML or SVG; fetch the image itself"),
)
_BITS, _PHOTOMETRIC, _SAMPLES = 258, 262, 339  # TIFF tags: bits, which value is white, and what kind of numbers
_UNSIGNED = 1


def decode(raw: bytes, limits: InputLimits, frame: int | None, suffix: str = "") -> Image.Image:
    """Return the picture of a file's bytes; see `clipmed.inputs.open_image`.

    Raises:
        ImageError: not one whole still image, or one above a limit.
    """
    from clipmed.inputs import DICOM_SUFFIXES

    if not raw:
        raise ImageError("0 bytes; the file is empty")
    if len(raw) > limits.max_bytes:
        raise ImageError(f"{len(raw)} bytes; allowed: {limits.max_bytes}")
    reader = next((reader for magic, reader in _READERS if raw.startswith(magic)), None)
    if raw[128:132] == b"DICM" or (reader is None and suffix in DICOM_SUFFIXES):
        return _dicom(raw, limits, frame)
    if reader is None:
        raise ImageError(next((what for magic, what in _OTHERS if raw.startswith(magic)), _unknown(raw)))
    with _judged():
        check_whole(raw)
        image = _opened(reader, raw, limits, frame)
        if is_deep(image):
            return colours_of(image, _opened(reader, raw, limits, frame))
        return _upright_rgb(_jpeg(raw, image) if isinstance(image, JpegImagePlugin.JpegImageFile) else image)


def _opened(
    reader: type[ImageFile.ImageFile], raw: bytes, limits: InputLimits, frame: int | None
) -> ImageFile.ImageFile:
    image = reader(io.BytesIO(raw))
    check_size(*image.size, limits)
    _choose(image, frame)
    check_size(*image.size, limits)
    return image


def rgb_of(image: Image.Image, limits: InputLimits) -> Image.Image:
    """Return a Pillow image as upright RGB of 8 bits; the image given is not changed.

    Raises:
        ImageError: pixels that do not decode, a file of several frames, or a limit exceeded.
    """
    check_size(*image.size, limits)
    with _judged():
        count = int(getattr(image, "n_frames", 1))
        if count > 1 and image.format != "MPO":
            raise ImageError(f"it has {count} frames or pages; choose one: image.seek(0), and give image.copy()")
        if is_deep(image):
            raise ImageError("Pillow keeps 8 bits of its colours, which have more; give the file's path or its bytes")
        return _upright_rgb(image)


def check_size(width: int, height: int, limits: InputLimits) -> None:
    """Raise ImageError where an image has no pixels, too many of them, or a side far longer than the other."""
    if width < 1 or height < 1:
        raise ImageError(f"{width}x{height}: it has no pixels")
    if width * height > limits.max_pixels:
        raise ImageError(f"{width}x{height} pixels; allowed: {limits.max_pixels}, before decoding it")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ImageError(f"{width}x{height}; allowed: sides up to {limits.max_aspect:g} to 1; cut a part out of it")


@contextmanager
def _judged() -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError, and keep its warnings quiet."""
    try:
        with strict_decoders():
            yield
    except ClipmedError as error:
        if isinstance(error, ItemRejectedError):
            raise ImageError(error.detail) from error
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"it does not decode: {said}; give a whole file of {ALLOWED}") from error


def _jpeg(raw: bytes, image: JpegImagePlugin.JpegImageFile) -> Image.Image:
    """Return a JPEG as libjpeg decodes it with its own checks: Pillow fills up what is damaged."""
    colours = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}.get(image.mode)
    pixels = decode_jpeg(raw, colours, image.size) if colours else None
    if pixels is None or image.mode == "CMYK":  # whose inks Adobe's files invert, which Pillow knows
        return image
    decoded = Image.fromarray(pixels)
    decoded.info = {name: value for name, value in image.info.items() if name == "exif"}
    return decoded


def is_known(raw: bytes) -> bool:
    """Whether bytes begin as a file of a format that is read; it may be damaged still."""
    return raw[128:132] == b"DICM" or any(raw.startswith(magic) for magic, _ in _READERS)


def _choose(image: ImageFile.ImageFile, frame: int | None) -> None:
    count = int(getattr(image, "n_frames", 1))
    if frame is None:
        if count > 1:
            raise FramesError(count)
        return
    if not 0 <= frame < count:
        raise ImageError(f"no frame {frame}; it has {count}, from 0")
    image.seek(frame)


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ImageError("it has NaN or infinite values; replace them first")
    if _is_unsigned(image) and int(np.asarray(image).min()) < 0:
        raise ImageError("it has values of 32 bits above 2147483647; map them to 16 bits first")
    rgb = to_rgb8(ImageOps.exif_transpose(image))
    return ImageOps.invert(rgb) if _is_white_zero(image) else rgb


def _is_unsigned(image: Image.Image) -> bool:
    """Whether an image is a TIFF of whole numbers of 32 bits without sign: Pillow reads them as if they had one."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode != "I":
        return False
    kinds = image.tag_v2.get(_SAMPLES, (_UNSIGNED,))
    return bool(kinds == (_UNSIGNED,) and image.tag_v2.get(_BITS) == (32,))


def _is_white_zero(image: Image.Image) -> bool:
    """Whether an image is a deep TIFF whose lowest value is white: Pillow turns over those of 8 bits alone."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode[0] not in "IF":
        return False
    return bool(image.tag_v2.get(_PHOTOMETRIC) == 0)


def _dicom(raw: bytes, limits: InputLimits, frame: int | None) -> Image.Image:
    from clipmed.scans.config import ScanConfig
    from clipmed.scans.dicom import DicomFile

    config = ScanConfig(
        max_pixels=limits.max_pixels, min_foreground=0.0, burned_in="keep", max_volume_mb=limits.max_pixels * 24 / 1e6
    )
    with _judged():
        file = DicomFile(raw)
        if file.num_frames > 1 and frame is None:
            raise FramesError(file.num_frames)
        pixels = file.frame(frame or 0, "stored", config).pixels
        check_size(pixels.shape[1], pixels.shape[0], limits)  # as shown, with square pixels
        return to_rgb8(Image.fromarray(pixels))


def _unknown(raw: bytes) -> str:
    return f"{len(raw)} bytes that are no image; allowed: {ALLOWED}"
