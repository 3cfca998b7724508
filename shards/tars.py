"""Tar files by offset: list members from their headers alone, read bytes in place, know a header's exact bytes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from clipmed.errors import DataError
from clipmed.files import HashingFile

BLOCK = tarfile.BLOCKSIZE
MAX_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: `offset` is where its data begin."""

    name: str
    offset: int
    size: int


class _OpenFile:
    """A file descriptor that closes when nothing refers to it any more, so that another thread's read ends first."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=MAX_OPEN_FILES)
def _open_file(path: str, _version: str) -> _OpenFile:
    return _OpenFile(path)


@dataclass(frozen=True, slots=True)
class RandomAccess:
    """Reads a file by offset; safe in threads, after a fork and when pickled, since no file position is shared.

    `version` tells the file from an earlier one at the same path, such as a digest. The file stays open for later
    reads, with up to `MAX_OPEN_FILES` others.
    """

    path: str
    version: str

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`.

        Raises:
            DataError: the file is missing or ends too early.
        """
        try:
            data = self.read_some(offset, size)
        except FileNotFoundError as error:
            raise DataError(f"{self.path} is missing; restore it, or pack the set again") from error
        if len(data) != size:
            raise DataError(f"{self.path} is cut off: it ends at {offset + len(data)}, inside {size} bytes at {offset}")
        return data

    def read_some(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, or fewer where the file ends.

        Raises:
            OSError: as the system says.
        """
        # Held by name until the read has ended. Of two threads that open a file at once the cache keeps one object;
        # the other's descriptor would close, and might be another file's by then, between here and pread.
        file = _open_file(self.path, self.version)
        return os.pread(file.descriptor, size, offset)


def header_of(name: str, size: int) -> bytes:
    """Return the header block of a member: the same for the same name and size, with no time, owner or mode of its own.

    Raises:
        ValueError: a name or size that a USTAR header cannot hold.
    """
    written = name.encode()
    if not written.isascii() or b"\0" in written or not 0 < len(written) <= _NAME_BYTES or size >= 1 << 33:
        return _header_block(name, size)
    block = bytearray(_EMPTY_HEADER)
    digits = b"%011o" % size
    block[: len(written)] = written
    block[_SIZE] = digits
    block[_CHECKSUM] = b"%06o\0" % (_EMPTY_SUM + sum(written) + sum(digits) - sum(_EMPTY_HEADER[_SIZE]))
    return bytes(block)


def _header_block(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


# Headers differ in three fields: name, size, and the sum of all bytes, in which its own field counts as spaces.
_NAME_BYTES, _SIZE, _CHECKSUM = 100, slice(124, 135), slice(148, 155)
_EMPTY_HEADER = _header_block("", 0)
_EMPTY_SUM = int(_EMPTY_HEADER[_CHECKSUM].rstrip(b"\0"), 8)


@contextmanager
def write_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, HashingFile]]:
    """Yield an empty tar and the file under it, whose digest is the tar's after the block's end."""
    with path.open("wb") as stream:
        file = HashingFile(stream)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            yield tar, file


def padded(size: int) -> int:
    """Return the size rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


def parse_header(block: bytes, offset: int) -> Member | None:
    """Return the member whose header block lies at `offset`, or None where the tar ends.

    Raises:
        DataError: not a header.
    """
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DataError(f"no tar header at offset {offset}: {error}") from error
    return Member(info.name, offset + BLOCK, info.size)


def list_members(path: Path) -> list[Member]:
    """Return the members of a tar in order, reading the headers and skipping the data.

    Raises:
        DataError: not a whole tar.
    """
    members: list[Member] = []
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        offset = 0
        while offset < end:
            stream.seek(offset)
            member = parse_header(stream.read(BLOCK), offset)
            if member is None:
                return members
            members.append(member)
            offset = member.offset + padded(member.size)
    raise DataError(f"{path} ends without the end mark of a tar; it is cut off")
