"""Image bytes from anywhere to the JPEG that a sample keeps: checked, measured, re-encoded at most once."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.jpeg2000 import has_deep_colours
from clipmed.jpeg_segments import without_metadata
from clipmed.perceptual import perceptual_hash
from clipmed.rejects import RejectReason, Stage

ArrayHWC = npt.NDArray[np.uint8]

# A preview is a JPEG decoded at 1/4 or 1/8 of its size, which costs little more than reading its codes. The hash is as
# good from three times its 32 pixels on the short side.
_PREVIEW_SCALES, _PREVIEW_SIDE = (8, 4), 96
# The decoder's own reductions. One that leaves this share of `max_side` is stored as it is.
_REDUCTIONS, _ENOUGH = (8, 4, 2), 0.75
_ORIENTATION = 0x0112
_GREY_MODES = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# Warnings of libjpeg that tell of lost or damaged pixels. The others speak of headers.
_DAMAGE = ("Corrupt JPEG data", "Premature end")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image must be to become a sample, and how it is stored."""

    max_side: int = 1024
    """longest side kept, in pixels; a larger image is scaled down once, to this side; JPEGs of 1.5 to 2, 3 to 4 or
    6 to 8 times this side, to their half, quarter or eighth"""
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
    """An image as a sample keeps it. `phash` is the 64-bit DCT hash of `perceptual_hash`, in hex."""

    jpeg: bytes = field(repr=False)
    width: int
    height: int
    sha256: str
    phash: str


class SourceImage:
    """An image of a source: what to store of it, its pixels, and a small view, each decoded when it is asked for.

    What a method returns depends on the bytes and the config alone, not on the methods called before.

    Raises:
        ItemRejectedError: with the stage `image` and the reason code. The header is checked when the object is made;
            methods raise for pixels that do not decode, `stored` also for blank ones.
    """

    def __init__(self, raw: bytes, config: ImageConfig) -> None:
        if not raw:
            raise _rejected(RejectReason.IMAGE_EMPTY, "0 bytes")
        self._raw = raw
        self._config = config
        self._image, image_format = _open(raw, config)
        _check_shape(*self._image.size, config)
        upright_jpeg = image_format == "JPEG" and _is_upright(self._image)
        self._colorspace = {"RGB": "RGB", "L": "GRAY"}.get(self._image.mode, "") if upright_jpeg else ""

    @cached_property
    def source_sha256(self) -> str:
        """The SHA-256 of the bytes as they came, in hex; that of the stored image where nothing is changed."""
        return hashlib.sha256(self._raw).hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole image in pixels, turned as its EXIF tag says."""
        if self._colorspace:
            return self._image.size
        height, width = self._full.shape[:2]
        return width, height

    def stored(self) -> StoredImage:
        """Return the image as a sample keeps it.

        An RGB or grey JPEG within the size limit, without EXIF rotation, is kept as it came, less the segments that
        may name people: Exif, XMP, IPTC, comments. Everything else is rotated by its EXIF tag, scaled to `max_side`,
        laid on black where transparent, and encoded once: JPEGs with the chroma subsampling that they had, images
        without colour as grey.

        Of a larger JPEG, the half, quarter or eighth that libjpeg decodes is stored where its long side is 0.75 to 1
        times `max_side`, as of sides from 1.5 to 2 times that: no pixel is interpolated. All others come to `max_side`.
        """
        preview = self._preview
        jpeg = None if preview is None else without_metadata(self._raw)
        if preview is None or jpeg is None:
            if _is_blank(self._fitted):
                _check_blank(self._full)
            return _store(self._fitted, self._config, self._subsampling())
        if _is_blank(preview):
            _check_blank(self._full)  # what is even at a smaller scale may have a pattern below it
        width, height = self._image.size
        scale = _preview_scale(width, height)
        return StoredImage(
            jpeg=jpeg,
            width=width,
            height=height,
            sha256=self.source_sha256 if jpeg is self._raw else hashlib.sha256(jpeg).hexdigest(),
            phash=perceptual_hash(preview, (width / scale, height / scale)),
        )

    def pixels(self) -> ArrayHWC:
        """Return the whole image as RGB of shape (H, W, 3), uint8; callers must not write to it."""
        return _with_channels(self._full)

    def thumbnail(self, side: int) -> ArrayHWC:
        """Return the image as RGB of shape (H, W, 3), uint8, its long side at most `side`."""
        small = self._fitted if self._preview is None else self._preview
        enough = max(small.shape[:2]) >= min(side, max(self._image.size))
        return _with_channels(_fit(small if enough else self._full, side))

    @cached_property
    def _full(self) -> npt.NDArray[np.uint8]:
        """The whole image: (H, W, 3), or (H, W) where the file has no colour."""
        decoded = decode_jpeg(self._raw, self._colorspace, self._image.size) if self._colorspace else None
        return _decode_any(self._image) if decoded is None else decoded

    @cached_property
    def _fitted(self) -> npt.NDArray[np.uint8]:
        """The whole image, scaled down to `max_side`."""
        max_side, size = self._config.max_side, self._image.size
        if not self._colorspace or max(size) <= max_side:
            return _fit(self._full, max_side)
        reductions = (scale for scale in _REDUCTIONS if _ENOUGH * max_side <= max(_reduced(size, scale)) <= max_side)
        scale = next(reductions, 1)
        reduced = decode_jpeg(self._raw, self._colorspace, _reduced(size, scale), is_rough=True)
        return _fit(self._full if reduced is None else reduced, max_side)

    @cached_property
    def _preview(self) -> npt.NDArray[np.uint8] | None:
        """A JPEG that is stored as it came, small; None for images that are encoded anew."""
        width, height = self._image.size
        if not self._colorspace or max(width, height) > self._config.max_side:
            return None
        return decode_jpeg(self._raw, self._colorspace, _reduced((width, height), _preview_scale(width, height)))

    def _subsampling(self) -> str:
        """The chroma subsampling to encode with: a JPEG's own."""
        own = JpegImagePlugin.get_sampling(self._image) if self._colorspace == "RGB" else 0
        return {1: "422", 2: "420"}.get(own, "444")


