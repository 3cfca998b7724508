"""Real servers on loopback: HTTP with byte ranges and faults on demand, and S3 as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = str  # "error": 500; "refuse": 403 and a page with a key in it; "cut": half of the body; "hang_up": no answer


class FileServer(ThreadingHTTPServer):
    """Serves a folder; `faults` are taken, one a request, by the first requests for shards."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: list[Fault] = []
        self.num_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.num_requests += 1
        fault = self.server.faults.pop(0) if self.server.faults and self.path.endswith(".tar") else None
        path = self.server.folder / self.path.lstrip("/")
        if fault == "hang_up":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault == "error":
            self._head(500, 0)
        elif fault == "refuse":
            page = b"<Error><AWSAccessKeyId>AKIA123</AWSAccessKeyId></Error>"
            self._head(403, len(page))
            self.wfile.write(page)
        elif not path.is_file():
            self._head(404, 0)
        else:
            self._send(path.read_bytes(), cut=fault == "cut", with_body=with_body)

    def _send(self, data: bytes, *, cut: bool, with_body: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self._head(200, len(data))
        else:
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
            if start >= len(data):
                self._head(416, 0)
                return
            content_range = f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
            self._head(206, len(data), {"Content-Range": content_range})
        if with_body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def _head(self, status: int, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def http_server(folder: Path) -> Iterator[FileServer]:
    """Serve a folder until the block ends."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def s3_server(logs: Path) -> Iterator[str]:
    """Run an S3 endpoint (moto's, as a process of its own); yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shutil.which("moto_server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert command is not None, "moto_server is not installed"
    with (logs / "s3.log").open("w") as log:
        process = subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the S3 server ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no answer from {url}")
