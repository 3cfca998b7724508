"""Whether a file of a format is all there: where its decoder fills up what is missing, or does not look."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from clipmed.errors import ImageError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JP2_MAGIC = b"\0\0\0\x0cjP  \r\n\x87\n"
J2K_MAGIC = b"\xff\x4f\xff\x51"
_START_OF_TILE, _END_OF_CODES = b"\xff\x90", b"\xff\xd9"


def check_whole(raw: bytes) -> None:
    """Raise ImageError for a PNG or JPEG 2000 file that is cut short, or a PNG that is changed; others pass.

    Forms as in ISO/IEC 15948 (PNG) and ISO/IEC 15444-1, annexes A and I (JPEG 2000).
    """
    checks: dict[bytes, Callable[[bytes], None]] = {
        PNG_MAGIC: _check_png,
        JP2_MAGIC: _check_jp2,
        J2K_MAGIC: _check_codes,
    }
    for magic, check in checks.items():
        if raw.startswith(magic):
            check(raw)


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


def _check_jp2(raw: bytes) -> None:
    """The box with the codes is there to its end."""
    place = 0
    while place + 8 <= len(raw):
        length, kind, header = int.from_bytes(raw[place : place + 4]), raw[place + 4 : place + 8], 8
        if length == 1:
            length, header = int.from_bytes(raw[place + 8 : place + 16]), 16
        end = place + length if length else len(raw)
        if kind == b"jp2c":
            _check_codes(raw[place + header : end])
            return
        if end < place + header:
            break
        place = end
    raise ImageError("it is cut short, or damaged: it has no codes of pixels")


def _check_codes(codes: bytes) -> None:
    """Every part of every tile is there, and then the end."""
    place = 2
    while codes[place : place + 2] not in (_START_OF_TILE, _END_OF_CODES):
        length = int.from_bytes(codes[place + 2 : place + 4])
        if place + 4 > len(codes) or length < 2:
            raise ImageError("it is cut short, or damaged")
        place += 2 + length
    while codes[place : place + 2] == _START_OF_TILE:
        length = int.from_bytes(codes[place + 6 : place + 10])
        if not length:  # the last part, which reaches to the end
            place = codes.rfind(_END_OF_CODES)
            break
        place += max(length, 2)
    if place < 0 or codes[place : place + 2] != _END_OF_CODES:
        raise ImageError("it is cut short, or damaged")
