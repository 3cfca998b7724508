"""The bytes of a source's file, or of its content where that is at hand."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

from clipmed.rejects import RejectReason
from clipmed.scans.config import Source, rejected

if TYPE_CHECKING:
    from tifffile import TiffFile

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def first_bytes(source: Source, count: int) -> bytes:
    """Return the first bytes of a file or of its content.

    Raises:
        ItemRejectedError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source[:count]
    try:
        with source.open("rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise rejected(RejectReason.MEDIA_MISSING, f"cannot read the file: {error.strerror}") from error


def whole(source: Source) -> bytes:
    """Return all bytes of a file.

    Raises:
        ItemRejectedError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise rejected(RejectReason.MEDIA_MISSING, f"cannot read the file: {error.strerror}") from error


def open_tiff(source: Source) -> TiffFile:
    """Return tifffile's view of a file. It raises whatever malformed tags lead it to; what it logs would quote them."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source)
