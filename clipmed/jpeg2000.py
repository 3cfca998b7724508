"""What JPEG 2000 files say of themselves (ISO/IEC 15444-1, annexes A and I), which Pillow does not tell."""

from __future__ import annotations

from PIL import Image, Jpeg2KImagePlugin

from clipmed.errors import ImageError

JP2_MAGIC = b"\0\0\0\x0cjP  \r\n\x87\n"
J2K_MAGIC = b"\xff\x4f\xff\x51"
_START_OF_TILE, _END_OF_CODES = b"\xff\x90", b"\xff\xd9"
_SIZ_CHANNELS, _SIZ_BITS = 40, 42  # bytes from the start of the codes to the count of channels, and to their bits


def has_deep_colours(image: Image.Image) -> bool:
    """Whether a file that is opened, and not decoded yet, has colours of more than 8 bits.

    Pillow rounds such colours to 8 bits, and the whitest become 0. It keeps all bits of greys.

    Raises:
        ImageError: boxes without one of codes.
    """
    stream = image.fp if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and image.mode != "I;16" else None
    if stream is None:
        return False
    stream.seek(0)
    codes = j2k_codes(stream.read())
    channels = int.from_bytes(codes[_SIZ_CHANNELS:_SIZ_BITS])
    stated = codes[_SIZ_BITS : _SIZ_BITS + 3 * channels : 3]
    return any((bits & 0x7F) >= 8 for bits in stated)  # one less than there are


def j2k_codes(raw: bytes) -> bytes:
    """Return the codes of a JPEG 2000 file: of its box of them to that one's end, or the file itself where it has none.

    Raises:
        ImageError: boxes without one of codes.
    """
    if raw.startswith(J2K_MAGIC):
        return raw
    place = 0
    while place + 8 <= len(raw):
        length, kind, header = int.from_bytes(raw[place : place + 4]), raw[place + 4 : place + 8], 8
        if length == 1:
            length, header = int.from_bytes(raw[place + 8 : place + 16]), 16
        end = place + length if length else len(raw)
        if kind == b"jp2c":
            return raw[place + header : end]
        if end < place + header:
            break
        place = end
    raise ImageError("it is cut short, or damaged: it has no codes of pixels")


def check_codes(codes: bytes) -> None:
    """Check that every part of every tile is there, and then the end.

    Raises:
        ImageError: it is not.
    """
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
