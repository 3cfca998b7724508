"""Image bytes from anywhere to the JPEG that a sample keeps: checked, measured, re-encoded at most once."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage

ArrayHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image must be to become a sample, and how it is stored."""

    max_side: int = 1024
    """longest side kept, in pixels; larger images are scaled down once"""
    jpeg_quality: int = 92
    """JPEG quality of images that are not stored as they came"""
    min_side: int = 32
    """reject images with a side shorter than this, in pixels"""
    max_aspect: float = 8.0
    """reject images whose long side is more than this many times the short one"""
    max_pixels: int = 200_000_000
    """reject images with more pixels than this before decoding them (decompression bombs)"""

    def __post_init__(self) -> None:
        if self.min_side < 1 or self.max_side < self.min_side:
            raise ConfigError(
                f"image sides: got min_side={self.min_side}, max_side={self.max_side}; allowed: 1 <= min <= max"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality: got {self.jpeg_quality}; allowed: 1 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image as a sample keeps it. `phash` is the 64-bit DCT hash of the `imagehash` library, in hex."""

    jpeg: bytes = field(repr=False)
    width: int
    height: int
    sha256: str
    phash: str


def ingest_image(raw: bytes, config: ImageConfig) -> StoredImage:
    """Check an image of a source and return it as the JPEG to store.

    A baseline RGB or grey JPEG within the size limit, without EXIF rotation, is kept byte for byte. Everything else is
    decoded whole, rotated by its EXIF tag, scaled to `max_side`, laid on black where transparent, and encoded once.

    Raises:
        ItemRejectedError: with the stage `image` and the reason code.
    """
    if not raw:
        raise _rejected(RejectReason.IMAGE_EMPTY, "0 bytes")
    image, image_format = _open(raw, config)
    _check_shape(image, config)
    rgb = _decode_rgb(image)
    if _is_blank(rgb):
        raise _rejected(RejectReason.IMAGE_BLANK, f"all {rgb.width}x{rgb.height} pixels are equal")
    rotated = image.getexif().get(0x0112, 1) != 1
    as_it_came = (
        image_format == "JPEG" and image.mode in {"RGB", "L"} and not rotated and max(image.size) <= config.max_side
    )
    if as_it_came:
        stored, jpeg = rgb, raw
    else:
        stored, jpeg = _encode(rgb, config)
    return StoredImage(
        jpeg=jpeg,
        width=stored.width,
        height=stored.height,
        sha256=hashlib.sha256(jpeg).hexdigest(),
        phash=perceptual_hash(stored),
    )


def perceptual_hash(image: Image.Image) -> str:
    """Return the 64-bit DCT perceptual hash as 16 hex digits."""
    import imagehash

    return str(imagehash.phash(image))


def decode_rgb(jpeg: bytes, min_side: int | None = None) -> ArrayHWC:
    """Decode JPEG bytes to RGB, shape (H, W, 3), uint8.

    With `min_side`, the DCT is scaled down as far as both sides stay at least that long: cheap.

    Raises:
        ItemRejectedError: the bytes do not decode.
    """
    import simplejpeg

    bound = min_side or 0
    try:
        decoded: ArrayHWC = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", min_height=bound, min_width=bound)
    except ValueError as error:
        raise _rejected(RejectReason.IMAGE_CORRUPT, str(error)) from error
    return decoded


def to_rgb8(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB: deep greys scaled from their own range, transparency on black."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.float64)
        low, high = float(grey.min()), float(grey.max())
        scaled = (grey - low) * (255.0 / (high - low)) if high > low else np.zeros_like(grey)
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layered).convert("RGB")
    return image.convert("RGB")


def _open(raw: bytes, config: ImageConfig) -> tuple[Image.Image, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(raw))
    except Image.DecompressionBombError as error:
        raise _rejected(RejectReason.IMAGE_TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise _rejected(RejectReason.IMAGE_UNSUPPORTED, f"no known image format in {len(raw)} bytes") from error
    except Exception as error:
        raise _rejected(RejectReason.IMAGE_CORRUPT, f"{type(error).__name__}: {error}") from error
    if image.width * image.height > config.max_pixels:
        detail = f"{image.width}x{image.height} pixels; allowed: {config.max_pixels}"
        raise _rejected(RejectReason.IMAGE_TOO_LARGE, detail)
    return image, image.format or ""


def _check_shape(image: Image.Image, config: ImageConfig) -> None:
    short, long = sorted(image.size)
    if short < config.min_side:
        detail = f"{image.width}x{image.height}; allowed: sides of at least {config.min_side}"
        raise _rejected(RejectReason.IMAGE_TOO_SMALL, detail)
    if long > config.max_aspect * short:
        detail = f"{image.width}x{image.height}; allowed: up to {config.max_aspect:g} to 1"
        raise _rejected(RejectReason.IMAGE_EXTREME_ASPECT, detail)


def _decode_rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
        return to_rgb8(ImageOps.exif_transpose(image))
    except Exception as error:
        raise _rejected(RejectReason.IMAGE_CORRUPT, f"{type(error).__name__}: {error}") from error


def _encode(rgb: Image.Image, config: ImageConfig) -> tuple[Image.Image, bytes]:
    if max(rgb.size) > config.max_side:
        rgb.thumbnail((config.max_side, config.max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=config.jpeg_quality, subsampling=0)
    return rgb, buffer.getvalue()


def _is_blank(rgb: Image.Image) -> bool:
    return all(low == high for low, high in rgb.getextrema())  # type: ignore[misc]


def _rejected(reason: RejectReason, detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.IMAGE, reason, detail)
