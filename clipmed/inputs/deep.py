"""Colours of more than 8 bits: stretched from their own range where a file gives all bits, else held to half of it.

Pillow keeps the upper 8 bits of such colours. PNG and TIFF files are decoded a second time for the lower ones, by
telling Pillow the other order of bytes. PPM and inks of TIFF give the upper ones alone. Of JPEG 2000, Pillow rounds
the upper ones, and its whitest values become 0; of TIFF in planes, it reads nothing of use: these are refused.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from clipmed.errors import ImageError
from clipmed.images import to_rgb8
from clipmed.jpeg2000 import has_deep_colours
from clipmed.scans.intensity import to_levels

_GREY_ALPHA = "LA;16B"
_FORMS = tuple(f"{name};16" for name in ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "LA"))  # how forms of 16 bits begin
_WHOLE = ("RGB", "RGBA", "RGBX")  # what is unpacked by either byte of a value
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_PLANES, _BITS = 284, 258  # TIFF tags: how colours lie in the file, and bits of each
_HALF = 128


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow will keep 8 bits of the colours of a file that it has opened, and not decoded yet."""
    if _form(image).startswith(_FORMS) or _is_planar(image) or has_deep_colours(image):
        return True
    settings = _settings(image)
    highest = settings[1] if image.format == "PPM" and len(settings) == 2 else 0
    return image.mode == "RGB" and isinstance(highest, int) and highest > 255


def colours_of(image: ImageFile.ImageFile, again: ImageFile.ImageFile) -> Image.Image:
    """Return a file's colours of more than 8 bits as RGB of 8.

    Args:
        image: as opened, and not decoded yet.
        again: the same file and frame, opened once more.

    Raises:
        ImageError: values that fill less than half of their range in a file whose lower bits are not to be had,
            colours that lie in planes, or colours in JPEG 2000.
    """
    if _is_planar(image):
        raise ImageError("TIFF of values above 8 bits in separate planes; save them pixel by pixel, or give an array")
    if has_deep_colours(image):
        raise ImageError(
            "JPEG 2000 of colours above 8 bits; convert it to PNG, or give its values as an array of uint16"
        )
    form = _form(image)
    lower_form = _lower(form)
    if lower_form is None:
        return _upper(image)
    again.tile = [tile._replace(args=_with_form(tile.args, lower_form)) for tile in again.tile]
    upper, lower = (np.asarray(ImageOps.exif_transpose(one)) for one in (image, again))
    if form == _GREY_ALPHA:
        lower = lower[..., [1, 1, 1, 3]]  # of the two bytes of grey and the two of alpha
    values = (upper.astype(np.uint16) << 8) | lower
    transparent = image.info.get("transparency")  # the colour of a PNG that stands for nothing
    if transparent is not None:
        values[(values == transparent).all(axis=-1)] = 0
    return stretched(values)


def stretched(values: npt.NDArray[np.uint16]) -> Image.Image:
    """Return colours as RGB of 8 bits: from the lowest value of all channels to the highest, as training data is.

    Args:
        values: (H, W, 3), or (H, W, 4) with alpha, which is laid on black before.
    """
    colours = values[..., :3]
    if values.shape[2] == 4 and (values[..., 3] < 65535).any():
        colours = ((colours.astype(np.uint32) * values[..., 3:] + 32767) // 65535).astype(np.uint16)
    levels = to_levels(np.arange(65536), float(colours.min()), float(colours.max()))
    return Image.fromarray(levels[colours])


def _upper(image: Image.Image) -> Image.Image:
    """Return RGB of the colours' upper 8 bits."""
    upright = ImageOps.exif_transpose(image)
    bands = upright.split()[: 4 if image.mode == "CMYK" else 3]
    if max(int(np.asarray(band).max()) for band in bands) < _HALF:
        raise ImageError(
            "colours of more than 8 bits that all lie below half of the range that the file states, of which the upper "
            "8 bits alone are read here; convert it to 8 bits or to PNG, or give its values as an array of uint16"
        )
    return to_rgb8(upright)


def _form(image: Image.Image) -> str:
    """Return how Pillow unpacks the pixels of a file."""
    settings = _settings(image)
    return str(settings[0]) if settings else ""


def _settings(image: Image.Image) -> tuple[object, ...]:
    tiles = getattr(image, "tile", None) or ()
    args = tiles[0].args if tiles else ()
    return args if isinstance(args, tuple) else (args,)


def _lower(form: str) -> str | None:
    """Return the form that unpacks the lower bytes where `form` unpacks the upper ones; None where there is none."""
    if form == _GREY_ALPHA:
        return "RGBA"
    name, _, order = form.partition(";16")
    return f"{name};16{_OTHER_ORDER[order]}" if name in _WHOLE and order in _OTHER_ORDER else None


def _with_form(args: object, form: str) -> tuple[object, ...] | str:
    return (form, *args[1:]) if isinstance(args, tuple) else form


def _is_planar(image: Image.Image) -> bool:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return bool(image.tag_v2.get(_PLANES) == 2 and max(image.tag_v2.get(_BITS, (1,))) > 8)