def ingest_image(raw: bytes, config: ImageConfig) -> StoredImage:
    """Check an image of a source and return it as the JPEG to store: `SourceImage(raw, config).stored()`.

    Raises:
        ItemRejectedError: with the stage `image` and the reason code.
    """
    return SourceImage(raw, config).stored()


def store_pixels(pixels: npt.NDArray[np.uint8], config: ImageConfig) -> StoredImage:
    """Check pixels of shape (H, W, 3) or grey ones of (H, W), uint8, scale them to `max_side` and encode them once.

    Raises:
        ItemRejectedError: too small, too long or blank, with the reason codes of a whole image.
    """
    height, width = pixels.shape[:2]
    _check_shape(width, height, config)
    _check_blank(pixels)
    return _store(_fit(np.ascontiguousarray(pixels), config.max_side), config)


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


def _check_shape(width: int, height: int, config: ImageConfig) -> None:
    short, long = sorted((width, height))
    if short < config.min_side:
        detail = f"{width}x{height}; allowed: sides of at least {config.min_side}"
        raise _rejected(RejectReason.IMAGE_TOO_SMALL, detail)
    if long > config.max_aspect * short:
        detail = f"{width}x{height}; allowed: up to {config.max_aspect:g} to 1"
        raise _rejected(RejectReason.IMAGE_EXTREME_ASPECT, detail)


def _is_upright(image: Image.Image) -> bool:
    """Whether EXIF says that the image is as it lies; False where its EXIF cannot be read."""
    try:
        return bool(image.getexif().get(_ORIENTATION, 1) == 1)
    except Exception:  # noqa: BLE001 (Pillow raises whatever a malformed tag leads it to; decoding rejects the image)
        return False


