"""A Hugging Face hub on loopback, with what its clients use of it, and with faults on demand.

    python -m tests.hub_server ROOT PORT        serves ROOT/org/name/<files>; set HF_ENDPOINT to the URL it prints

    GET   /api/models/ORG/NAME[/revision/REV | /tree/REV | /refs]     facts, files with hashes, branches and tags
    GET   /ORG/NAME/resolve/REV/FILE      Range, ETag, X-Repo-Commit; large files by a redirect to /cdn/SHA256
    GET   /files/ORG/NAME/FILE            the same files as a plain web server would send them
    POST  /api/repos/create, …/branch/NAME, …/tag/REV, …/preupload/REV, …/commit/REV, and LFS's batch with PUT

A repository's commits are kept in memory, the contents of files in ROOT/.blobs. A revision is a branch, tag or commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.hub_requests import HubRequest

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx", ".parquet")


@dataclass(frozen=True)
class Blob:
    """The content of a file, by its hashes."""

    path: Path
    size: int
    sha256: str
    git_sha1: str
    large: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_sha1


@dataclass
class Repository:
    """Commits, and the branches and tags that name them. A token, where it has one, is asked for."""

    name: str
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    messages: list[str] = field(default_factory=list)

    def commit_of(self, revision: str) -> str | None:
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        return revision if revision in self.commits else None

    def commit(self, changes: Mapping[str, Blob | None], branch: str = "main", message: str = "") -> str:
        """Add a commit to a branch; None removes a file."""
        files = dict(self.commits.get(self.branches.get(branch, ""), {}))
        files |= {name: blob for name, blob in changes.items() if blob is not None}
        files = {name: blob for name, blob in files.items() if changes.get(name, blob) is not None}
        facts = [
            self.name,
            branch,
            len(self.commits),
            message,
            sorted((name, blob.sha256) for name, blob in files.items()),
        ]
        commit = hashlib.sha1(json.dumps(facts).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path holds `path`.

    `after` is the number of bytes sent before the connection is cut; `status` an answer's; `corrupt` changes one byte;
    `redirect` sends elsewhere; `hang_s` waits before the answer; `headers` replace those of the answer.
    """

    path: str
    times: int = 1
    method: str = "GET"
    after: int | None = None
    status: int | None = None
    corrupt: bool = False
    redirect: str | None = None
    hang_s: float = 0.0
    ignore_range: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubServer(ThreadingHTTPServer):
    """The hub; `seen` lists its requests, and `sent` the files whose content went out, as org/name/file."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), HubRequest)
        self.root = root
        self.blobs = root / ".blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.sent: list[str] = []
        self.lock = threading.RLock()
        for folder in sorted(root.glob("*/*")):
            if folder.is_dir() and folder.parent != self.blobs:
                self.add(f"{folder.parent.name}/{folder.name}", folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files_of(self, name: str, revision: str) -> set[str]:
        """Return the names of a repository's files."""
        repository = self.repositories[name]
        return set(repository.commits[repository.commit_of(revision) or ""])

    def add(self, name: str, folder: Path, branch: str = "main") -> str:
        """Commit the files of a folder to a repository, made if it is not there; return the commit."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return self.commit(name, {path.relative_to(folder).as_posix(): path for path in files}, branch)

    def commit(self, name: str, files: Mapping[str, Path | bytes | None], branch: str = "main") -> str:
        """Commit files to a repository, made if it is not there; return the commit."""
        with self.lock:
            repository = self.repositories.setdefault(name, Repository(name))
            blobs = {path: None if content is None else self.blob(path, content) for path, content in files.items()}
            return repository.commit(blobs, branch)

    def blob(self, name: str, content: Path | bytes) -> Blob:
        """Keep a file's content."""
        temporary = self.blobs / f"{threading.get_ident()}.partial"
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)
        size = temporary.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
        with temporary.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha256.update(chunk)
                git.update(chunk)
        path = self.blobs / sha256.hexdigest()
        temporary.replace(path)
        large = name.endswith(LARGE_SUFFIXES) or size > 10_000_000
        return Blob(path, size, sha256.hexdigest(), git.hexdigest(), large)

    def fail(self, path: str, **how: object) -> Fault:
        """Let requests whose path holds this text go wrong; see `Fault`."""
        fault = Fault(path, **how)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path and fault.method == method:
                    fault.times -= 1
                    return fault
        return None

    def repository_at(self, path: str) -> Repository | None:
        match = re.match(r"(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(?:/|$)", path)
        return self.repositories.get(match[1]) if match else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serve(root: Path, port: int = 0) -> Iterator[HubServer]:
    """Run a hub over the folder until the block ends."""
    root.mkdir(parents=True, exist_ok=True)
    with HubServer(root, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with HubServer(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) as hub:
        print(hub.url, flush=True)  # noqa: T201
        hub.serve_forever()
