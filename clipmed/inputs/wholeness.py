"""Whether a file of a format is all there: where its decoder fills up what is missing, or does not look."""

from __future__ import annotations

import zlib

from clipmed.errors import ImageError
from clipmed.jpeg2000 import J2K_MAGIC, JP2_MAGIC, check_codes, j2k_codes

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_whole(raw: bytes) -> None:
    """Raise ImageError for a PNG or JPEG 2000 file that is cut short, or a PNG that is changed; others pass.

    Forms as in ISO/IEC 15948 (PNG), and of JPEG 2000 as in `clipmed.jpeg2000`.
    """
    if raw.startswith(PNG_MAGIC):
        _check_png(raw)
    elif raw.startswith((JP2_MAGIC, J2K_MAGIC)):
        check_codes(j2k_codes(raw))


def _check_png(raw: bytes) -> None:
    """Every chunk up to the last is there, with its checksum."""
    place, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(raw[place : place + 4]), raw[place + 4 : place + 8]
        end = place + 8 + length
        if end + 4 > len(raw):
            raise ImageError("it is cut short")
        if zlib.crc32(raw[place + 4 : end]) != int.from_bytes(raw[end : end + 4]):
            raise ImageError("it is damaged: a checksum in it is wrong")
        place = end + 4
