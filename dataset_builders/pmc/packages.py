"""Legacy packages, `PMC<id>.tar.gz`: read in memory under limits, nothing ever written where a member says."""

from __future__ import annotations

import re
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from isal import igzip, isal_zlib

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.pmc.config import MediaLimits
from dataset_builders.pmc.media import is_media
from dataset_builders.pmc.metadata import printable

READ_BYTES = 1 << 15
_PMCID = re.compile(r"PMC(\d+)(?!\d)", re.I)
_INFLATING: type[Exception] = isal_zlib.error  # type: ignore[assignment]
UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, _INFLATING, ValueError)


@dataclass(slots=True)
class Package:
    """The members of a package that matter. `too_large` has the sizes of media above the limit, not read."""

    xml: bytes | None = None
    media: dict[str, bytes] = field(default_factory=dict)
    too_large: dict[str, int] = field(default_factory=dict)
    unsafe_members: tuple[str, ...] = ()


class _Capped:
    """A stream that refuses to give more than so many bytes: what a compressed file unpacks to is not known before.

    It seeks forward alone, by reading. So a member's bytes can be read at once, with the library's own reading of
    streams in between they are copied in pieces.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        """Read like a file; raises ItemRejectedError beyond the limit."""
        data = self._stream.read(size)
        self._place += len(data)
        if self._place > self._limit:
            raise ItemRejectedError(Stage.SOURCE, RejectReason.FILE_TOO_LARGE, "unpacks to more than the limit")
        return data

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._place

    def seek(self, place: int) -> int:
        """Read on to a place, or to the end where that comes first; raises ValueError for a place behind."""
        if place < self._place:
            raise ValueError(f"a header points back, from byte {self._place} to {place}")
        while self._place < place and self.read(min(place - self._place, READ_BYTES)):
            pass
        return self._place


def package_pmcid(path: Path) -> int:
    """Return the article's number from the package's name, else from its first member's; 0 where neither has one."""
    match = _PMCID.match(path.name)
    if match:
        return int(match.group(1))
    try:
        with tarfile.open(path, "r:gz") as tar:
            first = tar.next()
    except UNREADABLE:
        return 0
    match = _PMCID.match(first.name.removeprefix("./")) if first else None
    return int(match.group(1)) if match else 0


def read_package(path: Path, limits: MediaLimits) -> Package:
    """Read the XML and the media of a package.

    Raises:
        ItemRejectedError: package_unreadable or file_too_large.
    """
    try:
        with igzip.open(path) as stream:  # type: ignore[no-untyped-call]
            capped = _Capped(stream, int(limits.max_package_mb * 1e6))
            with tarfile.open(fileobj=capped, mode="r:") as tar:  # type: ignore[call-overload]
                return _read_members(tar, limits)
    except UNREADABLE as error:
        if isinstance(error, ItemRejectedError):
            raise
        detail = printable(f"{path.name}: {type(error).__name__}: {error}")
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, detail) from error


def _read_members(tar: tarfile.TarFile, limits: MediaLimits) -> Package:
    package = Package()
    unsafe = []
    for member in tar:
        if member.isdir():
            continue
        if not member.isfile() or not is_safe_name(member.name):
            unsafe.append(member.name)
            continue
        _read_member(tar, member, package, limits)
    package.unsafe_members = tuple(unsafe)
    require_end(tar)
    return package


def require_end(tar: tarfile.TarFile) -> None:
    """Read what follows a tar's last member, which checks the whole file's checksum.

    A header that cannot be read looks like the end of the tar to the library.

    Raises:
        ValueError: it is not zeros alone.
    """
    stream: Any = tar.fileobj
    while rest := stream.read(READ_BYTES):
        if any(rest):
            raise ValueError("a member's header is damaged")


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, package: Package, limits: MediaLimits) -> None:
    name = PurePosixPath(member.name).name
    is_xml = name.lower().endswith(".nxml")
    if not is_xml and not is_media(name):
        return
    if member.size > limits.max_media_mb * 1e6:
        package.too_large[name] = member.size
        return
    stream: Any = tar.extractfile(member) if member.issparse() else tar.fileobj  # which stands where the data begin
    data = stream.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"the package ends inside {member.name}")
    if is_xml and package.xml is None:
        package.xml = data
    elif not is_xml:
        package.media.setdefault(name, data)


def is_safe_name(name: str) -> bool:
    """Whether a member's name stays inside the folder that it would be unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and not re.match(r"[A-Za-z]:", name) and "\0" not in name
