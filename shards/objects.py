"""Objects behind an address (s3://bucket/prefix, gs://…, az://…, https://host/path): whole, by ranges, and listed.

Requests are retried with exponential backoff while the server is busy, does not answer or breaks off. Credentials and
endpoints come from the usual environment variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, …), and an
address that holds any is refused: configs and logs would keep it.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from clipmed.errors import DataError

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SCHEMES = ("s3://", "gs://", "az://", "http://", "https://", "file://")
# What names credentials, or says how requests are signed; with none of them a public bucket is read unsigned.
_SIGNING = {
    "s3": ("AWS_SKIP_SIGNATURE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE",
           "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "gs": ("GOOGLE_SKIP_SIGNATURE", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH",
           "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
    "az": ("AZURE_SKIP_SIGNATURE", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_SAS_TOKEN"),
}  # fmt: skip
_STATUS = re.compile(r"status(?: code)?:? (\d{3})")
_ATTEMPT = re.compile(r"^Generic \w+ error: |Error performing \w+ \S+ in .*? - ")  # with the time that it took
_TRIED_AGAIN = {408, 429}
_BEYOND_END = 416
_CONNECT_S = 10.0

ResultT = TypeVar("ResultT")


class Fault(Enum):
    """Why a request gave nothing of use."""

    MISSING = "missing"
    BEYOND_END = "beyond its end"
    TOO_LARGE = "too large"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    DAMAGED = "damaged"
    CHANGED = "changed"


_RETRIED = {Fault.UNREACHABLE, Fault.DAMAGED}


class ObjectError(DataError):
    """A request failed. `detail` is the first line of what was said, without any page that the server sent."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for, in seconds, and how often a request is repeated."""

    timeout_s: float = 30.0
    """longest wait for the next bytes of an answer"""
    whole_s: float = 30.0
    """longest wait for a whole answer"""
    retries: int = 10
    """how often a request is repeated"""
    first_pause_s: float = 0.1
    """pause before the first repetition; doubles each time"""
    last_pause_s: float = 15.0
    """longest pause"""
    deadline_s: float = math.inf
    """no repetition begins later than this after the first request"""


class Object(NamedTuple):
    """A whole object; `etag` is the server's, without quotes, and empty if it gave none."""

    data: bytes
    etag: str


class Listed(NamedTuple):
    """An object's name below the client's address, its size in bytes, and its ETag without quotes."""

    name: str
    size: int
    etag: str


