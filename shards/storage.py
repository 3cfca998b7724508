"""Where the files of a shard set lie: a folder, or a URL (s3://bucket/prefix, https://host/path, http://…).

A remote set's manifest and index are fetched once into a cache and checked; its shards are read by byte ranges, many at
once, and never copied whole. Credentials and endpoints come from the usual environment variables (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, …), and an address that holds any is refused: configs and logs would keep it.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from clipmed.errors import DataError
from clipmed.files import sync
from clipmed.rejects import RejectReason
from shards.manifest import INDEX_FILE, MANIFEST, read_manifest
from shards.tars import RandomAccess

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3://", "http://", "https://")
CACHE_VARIABLE = "CLIPMED_CACHE"
READS_AT_ONCE = 64
TIMEOUT = timedelta(seconds=30)
RETRIES = 5
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

    The client is made when it is first used, in every process its own: its threads do not survive a fork, so that
    loader processes of remote sets are spawned. A forked child that tries is told so, where the client would hang.
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
            return _retried(lambda: bytes(obstore.get(self._client(), name).bytes()))
        except FileNotFoundError as error:
            raise DataError(
                f"{self.url} is not a shard set: no {name}; give the address of one that `shards pack` wrote"
            ) from error
        except (obstore.exceptions.BaseError, OSError) as error:
            raise DataError(
                f"{self.url}/{name} cannot be read: {_said(error)}; check the address and access"
            ) from error

    def read_many(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | SampleError]:
        """Yield the bytes of each range, or why they cannot be read."""
        self._client()
        return self._threads.map(self._read, ranges)

    def _read(self, wanted: ByteRange) -> bytes | SampleError:
        import obstore

        where, stop = f"{self.url}/{wanted.name}", wanted.offset + wanted.size
        try:
            data = _retried(lambda: bytes(obstore.get_range(self._store, wanted.name, start=wanted.offset, end=stop)))
        except FileNotFoundError:
            return SampleError(RejectReason.SHARD_MISSING, f"{where} is missing")
        except (obstore.exceptions.BaseError, OSError) as error:
            if _is_beyond_end(error):
                return SampleError(RejectReason.SHARD_SHORT, f"{where} is cut off: it ends before {wanted.offset}")
            return SampleError(RejectReason.SHARD_UNREACHABLE, f"{where}: {_said(error)}")
        if len(data) != wanted.size:
            end = wanted.offset + len(data)
            detail = f"{where} is cut off: it ends at {end}, inside {wanted.size} bytes at {wanted.offset}"
            return SampleError(RejectReason.SHARD_SHORT, detail)
        return data

    def _client(self) -> Any:
        if _reading_process() != os.getpid():
            raise DataError(
                f"{self.url} cannot be read in a forked process whose parent has read from a server; "
                "start processes with 'spawn' or 'forkserver', or copy the set to a folder"
            )
        return self._store

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        client: ClientConfig = {"timeout": TIMEOUT, "allow_http": self.url.startswith("http://") or _allows_http()}
        retries: RetryConfig = {
            "max_retries": RETRIES,
            "retry_timeout": RETRY_TIMEOUT,
            "backoff": {"init_backoff": FIRST_RETRY, "max_backoff": LAST_RETRY, "base": 2},
        }
        return from_url(self.url, client_options=client, retry_config=retries)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READS_AT_ONCE, "shard")


@cache
def _reading_process() -> int:
    """Return the process that first read from a server: this one, or the one that this one was forked from."""
    return os.getpid()


def _retried(read: Callable[[], bytes]) -> bytes:
    """Return what `read` returns. The client retries requests, but not an answer that breaks off: this does."""
    from obstore.exceptions import GenericError

    deadline, pause_s = time.monotonic() + RETRY_TIMEOUT.total_seconds(), FIRST_RETRY.total_seconds()
    for _ in range(RETRIES):
        try:
            return read()
        except GenericError as error:
            if _is_beyond_end(error) or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1))
        pause_s = min(2 * pause_s, LAST_RETRY.total_seconds())
    return read()


def is_url(location: str) -> bool:
    """Return whether a location is a URL that sets are read from."""
    return location.startswith(SCHEMES)


def open_shards(location: str) -> tuple[Path, Shards]:
    """Return the folder of a set's manifest and index (the set's own, or a cache's), and its shards.

    Raises:
        DataError: no set there, or one whose index is not what its manifest says.
    """
    if "://" in location:
        _check_address(location)
        shards = RemoteShards(location.rstrip("/"))
        return _fetch_index(shards), shards
    folder = Path(location)
    read_manifest(folder)
    return folder, FolderShards(str(folder), hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest())


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DataError(
            f"the address of a set on {parts.hostname} holds a user name, password, query or fragment; allowed: "
            "scheme, host and path; give credentials in the environment, such as AWS_ACCESS_KEY_ID"
        )
    if not is_url(url):
        raise DataError(f"{url}: unknown kind of address; allowed: a folder, {', '.join(SCHEMES)}…")


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


def _allows_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}


def _is_beyond_end(error: Exception) -> bool:
    return "status code: 416" in str(error)


def _said(error: Exception) -> str:
    """Return the first line of an error, without the page that the server sent, which may quote credentials."""
    return str(error).partition("\n")[0].partition("<")[0].rstrip(" :")
