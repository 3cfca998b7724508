"""Images of question sets: files in a folder, never outside it, or cells of a table; bounded before they are opened."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from clipmed.errors import ItemRejectedError
from clipmed.images import ImageConfig, SourceImage
from zeroshot_eval.choices.questions import ItemSkippedError, SkipReason

MAX_IMAGE_BYTES = 64 << 20
MAX_BASE64 = MAX_IMAGE_BYTES * 4 // 3 + 4
_HEADERS = ImageConfig(min_side=1, max_aspect=1000)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images that a file names by their path in a folder."""

    root: Path

    def find(self, ref: str) -> Path:
        """Return where an image lies.

        Raises:
            ItemSkippedError: the path is absolute, leaves the folder (by its parts or by a link), or leads to no file.
        """
        windows = PureWindowsPath(ref)  # an entry made on Windows may name a drive or use backslashes
        if not ref or "\0" in ref or windows.is_absolute() or windows.drive or PurePosixPath(ref).is_absolute():
            raise ItemSkippedError(SkipReason.PATH_UNSAFE, f"image path: got {ref!r}; a relative one is needed")
        if ".." in windows.parts:
            raise ItemSkippedError(SkipReason.PATH_UNSAFE, f"image path: got {ref!r}; a parent folder is not allowed")
        try:
            path = (self.root / ref).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"no image {ref!r} in {self.root.name}") from error
        if not path.is_relative_to(self.root.resolve()):
            raise ItemSkippedError(SkipReason.PATH_UNSAFE, f"image path: {ref!r} leads out of {self.root.name}")
        return path

    def read(self, ref: str) -> bytes:
        """Return the encoded bytes of an image."""
        path = self.find(ref)
        if not path.is_file():  # a folder, a device, or a pipe that nobody writes to
            raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"{ref!r} is no file")
        try:
            with path.open("rb") as stream:
                return _bounded(stream.read(MAX_IMAGE_BYTES + 1), ref)
        except OSError as error:
            raise ItemSkippedError(SkipReason.IMAGE_MISSING, f"{ref!r}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class TableImages:
    """Images that lie in the cells of a table; `cell` returns the bytes of one."""

    cell: Callable[[str], bytes]

    def read(self, ref: str) -> bytes:
        """Return the encoded bytes of an image."""
        return _bounded(self.cell(ref), ref)


class ImageCheck:
    """Whether images of a source can be opened, each looked at once: their headers alone, not their pixels."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._problem = cache(lambda ref: _problem(read, ref))

    def require(self, ref: str) -> str:
        """Return the reference of an image that opens.

        Raises:
            ItemSkippedError: with the reason why it does not.
        """
        if problem := self._problem(ref):
            raise ItemSkippedError(*problem)
        return ref


def decode_base64(text: str) -> bytes:
    """Return the bytes of a cell that holds an image as base64, with or without a data address before it.

    Raises:
        ItemSkippedError: no base64, or above the size limit (told from its length, before decoding).
    """
    if len(text) > MAX_BASE64:
        raise ItemSkippedError(
            SkipReason.IMAGE_TOO_LARGE, f"{len(text)} characters of base64; allowed: up to {MAX_BASE64}"
        )
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ItemSkippedError(SkipReason.IMAGE_ENCODING, f"no base64: {error}") from error


def _problem(read: Callable[[str], bytes], ref: str) -> tuple[str, str] | None:
    try:
        SourceImage(read(ref), _HEADERS)
    except ItemSkippedError as error:
        return error.reason, error.detail
    except ItemRejectedError as error:
        return str(error.reason), f"{ref}: {error.detail}"
    return None


def _bounded(data: bytes, ref: str) -> bytes:
    if len(data) > MAX_IMAGE_BYTES:
        raise ItemSkippedError(SkipReason.IMAGE_TOO_LARGE, f"{ref}: more than {MAX_IMAGE_BYTES} bytes")
    return data