def _preview_scale(width: int, height: int) -> int:
    """How many times smaller than the image its preview is."""
    short = min(width, height)
    return next((scale for scale in _PREVIEW_SCALES if short >= scale * _PREVIEW_SIDE), 1)


def _reduced(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """The size of an image that libjpeg decodes so many times smaller."""
    return math.ceil(size[0] / scale), math.ceil(size[1] / scale)


def decode_jpeg(
    raw: bytes, colorspace: str, size: tuple[int, int], *, is_rough: bool = False
) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG at the size nearest above (width, height); None where libjpeg warns of something in its headers.

    `is_rough` repeats chroma instead of interpolating it: as good for what is scaled down, and faster.

    Raises:
        ItemRejectedError: the pixels are cut short or damaged.
    """
    import simplejpeg

    width, height = size
    try:
        decoded: ArrayHWC = simplejpeg.decode_jpeg(
            raw, colorspace, fastupsample=is_rough, min_width=width, min_height=height
        )
    except ValueError as error:
        if any(damage in str(error) for damage in _DAMAGE):
            raise _rejected(RejectReason.IMAGE_CORRUPT, str(error)) from error
        return None
    return decoded[..., 0] if colorspace == "GRAY" else decoded


def _decode_any(image: Image.Image) -> npt.NDArray[np.uint8]:
    try:
        if has_deep_colours(image):
            raise _rejected(RejectReason.IMAGE_UNSUPPORTED, "JPEG 2000 of colours above 8 bits; convert it to PNG")
        image.load()
        grey = image.mode in _GREY_MODES and "transparency" not in image.info
        rgb = to_rgb8(ImageOps.exif_transpose(image))
        return np.asarray(rgb.getchannel(0) if grey else rgb)
    except ItemRejectedError:
        raise
    except Exception as error:
        raise _rejected(RejectReason.IMAGE_CORRUPT, f"{type(error).__name__}: {error}") from error


def _fit(pixels: npt.NDArray[np.uint8], max_side: int) -> npt.NDArray[np.uint8]:
    """Scale pixels down to a long side of at most `max_side`.

    Bilinear after a Gaussian of sigma (1 / scale - 1) / 2, as scikit-image keeps patterns from aliasing. Both are
    OpenCV's bit-exact versions: every processor gives the same bytes.
    """
    import cv2

    height, width = pixels.shape[:2]
    factor = max(height, width) / max_side
    if factor <= 1:
        return pixels
    sigma = (factor - 1) / 2
    smooth = cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) if sigma > 0.25 else pixels
    target = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(cv2.resize(smooth, target, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def _store(pixels: npt.NDArray[np.uint8], config: ImageConfig, subsampling: str = "444") -> StoredImage:
    """Encode pixels of their final size."""
    import simplejpeg

    if pixels.ndim == 2:
        jpeg = simplejpeg.encode_jpeg(pixels[..., None], config.jpeg_quality, "GRAY", "Gray")
    else:
        jpeg = simplejpeg.encode_jpeg(pixels, config.jpeg_quality, "RGB", subsampling)
    height, width = pixels.shape[:2]
    sha256 = hashlib.sha256(jpeg).hexdigest()
    return StoredImage(jpeg=bytes(jpeg), width=width, height=height, sha256=sha256, phash=perceptual_hash(pixels))


def _with_channels(pixels: npt.NDArray[np.uint8]) -> ArrayHWC:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _check_blank(pixels: npt.NDArray[np.uint8]) -> None:
    if _is_blank(pixels):
        height, width = pixels.shape[:2]
        raise _rejected(RejectReason.IMAGE_BLANK, f"all {width}x{height} pixels are equal")


def _is_blank(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether all pixels are equal; a sparse grid of them decides nearly always."""
    first = pixels[0, 0]
    return bool((pixels[::64, ::64] == first).all() and (pixels == first).all())


def _rejected(reason: RejectReason, detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.IMAGE, reason, detail)
