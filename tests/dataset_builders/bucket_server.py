"""The public bucket on loopback, over HTTP and the S3 calls that are needed, with faults that are always the same.

`http://…/<key>` gives objects; `http://…/pmc-oa-opendata/<key>` the same ones, and lists of them, as S3 does. A fault
is a function of the key and of how often it was asked for, never of time or order. `/__stats` counts requests by key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.dataset_builders.bucket_articles import BUCKET, HTML_PAGE, Bucket, expected, md5

__all__ = ["BUCKET", "BucketServer", "bucket_server", "expected"]

Fault = Literal["500", "503", "404", "cut", "hang_up", "wrong", "html", "slow", "silent", ""]
PASSING: tuple[Fault, ...] = ("500", "503", "cut", "hang_up", "wrong", "html", "slow")
MAX_PASSING = 3
SLOW_S = 0.05
PAGE_KEYS = 1000
REPOSITORY = Path(__file__).resolve().parents[2]


class Objects(Protocol):
    """What a server serves."""

    def get(self, key: str) -> bytes | None:
        """An object's bytes."""

    def list_keys(self, prefix: str) -> list[str]:
        """The keys with a prefix, sorted."""

    def lasting_fault(self, key: str) -> str:
        """How the server answers for a key for ever."""


class Folder:
    """The files of a folder as objects."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> bytes | None:
        """A file's bytes."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def list_keys(self, prefix: str) -> list[str]:
        """The files with a prefix."""
        keys = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix))

    def lasting_fault(self, _key: str) -> str:
        """None of its own."""
        return ""


class Faults:
    """Which fault a request meets. `named` maps a key to those of its first requests, `lasting` to that of all."""

    def __init__(self, share: float, named: Mapping[str, Sequence[Fault]], lasting: Mapping[str, Fault]) -> None:
        self._share = share
        self._named = named
        self._lasting = lasting

    def meet(self, key: str, number: int) -> str:
        """The fault of the request for `key` with this number, counted from 0."""
        if key in self._lasting:
            return self._lasting[key]
        if key in self._named:
            return self._named[key][number] if number < len(self._named[key]) else ""
        digest = hashlib.sha256(key.encode()).digest()
        if int.from_bytes(digest[:4], "big") >= self._share * 2**32 or number >= 1 + digest[4] % MAX_PASSING:
            return ""
        fault = PASSING[digest[5 + number] % len(PASSING)]
        # Nothing tells a snapshot that an answer's bytes are not the manifest's.
        return "500" if fault in {"wrong", "html"} and key.startswith("inventory-reports/") else fault


