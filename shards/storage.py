"""Where the files of a shard set lie: a folder, or a URL (s3://bucket/prefix, https://host/path, http://…).

A remote set's manifest and index are fetched once into a cache and checked; its shards are read by byte ranges, many at
once, and never copied whole. Credentials and endpoints come from the usual environment variables (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, …).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from clipmed.errors import DataError
from clipmed.files import sha256_file, write_bytes
from clipmed.rejects import RejectReason
from shards.manifest import INDEX_FILE, MANIFEST, read_manifest
from shards.tars import RandomAccess

SCHEMES = ("s3://", "http://", "https://")
CACHE_VARIABLE = "CLIPMED_CACHE"
READS_AT_ONCE = 32
TIMEOUT = timedelta(seconds=30)
RETRIES = 5
BROKEN_ANSWERS = 3
RETRY_TIMEOUT = timedelta(seconds=90)
FIRST_RETRY = timedelta(milliseconds=100)
LAST_RETRY = timedelta(seconds=15)


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

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes | SampleError]:
        """Return the bytes of each range, or why they cannot be read."""


@dataclass(frozen=True, slots=True)
class FolderShards:
    """Shards in a folder; `digest` tells the set from an earlier one at the same place."""

    folder: Path
    digest: str

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes | SampleError]:
        """Return the bytes of each range, or why they cannot be read."""
        return [self._read(each) for each in ranges]

    def _read(self, wanted: ByteRange) -> bytes | SampleError:
        try:
            return RandomAccess(str(self.folder / wanted.name), self.digest).read(wanted.offset, wanted.size)
        except DataError as error:
            exists = (self.folder / wanted.name).exists()
            return SampleError(RejectReason.SHARD_SHORT if exists else RejectReason.SHARD_MISSING, str(error))
        except OSError as error:
            return SampleError(RejectReason.SHARD_UNREACHABLE, f"{self.folder / wanted.name}: {error}")


class RemoteShards:
    """Shards behind a URL, read by concurrent range requests that are retried.

    The client is made when it is first used, in every process its own: its threads do not survive a fork, so that
    loader processes of remote sets are spawned.
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
        import obstore

        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{self.url} is not a shard set: no {name}; give the address of one that `shards pack` wrote"
            ) from error
        except (obstore.exceptions.BaseError, OSError) as error:
            raise DataError(
                f"{self.url}/{name} cannot be read: {_said(error)}; check the address and access"
            ) from error

    def read_many(self, ranges: Sequence[ByteRange]) -> list[bytes | SampleError]:
        """Return the bytes of each range, or why they cannot be read."""
        return list(self._threads.map(self._read_patiently, ranges))

    def _read_patiently(self, wanted: ByteRange) -> bytes | SampleError:
        """Read again what broke off: the client itself retries requests, but not an answer that ends too early."""
        for _ in range(BROKEN_ANSWERS):
            found = self._read(wanted)
            if isinstance(found, bytes) or found.reason != RejectReason.SHARD_UNREACHABLE:
                return found
        return found

    def _read(self, wanted: ByteRange) -> bytes | SampleError:
        import obstore

        where = f"{self.url}/{wanted.name}"
        try:
            data = bytes(obstore.get_range(self._store, wanted.name, start=wanted.offset, length=wanted.size))
        except FileNotFoundError:
            return SampleError(RejectReason.SHARD_MISSING, f"{where} is missing")
        except (obstore.exceptions.BaseError, OSError) as error:
            return self._explain(wanted, error)
        if len(data) != wanted.size:
            return SampleError(RejectReason.SHARD_SHORT, f"{where} is cut off inside {wanted.size} bytes")
        return data

    def _explain(self, wanted: ByteRange, error: Exception) -> SampleError:
        """Tell a shard that is cut off from a server that cannot be reached."""
        import obstore

        where = f"{self.url}/{wanted.name}"
        try:
            size = int(obstore.head(self._store, wanted.name)["size"])
        except (obstore.exceptions.BaseError, OSError):
            return SampleError(RejectReason.SHARD_UNREACHABLE, f"{where}: {_said(error)}")
        if size < wanted.offset + wanted.size:
            detail = f"{where} is cut off: it ends at {size}, inside {wanted.size} bytes at {wanted.offset}"
            return SampleError(RejectReason.SHARD_SHORT, detail)
        return SampleError(RejectReason.SHARD_UNREACHABLE, f"{where}: {_said(error)}")

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        client: Any = {"timeout": TIMEOUT, "allow_http": self.url.startswith("http://") or _allows_http()}
        retries: Any = {
            "max_retries": RETRIES,
            "retry_timeout": RETRY_TIMEOUT,
            "backoff": {"init_backoff": FIRST_RETRY, "max_backoff": LAST_RETRY, "base": 2},
        }
        return from_url(self.url, client_options=client, retry_config=retries)

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
    if not is_url(location):
        if "://" in location:
            raise DataError(f"{location}: unknown kind of address; allowed: a folder, {', '.join(SCHEMES)}…")
        folder = Path(location)
        read_manifest(folder)
        return folder, FolderShards(folder, hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest())
    shards = RemoteShards(location.rstrip("/"))
    return _fetch_index(shards), shards


def _fetch_index(shards: RemoteShards) -> Path:
    manifest = shards.read_file(MANIFEST)
    key = hashlib.sha256(shards.url.encode() + b"\n" + manifest).hexdigest()[:32]
    folder = _cache() / "sets" / key
    write_bytes(folder / MANIFEST, manifest)
    wanted = read_manifest(folder)["files"][INDEX_FILE]["sha256"]
    index = folder / INDEX_FILE
    if not index.exists():
        write_bytes(index, shards.read_file(INDEX_FILE))
    if sha256_file(index) != wanted:
        index.unlink()
        raise DataError(f"{shards.url}/{INDEX_FILE} is not what {MANIFEST} says; copy the whole set again")
    return folder


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "clipmed"


def _allows_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