class ObjectClient:
    """Reads objects below one address; safe in threads, and made anew in processes that are spawned.

    The connections are made when first used. Their threads do not survive a fork: a forked child that reads is told
    so, where the client would hang.
    """

    def __init__(self, url: str, patience: Patience | None = None, *, public: bool = False) -> None:
        """Name the address; nothing is asked yet.

        Args:
            url: one of SCHEMES, a host or bucket, and a prefix.
            patience: how long and how often; the default waits a minute or so.
            public: read without a signature where the environment has no credentials.
        """
        self.url = url.rstrip("/")
        self._patience = patience or Patience()
        self._public = public

    def __reduce__(self) -> tuple[Any, ...]:
        return _client, (self.url, self._patience, self._public)

    def get(self, name: str, max_bytes: int | None = None) -> Object:
        """Return a whole object; raises ObjectError, TOO_LARGE before the body is read."""
        return self.retried(lambda: self.get_once(name, max_bytes))

    def get_once(self, name: str, max_bytes: int | None = None) -> Object:
        """Return a whole object, asking once; raises ObjectError."""
        import obstore

        with self._faults(name):
            answer = obstore.get(self._checked(), name)
            size = answer.meta["size"]
            if max_bytes is not None and size > max_bytes:
                raise ObjectError(Fault.TOO_LARGE, f"{name} has {size} bytes; allowed: {max_bytes}")
            return Object(bytes(answer.bytes()), (answer.meta["e_tag"] or "").strip('"'))

    def get_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, or to the object's end if that comes first; raises ObjectError."""
        return self.retried(lambda: self._range_once(name, start, stop))

    def list_objects(self, prefix: str = "") -> Iterator[Listed]:
        """Yield every object whose name lies below the folder `prefix`, in the server's order; raises ObjectError."""
        import obstore

        last: str | None = None
        ended = False

        def pages() -> Iterator[Sequence[Any]]:
            with self._faults(prefix):
                yield from obstore.list(self._checked(), prefix or None, offset=last, chunk_size=1000)

        stream = pages()

        def next_page() -> Sequence[Any]:
            nonlocal stream, ended
            try:
                page = next(stream, None)
            except ObjectError:
                stream = pages()  # from behind the last object seen
                raise
            ended = page is None
            return page or ()

        while not ended:
            for found in self.retried(next_page):
                last = found["path"]
                yield Listed(last, found["size"], (found["e_tag"] or "").strip('"'))

    def list_folders(self, prefix: str = "") -> list[str]:
        """Return the names of the folders directly below the folder `prefix`, sorted; raises ObjectError."""
        import obstore

        def read() -> list[str]:
            with self._faults(prefix):
                found = obstore.list_with_delimiter(self._checked(), prefix or None)
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

        return self.retried(read)

    def retried(self, read: Callable[[], ResultT]) -> ResultT:
        """Return what `read` returns, trying again while it raises an ObjectError that may pass."""
        patience = self._patience
        deadline = time.monotonic() + patience.deadline_s
        pause_s = min(patience.first_pause_s, patience.last_pause_s)
        for _ in range(patience.retries):
            try:
                return read()
            except ObjectError as error:
                if error.fault not in _RETRIED or time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, patience.last_pause_s)
        return read()

    def check_process(self) -> None:
        """Raise DataError in a process that was forked from one that has read from a server."""
        if _reading_process() != os.getpid():
            raise DataError(
                f"{self.url} cannot be read in a forked process whose parent has read from a server; "
                "start processes with 'spawn' or 'forkserver', or copy it to a folder"
            )

    def _checked(self) -> Any:
        self.check_process()
        return self._store

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        if self.url.startswith("file://"):
            return from_url(self.url)
        patience = self._patience
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=min(patience.timeout_s, _CONNECT_S)),
            "read_timeout": timedelta(seconds=patience.timeout_s),
            "timeout": timedelta(seconds=patience.whole_s),
            "allow_http": self.url.startswith("http://") or _allows_http(),
        }
        signing = _SIGNING.get(self.url.partition(":")[0])
        unsigned = self._public and signing and not any(os.environ.get(name) for name in signing)
        config: Any = {"skip_signature": True} if unsigned else None
        return from_url(self.url, config=config, client_options=client, retry_config={"max_retries": 0})

    def _range_once(self, name: str, start: int, stop: int) -> bytes:
        import obstore

        with self._faults(name):
            return bytes(obstore.get_range(self._checked(), name, start=start, end=stop))

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        """Turn what the library raises into ObjectError."""
        from obstore.exceptions import BaseError

        try:
            yield
        except ObjectError:
            raise
        except FileNotFoundError as error:
            raise ObjectError(Fault.MISSING, f"{self.url}/{name} is missing") from error
        except (BaseError, OSError, ValueError) as error:
            raise ObjectError(_fault(error), f"{self.url}/{name}: {_said(error)}") from error


def check_address(url: str, schemes: Sequence[str] = SCHEMES) -> None:
    """Raise DataError where an address is of an unknown kind, or holds what could be a secret; that is not repeated."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DataError(
            f"the address on {parts.hostname} holds a user name, password, query or fragment; allowed: "
            "scheme, host and path; give credentials in the environment, such as AWS_ACCESS_KEY_ID"
        )
    if not url.startswith(tuple(schemes)):
        raise DataError(f"{url}: unknown kind of address; allowed: a folder, {', '.join(schemes)}…")


def _client(url: str, patience: Patience, public: bool) -> ObjectClient:
    return ObjectClient(url, patience, public=public)


@cache
def _reading_process() -> int:
    """Return the process that first read from a server: this one, or the one that this one was forked from."""
    return os.getpid()


def _fault(error: Exception) -> Fault:
    from obstore.exceptions import GenericError

    if not isinstance(error, (GenericError, OSError)):
        return Fault.REFUSED
    found = _STATUS.search(str(error))
    status = int(found.group(1)) if found else 0
    if status == _BEYOND_END:
        return Fault.BEYOND_END
    refused = 400 <= status < 500 and status not in _TRIED_AGAIN
    return Fault.REFUSED if refused else Fault.UNREACHABLE


def _allows_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true"}


def _said(error: Exception) -> str:
    """Return the first line of an error, without what differs each time, and without the server's page.

    Such a page may quote credentials.
    """
    return _ATTEMPT.sub("", str(error).partition("\n")[0]).partition("<")[0].rstrip(" :")
