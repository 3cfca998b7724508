"""Files over HTTP: resumed where a connection was cut, checked against their size and hash, moved into place whole.

Only http and https, through redirects too, and never from https to http. A token goes to the host that it is meant for
and to no other. Proxies of the environment ($https_proxy, $no_proxy) are used.

Why not huggingface_hub's own download, whose cache this fills: in its version 2.4 every download begins in a file with
a random name, so that what a killed process left is not continued, and what arrives is checked by its size alone (a
test of ours shows it). Checkpoints of web folders need the same without a hub.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clipmed.errors import CheckpointError
from clipmed.files import CHUNK_BYTES, sync
from clipmed.hub.partials import claimed

TIMEOUT_S = 10.0
TRIES_WITHOUT_PROGRESS = 4
WAIT_S = 0.5  # doubled at every try
WEIGHTS_BYTES_MAX = 50_000_000_000
SMALL_BYTES_MAX = 100_000_000
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_NETWORK_ERRORS = (OSError, http.client.HTTPException)
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class UnreachableError(CheckpointError):
    """No answer from the server: no network, no such host, or nobody listens."""


class StatusError(CheckpointError):
    """An answer that is not the file; `status` is its HTTP status, `code` the hub's own word for it."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a file before it comes."""

    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    """of git's blob object: "blob", size and content"""

    def mismatch(self, path: Path) -> str:
        """Return in which way a file on disk differs; an empty text where it does not."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"{size} bytes, expected {self.size}"
        if self.sha256 is not None and (got := _digest(path, hashlib.sha256())) != self.sha256:
            return f"sha256 {got}, expected {self.sha256}"
        if self.git_sha1 is not None:
            head = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
            if (got := _digest(path, head)) != self.git_sha1:
                return f"git's sha1 {got}, expected {self.git_sha1}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An opened answer to a request."""

    stream: IO[bytes]
    status: int
    headers: Mapping[str, str]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that stay with http and https, without the token where the host changes."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in {"http", "https"} or (old.scheme == "https" and new.scheme != "https"):
            raise _not_followed(req.full_url, newurl)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            request.remove_header("Authorization")
        return request


_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    _Redirects,
):
    _OPENER.add_handler(_handler())


