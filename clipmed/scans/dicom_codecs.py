"""Decoders of compressed DICOM pixels: a plugin of pydicom on imagecodecs, for the codes that Pillow does not read.

It serves JPEG with 12 bits, lossless JPEG, JPEG-LS and JPEG 2000. Codes that state another size than the tags do are
refused before they are decoded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from clipmed.extras import require

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

PLUGIN = "imagecodecs"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_JPEG_12 = "1.2.840.10008.1.2.4.51"
_JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
_SYNTAXES = frozenset({_JPEG_12}) | _JPEG_LOSSLESS | _JPEG_LS | _JPEG_2000
DECODER_DEPENDENCIES = dict.fromkeys(_SYNTAXES, ("numpy", "imagecodecs"))
# Where the size stands: behind SIZ's marker, length and capabilities; behind a frame header's length and precision.
_SIZ = b"\xff\x4f\xff\x51"
_FRAME_HEADER = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]")


def is_available(uid: str) -> bool:
    """Whether pixels of this transfer syntax are decoded here."""
    return str(uid) in _SYNTAXES


def decoder_of(uid: str, bits: int) -> tuple[Decoder, str]:
    """Return pydicom's decoder of a transfer syntax, and the name of the plugin to decode with ("" for pydicom's own).

    Raises:
        NotImplementedError: no decoder of this syntax.
    """
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(uid)
    if not decoder.is_encapsulated:
        return decoder, ""
    if is_available(uid) and (uid != _JPEG_12 or bits > 8):
        require(PLUGIN, "dicom")
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "_decode_frame"))
        return decoder, PLUGIN
    for plugin in ("pillow", "pydicom"):
        if plugin in decoder.available_plugins:
            return decoder, plugin
    raise NotImplementedError(f"no decoder of {uid}")


def _decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Return the values of a frame as pydicom expects them: by rows, colours together, in 8 or 16 bits."""
    check_size(source, int(runner.columns), int(runner.rows))
    uid = str(runner.transfer_syntax)
    values = np.ascontiguousarray(_decoded(source, uid))
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    if uid in _JPEG_2000 and runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # what the codec returns
    return values.tobytes()


def _decoded(source: bytes, uid: str) -> Any:
    import imagecodecs

    if uid in _JPEG_2000:
        return imagecodecs.jpeg2k_decode(source)
    if uid in _JPEG_LS:
        return imagecodecs.jpegls_decode(source)
    return imagecodecs.ljpeg_decode(source) if uid in _JPEG_LOSSLESS else imagecodecs.jpeg8_decode(source)


def check_size(source: bytes, columns: int, rows: int) -> None:
    """Raise ValueError unless the header of JPEG, JPEG-LS or JPEG 2000 codes states this size."""
    if (place := source.find(_SIZ)) >= 0:
        x1, y1, x0, y0 = (int.from_bytes(source[place + at : place + at + 4]) for at in (8, 12, 16, 20))
        stated = (x1 - x0, y1 - y0)
    elif match := _frame_header(source):
        stated = (int.from_bytes(source[match + 7 : match + 9]), int.from_bytes(source[match + 5 : match + 7]))
    else:
        raise ValueError("codes without a size")
    if stated != (columns, rows):
        raise ValueError("codes of another size than the tags state")


def _frame_header(source: bytes) -> int | None:
    """Return where the frame header of a JPEG or JPEG-LS stands, its segments followed from the start."""
    place = 2
    while source[place : place + 1] == b"\xff" and place + 9 <= len(source):
        if _FRAME_HEADER.match(source, place):
            return place
        place += 2 + int.from_bytes(source[place + 2 : place + 4])
    return None
