"""A read-only Hugging Face hub on loopback over a folder of org/name/<files>; counts what is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """`sent` lists the files whose content went out, as org/name/file."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", org, name, *_]:
                self._repository(self.server.root / org / name)
            case [org, name, "resolve", _, *parts] if parts:
                self._file(self.server.root / org / name, "/".join(parts))
            case _:
                self._missing("RepoNotFound")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _repository(self, folder: Path) -> None:
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        name = folder.relative_to(self.server.root).as_posix()
        if "/tree/" in self.path:
            listed = [{"type": "file", "path": file, "size": 1, "oid": "0" * 40} for file in files]
            return self._answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        facts = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False}
        facts |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}
        return self._answer(200, json.dumps(facts).encode(), {"Content-Type": "application/json"})

    def _file(self, folder: Path, file: str) -> None:
        path = folder / file
        if not folder.is_dir() or not path.is_file():
            return self._missing("EntryNotFound" if folder.is_dir() else "RepoNotFound")
        data = path.read_bytes()
        if self.command == "GET":
            self.server.sent.append(path.relative_to(self.server.root).as_posix())
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._answer(200, data, headers)

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(root: Path) -> Iterator[HubServer]:
    """Run a hub over the folder until the block ends."""
    with HubServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
