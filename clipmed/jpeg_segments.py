"""JPEG files without what is not the picture: Exif, XMP, IPTC, comments, thumbnails, and bytes behind the end.

Such segments name people and places. They are left out without touching a coded pixel. Segments as in ITU-T T.81,
annex B.
"""

from __future__ import annotations

import re

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_START_OF_SCAN = 0xDA
_APP0, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE2, 0xEE, 0xEF, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length
# In coded pixels, FF is followed by 00, by a restart marker, or by another FF that fills.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JFIF, _JFIF_SIZE = b"JFIF\0", 14
_ADOBE, _ADOBE_SIZE = b"Adobe", 12
_ICC = b"ICC_PROFILE\0"


def without_metadata(jpeg: bytes) -> bytes | None:
    """Return a JPEG without the segments that do not decide its pixels or colours.

    Kept are all segments of the codes themselves, JFIF's without its thumbnail, Adobe's colour transform and the ICC
    profile. A file that has no others is returned as the same object.

    Returns:
        None where the file's segments cannot be followed to its end.
    """
    if not jpeg.startswith(_SOI):
        return None
    view = memoryview(jpeg)
    parts: list[bytes | memoryview] = [_SOI]
    place, is_clean = 2, True
    while parts[-1] != _EOI:
        start = _behind_fill(jpeg, place)
        end = _segment_end(jpeg, start)
        if end is None:
            return None
        segment = view[start:end]
        kept = _kept(jpeg[start + 1], segment)
        parts.append(kept)
        is_clean = is_clean and kept is segment
        place = end
    return jpeg if is_clean and place == len(jpeg) else b"".join(parts)


def _behind_fill(jpeg: bytes, place: int) -> int:
    while jpeg[place : place + 2] == b"\xff\xff":
        place += 1
    return place


def _segment_end(jpeg: bytes, place: int) -> int | None:
    """Return where the segment at a place ends, coded pixels behind its header included; None where it does not."""
    if len(jpeg) < place + 2 or jpeg[place] != 0xFF:
        return None
    marker = jpeg[place + 1]
    if marker in _ALONE:
        return place + 2
    length = int.from_bytes(jpeg[place + 2 : place + 4])
    end = place + 2 + length
    if length < 2 or end > len(jpeg):
        return None
    if marker != _START_OF_SCAN:
        return end
    following = _NEXT_MARKER.search(jpeg, end)
    return following.start() if following else None


def _kept(marker: int, segment: memoryview) -> memoryview | bytes:
    """Return what is kept of a segment, which starts with its marker and length: the same object where it is all."""
    if not (_APP0 <= marker <= _APP15 or marker == _COMMENT):
        return segment
    body = bytes(segment[4:])
    if marker == _APP0 and body.startswith(_JFIF):
        fixed = body[: _JFIF_SIZE - 2] + b"\0\0"
        return segment if body == fixed else _segment(marker, fixed, _JFIF_SIZE)
    if marker == _APP14 and body.startswith(_ADOBE):
        return segment if len(body) == _ADOBE_SIZE else _segment(marker, body[:_ADOBE_SIZE], _ADOBE_SIZE)
    return segment if marker == _APP2 and body.startswith(_ICC) else b""


def _segment(marker: int, body: bytes, size: int) -> bytes:
    """Return the body as a segment; nothing where it is shorter than its form asks, which no decoder reads."""
    return bytes((0xFF, marker)) + (size + 2).to_bytes(2) + body if len(body) == size else b""
