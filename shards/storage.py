"""Where the files of a shard set lie: a folder, or a URL (s3://bucket/prefix, https://host/path, http://…).

A remote set's manifest and index are fetched once into a cache and checked; its shards are read by byte ranges, many at
once, and never copied whole. Credentials and endpoints come from the usual environment variables (shards/objects.py).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from clipmed.errors import DataError
from clipmed.files import sync
from clipmed.rejects import RejectReason
from shards.manifest import INDEX_FILE, MANIFEST, read_manifest
from shards.objects import Fault, ObjectClient, ObjectError, Patience, check_address
from shards.tars import RandomAccess

SCHEMES = ("s3://", "http://", "https://")
CACHE_VARIABLE = "CLIPMED_CACHE"
READS_AT_ONCE = 64
TIMEOUT = timedelta(seconds=30)
RETRIES = 10
RETRY_TIMEOUT = timedelta(seconds=60)
FIRST_RETRY = timedelta(milliseconds=100)
LAST_RETRY = timedelta(seconds=15)
CHUNK_BYTES = 8 << 20
CHUNKS_AT_ONCE = 8


class ByteRange(NamedTuple):
    """`size` bytes at `offset` of the shard `name`."""

    name: str
    offset: int
    size: int


class SampleError(NamedTuple):
    """Why a sample could not be read: a reason code, and what was seen."""

    reason: RejectReason
    detail: str


class Shards(Protocol):
    """Reads byte ranges of a set's shards; safe in threads, and pickled for processes that are spawned."""

    def read_many(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | SampleError]:
        """Yield the bytes of each range, or why they cannot be read."""


@dataclass(frozen=True, slots=True)
class FolderShards:
    """Shards in a folder; `digest` tells the set from an earlier one at the same place."""

    folder: str
    digest: str

    def read_many(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | SampleError]:
        """Yield the bytes of each range, or why they cannot be read."""
        return map(self._read, ranges)

    def _read(self, wanted: ByteRange) -> bytes | SampleError:
        path = f"{self.folder}/{wanted.name}"
        try:
            return RandomAccess(path, self.digest).read(wanted.offset, wanted.size)
        except DataError as error:
            exists = Path(path).exists()
            return SampleError(RejectReason.SHARD_SHORT if exists else RejectReason.SHARD_MISSING, str(error))
        except OSError as error:
            return SampleError(RejectReason.SHARD_UNREACHABLE, f"{path}: {error}")


class RemoteShards:
    """Shards behind a URL, read by concurrent range requests that are retried.

    The client is made when it is first used, in every process its own: loader processes of remote sets are spawned.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteShards, (self.url,)

    def read_file(self, name: str) -> bytes:
        """Return a whole file.

        Raises:
            DataError: it is not there, or the server cannot be reached.
        """
        try:
            return self._client.get(name).data
        except ObjectError as error:
            if error.fault is Fault.MISSING:
                raise DataError(
                    f"{self.url} is not a shard set: no {name}; give the address of one that `shards pack` wrote"
                ) from error
            raise DataError(f"{error.detail}; it cannot be read: check the address and access") from error

    def read_many(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | SampleError]:
        """Yield the bytes of each range, or why they cannot be read."""
        self._client.check_process()
        return self._threads.map(self._read, ranges)

    def _read(self, wanted: ByteRange) -> bytes | SampleError:
        where, stop = f"{self.url}/{wanted.name}", wanted.offset + wanted.size
        try:
            data = self._client.get_range(wanted.name, wanted.offset, stop)
        except ObjectError as error:
            if error.fault is Fault.BEYOND_END:
                return SampleError(RejectReason.SHARD_SHORT, f"{where} is cut off: it ends before {wanted.offset}")
            missing = error.fault is Fault.MISSING
            reason = RejectReason.SHARD_MISSING if missing else RejectReason.SHARD_UNREACHABLE
            return SampleError(reason, error.detail)
        if len(data) != wanted.size:
            end = wanted.offset + len(data)
            detail = f"{where} is cut off: it ends at {end}, inside {wanted.size} bytes at {wanted.offset}"
            return SampleError(RejectReason.SHARD_SHORT, detail)
        return data

    @cached_property
    def _client(self) -> ObjectClient:
        patience = Patience(
            timeout_s=TIMEOUT.total_seconds(),
            whole_s=TIMEOUT.total_seconds(),
            retries=RETRIES,
            first_pause_s=FIRST_RETRY.total_seconds(),
            last_pause_s=LAST_RETRY.total_seconds(),
            deadline_s=RETRY_TIMEOUT.total_seconds(),
        )
        return ObjectClient(self.url, patience)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READS_AT_ONCE, "shard")


def is_url(location: str) -> bool:
    """Return whether a location is a URL that sets are read from."""
    return location.startswith(SCHEMES)


def open_shards(location: str) -> tuple[Path, Shards]:
    """Return the folder of a set's manifest and index (the set's own, or a cache's), and its shards.

    Raises:
        DataError: no set there, or one whose index is not what its manifest says.
    """
    if "://" in location:
        check_address(location, SCHEMES)
        shards = RemoteShards(location.rstrip("/"))
        return _fetch_index(shards), shards
    folder = Path(location)
    read_manifest(folder)
    return folder, FolderShards(str(folder), hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest())


def _fetch_index(shards: RemoteShards) -> Path:
    """Return the cache's folder of a set, filled if this manifest was not seen before."""
    manifest = shards.read_file(MANIFEST)
    key = hashlib.sha256(shards.url.encode() + b"\n" + manifest).hexdigest()[:32]
    folder = _cache() / "sets" / key
    try:
        _put(folder / MANIFEST, [manifest])
        entry = read_manifest(folder).get("files", {}).get(INDEX_FILE)
        if entry is None:
            raise DataError(f"{shards.url}/{MANIFEST} does not list {INDEX_FILE}; copy the whole set again")
        if not (folder / INDEX_FILE).exists():
            _put(folder / INDEX_FILE, _chunks(shards, entry))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; set {CACHE_VARIABLE} to a folder that can") from error
    return folder


def _chunks(shards: RemoteShards, entry: dict[str, Any]) -> Iterator[bytes]:
    """Yield the index part by part.

    Raises:
        DataError: they are not, or the server cannot be reached.
    """
    digest, size = hashlib.sha256(), entry["bytes"]
    starts = range(0, size, CHUNK_BYTES)
    ranges = [ByteRange(INDEX_FILE, start, min(CHUNK_BYTES, size - start)) for start in starts]
    for first in range(0, len(ranges), CHUNKS_AT_ONCE):
        for part in shards.read_many(ranges[first : first + CHUNKS_AT_ONCE]):
            if isinstance(part, SampleError):
                raise DataError(f"{part.detail}; copy the whole set again, or check the address and access")
            digest.update(part)
            yield part
    if digest.hexdigest() != entry["sha256"]:
        raise DataError(f"{shards.url}/{INDEX_FILE} is not what {MANIFEST} says; copy the whole set again")


def _put(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of the cache; many processes may do so at once, each under a name of its own until it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.writelines(parts)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "clipmed"