@contextmanager
def opened(url: str, headers: Mapping[str, str], *, method: str = "GET") -> Iterator[Answer]:
    """Open a URL.

    Raises:
        UnreachableError: no answer within TIMEOUT_S.
        StatusError: an answer that is no success.
        CheckpointError: a redirect that is not followed.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "clipmed", **headers}, method=method)  # noqa: S310
    try:
        response = _OPENER.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            code = str(error.headers.get("X-Error-Code") or "")
            said = str(error.headers.get("X-Error-Message") or error.reason)
            target = error.headers.get("Location")
        if target and 300 <= error.code < 400:
            raise _not_followed(url, target) from error
        raise StatusError(f"{url}: HTTP {error.code}: {said[:200]}", error.code, code) from error
    except CheckpointError:
        raise
    except ValueError:  # it would show the header
        raise CheckpointError(f"{url}: a header of the request cannot be sent; look at HF_TOKEN") from None
    except _NETWORK_ERRORS as error:
        raise UnreachableError(f"{url}: no answer ({_reason(error)})") from error
    with response:
        yield Answer(stream=response, status=response.status, headers=response.headers)


def read_small(url: str, headers: Mapping[str, str], limit: int) -> bytes:
    """Return the first `limit` bytes of an answer; asked for again where the server has trouble for a moment.

    Raises:
        UnreachableError, StatusError, CheckpointError: as `opened`.
    """
    tries = 0
    while True:
        tries += 1
        try:
            with opened(url, headers) as answer:
                return answer.stream.read(limit)
        except StatusError as error:
            if error.status not in RETRIED or tries == TRIES_WITHOUT_PROGRESS:
                raise
        except (UnreachableError, *_NETWORK_ERRORS) as error:
            if tries == 2:
                raise UnreachableError(f"{url}: no whole answer ({_reason(error)})") from error
        time.sleep(WAIT_S * 2 ** (tries - 1))


def download(
    url: str,
    path: Path,
    expected: Expected,
    *,
    headers: Mapping[str, str],
    limit: int,
    progress: Callable[[int], object],
) -> None:
    """Download a file to `path`, whole and right, or not at all.

    What came before the connection was cut, in this process or an earlier one, is kept beside it and continued.
    Processes that download the same at once do not disturb each other.

    Args:
        url: of the file.
        path: where it shall lie.
        expected: what it must be.
        headers: of the request, such as Authorization.
        limit: the most bytes that are accepted.
        progress: called with the number of bytes that are there, from time to time.

    Raises:
        CheckpointError: the server cannot be reached, answers otherwise, or sends other bytes than it should.
    """
    request = _Request(headers, limit, progress, expected.size)
    with claimed(path) as partial:
        _complete(url, partial, expected, request)
        sync(partial)
        partial.replace(path)


def _complete(url: str, partial: Path, expected: Expected, request: _Request) -> None:
    """Fill the partial file, from where it ends, until it is what it must be."""
    resumed = _size(partial) > 0
    _fill(url, partial, request)
    difference = expected.mismatch(partial)
    if difference and resumed:  # what an earlier process left may be of other bytes: once more, from the start
        partial.unlink()
        _fill(url, partial, request)
        difference = expected.mismatch(partial)
    if difference:
        partial.unlink()
        raise CheckpointError(
            f"{url} sent other bytes than it should: {difference}; they were thrown away. Try again; if it stays so, "
            "the server or a proxy on the way changes files"
        )


def _fill(url: str, partial: Path, request: _Request) -> None:
    """Append to the partial file until the server has sent all; tries again as long as that gets further."""
    if request.size is not None and _size(partial) > request.size:
        partial.unlink()
    tries, have = 0, _size(partial)
    while (cut := _continued(url, partial, request)) is not None:
        tries = 1 if _size(partial) > have else tries + 1
        have = _size(partial)
        if tries >= (2 if isinstance(cut, UnreachableError) else TRIES_WITHOUT_PROGRESS):
            raise _given_up(url, have, cut) from cut
        time.sleep(WAIT_S * 2 ** (tries - 1))


def _continued(url: str, partial: Path, request: _Request) -> Exception | None:
    """Append what is missing; return what cut it short, or None where all is there."""
    have = _size(partial)
    if request.size is not None and have == request.size > 0:
        return None
    try:
        _append(url, partial, have, request)
    except StatusError as error:
        if error.status == 416 and have:  # more is here than there: of another file
            partial.unlink()
        elif error.status not in RETRIED:
            raise
        return error
    except (UnreachableError, *_NETWORK_ERRORS) as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise CheckpointError(f"{partial}: {error.strerror}; set HF_HOME to a disk with room for you") from error
        return error
    return None


@dataclass(frozen=True, slots=True)
class _Request:
    headers: Mapping[str, str]
    limit: int
    progress: Callable[[int], object]
    size: int | None


def _append(url: str, partial: Path, have: int, request: _Request) -> None:
    headers = {**request.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with opened(url, headers) as answer:
        continues = answer.status == 206 and _starts_at(answer.headers.get("Content-Range", ""), have)
        if have and not continues:
            have = 0  # sent from the start: it does not know ranges, or the file has changed
        left = _content_length(answer.headers)
        _check_size(url, None if left is None else have + left, request)
        if left is not None:
            _check_room(partial, left)
        with partial.open("ab" if have else "wb") as out:
            _copy(answer.stream, out, have, url, request)
        if left is not None and _size(partial) < have + left:
            raise http.client.IncompleteRead(b"", have + left - _size(partial))


def _copy(stream: IO[bytes], out: IO[bytes], have: int, url: str, request: _Request) -> None:
    while chunk := stream.read(CHUNK_BYTES):
        out.write(chunk)
        have += len(chunk)
        if have > request.limit:
            _check_size(url, have, request)
        request.progress(have)


def _check_size(url: str, size: int | None, request: _Request) -> None:
    if size is not None and size > request.limit:
        raise CheckpointError(f"{url} has {size} bytes; allowed: {request.limit}; this is not a file of a checkpoint")
    if size is not None and request.size is not None and size != request.size:
        raise CheckpointError(
            f"{url} has {size} bytes, expected {request.size}; the file was changed or cut; try again"
        )


def _check_room(partial: Path, wanted: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if wanted > free:
        raise CheckpointError(
            f"{partial.parent} has {free} bytes free, and {wanted} are to come; make room, or set HF_HOME to another "
            "disk"
        )


def _not_followed(url: str, target: str) -> CheckpointError:
    return CheckpointError(
        f"{url} leads to {target[:200]!r}, which is not followed; allowed: http and https, and from https only https"
    )


def _given_up(url: str, have: int, error: Exception) -> CheckpointError:
    if isinstance(error, StatusError) or (isinstance(error, UnreachableError) and not have):
        return error
    return UnreachableError(
        f"{url}: the connection was cut again and again ({_reason(error)}); {have} bytes are kept, and the next try "
        "continues from there"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.startswith(f"bytes {start}-")


def _content_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length")
    return int(text) if text is not None and text.isdecimal() else None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return (str(inner) or type(inner).__name__)[:200]


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return str(digest.hexdigest())