class Service:
    """Answers requests and counts them."""

    def __init__(self, objects: Objects, faults: Faults) -> None:
        self._objects = objects
        self._faults = faults
        self.asked: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        self._open = self._peak = 0

    def begin(self) -> None:
        """Count a slow answer that is under way."""
        self._open += 1
        self._peak = max(self._peak, self._open)

    def end(self) -> None:
        """Count a slow answer as given."""
        self._open -= 1

    def answer(self, target: str) -> tuple[str, int, bytes, str]:
        """Return the fault that is met, the status, the body and the ETag."""
        parts = urlsplit(target)
        path, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query, keep_blank_values=True)
        if path == "__stats":
            stats = {"asked": self.asked, "given": self.given, "peak": self._peak}
            return "", 200, json.dumps(stats).encode(), ""
        if path == "__reset":
            self.asked.clear()
            self.given.clear()
            return "", 200, b"", ""
        key = path.removeprefix(f"{BUCKET}/")
        if "list-type" in query:
            key = "?list " + query.get("prefix", [""])[0]
        number = self.asked[key]
        self.asked[key] += 1
        fault = self._objects.lasting_fault(key) or self._faults.meet(key, number)
        if key.startswith("?list "):
            fault = "500" if fault in {"wrong", "html", "404"} else fault
            return fault, 200, self._page(query), ""
        return self._object(key, fault)

    def _object(self, key: str, fault: str) -> tuple[str, int, bytes, str]:
        data = self._objects.get(key)
        if data is None or fault == "404":
            return "", 404, b"<Error><Code>NoSuchKey</Code></Error>", ""
        if fault in {"", "slow"}:
            self.given[key] += 1
        return fault, 200, data, _etag(data)

    def _page(self, query: Mapping[str, Sequence[str]]) -> bytes:
        """One page of ListObjectsV2."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        limit = min(int(query.get("max-keys", [str(PAGE_KEYS)])[0]), PAGE_KEYS)
        found: dict[str, bool] = {}
        for key in self._objects.list_keys(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            found[key if cut < 0 else key[: cut + 1]] = cut >= 0
        names = [name for name in found if name > after]
        shown, rest = names[:limit], names[limit:]
        items = (_folder(name) if found[name] else self._listed(name) for name in shown)
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if rest else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"
            f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{token}"
            f"{''.join(items)}</ListBucketResult>"
        ).encode()

    def _listed(self, key: str) -> str:
        data = self._objects.get(key) or b""
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-09-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{_etag(data)}&quot;</ETag><Size>{len(data)}</Size></Contents>"
        )


def _folder(name: str) -> str:
    return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; GET alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that has arrived whole."""
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            method, target, _version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            if method == "GET":
                self._answer(*self._service.answer(target))
            else:
                self._send(405, b"", "")

    def _answer(self, fault: str, status: int, body: bytes, etag: str) -> None:
        if fault == "hang_up":
            self._transport.abort()
        elif fault in {"500", "503"}:
            self._send(int(fault), b"<Error><Code>SlowDown</Code></Error>", "")
        elif fault == "html":
            self._send(200, HTML_PAGE, "")
        elif fault == "wrong":
            self._send(200, bytes([body[0] ^ 1]) + body[1:] if body else b"x", etag)
        elif fault == "cut":
            self._send(200, body, etag, cut=len(body) // 2)
        elif fault == "slow":
            self._service.begin()
            asyncio.get_running_loop().call_later(SLOW_S, self._send_late, status, body, etag)
        elif fault != "silent":
            self._send(status, body, etag)

    def _send_late(self, status: int, body: bytes, etag: str) -> None:
        self._service.end()
        self._send(status, body, etag)

    def _send(self, status: int, body: bytes, etag: str, cut: int | None = None) -> None:
        named = f'ETag: "{etag}"\r\n' if etag else ""
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nContent-Type: application/octet-stream\r\n"
            f"Last-Modified: Tue, 01 Sep 2026 00:00:00 GMT\r\n{named}\r\n"
        )
        self._transport.write(head.encode() + (body if cut is None else body[:cut]))
        if cut is not None:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class BucketServer:
    """A running server. `url` is its address over HTTP; `environment` makes `s3://pmc-oa-opendata` mean it."""

    url: str

    @property
    def s3_url(self) -> str:
        """The address over S3."""
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that S3 clients read."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def asked(self) -> Counter[str]:
        """How often each key was asked for."""
        return Counter(self._stats()["asked"])

    def given(self) -> Counter[str]:
        """How often each key was given whole and unharmed."""
        return Counter(self._stats()["given"])

    def peak(self) -> int:
        """How many slow answers were under way at once, at most."""
        return int(self._stats()["peak"])

    def reset(self) -> None:
        """Count from zero; faults begin anew."""
        with urllib.request.urlopen(f"{self.url}/__reset", timeout=30) as answer:
            answer.read()

    def object(self, key: str) -> bytes:
        """An object's bytes, asked for until they come."""
        with urllib.request.urlopen(f"{self.url}/{quote(key)}", timeout=30) as answer:
            data: bytes = answer.read()
        return data

    def _stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/__stats", timeout=30) as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats


@contextlib.contextmanager
def bucket_server(
    num_articles: int = 0,
    *,
    folder: Path | None = None,
    share: float = 0.0,
    faults: Mapping[str, Sequence[Fault]] | None = None,
    lasting: Mapping[str, Fault] | None = None,
) -> Iterator[BucketServer]:
    """Run the server as a process of its own until the block ends.

    Args:
        num_articles: how many synthetic articles there are; see bucket_articles.py.
        folder: serve this folder instead.
        share: of all keys, how many meet one to three passing faults before they are given.
        faults: the faults of a key's first requests.
        lasting: the fault of all requests for a key.
    """
    given = {"articles": num_articles, "folder": str(folder) if folder else None, "share": share}
    plan = json.dumps({**given, "faults": faults or {}, "lasting": lasting or {}})
    command = [sys.executable, "-m", "tests.dataset_builders.bucket_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(plan.encode() + b"\n")
        process.stdin.flush()
        try:
            port = process.stdout.readline().decode().strip()
            assert port, "the server did not start"
            yield BucketServer(f"http://127.0.0.1:{port}")
        finally:
            process.stdin.close()
            process.wait(30)


def main() -> None:
    """Serve as the first line of the input says, until the input ends: also when the parent is killed."""
    plan = json.loads(sys.stdin.readline())
    objects: Objects = Folder(Path(plan["folder"])) if plan["folder"] else Bucket(plan["articles"])
    objects.get("README.txt")  # makes the inventory, before anyone waits for it
    service = Service(objects, Faults(plan["share"], plan["faults"], plan["lasting"]))
    asyncio.run(_serve(service))


async def _serve(service: Service) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await ended.wait()
    server.close()


@lru_cache(maxsize=8192)
def _etag(data: bytes) -> str:
    return md5(data)


if __name__ == "__main__":
    main()
