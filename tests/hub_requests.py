"""How the hub of `hub_server` answers one request."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub_server import Blob, Fault, HubServer, Repository

CHUNK_BYTES = 1 << 16


class HubRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        self._begin()

    def do_POST(self) -> None:
        self._begin()

    def do_PUT(self) -> None:
        self._begin()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _begin(self) -> None:
        from tests.hub_server import Seen

        self.body = self._read_body()
        self.route, _, query = self.path.partition("?")
        self.route = urllib.parse.unquote(self.route).strip("/")
        self.query = urllib.parse.parse_qs(query)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.server.seen.append(Seen(self.command, self.path, self.headers.get("Range"), token))
        self.fault = self.server.fault_of(self.command, self.path)
        if self.fault is not None and self._fails(self.fault):
            return
        repository = self.server.repository_at(self.route)
        if repository is not None and not self._allowed(repository, token):
            return
        if self.command in {"GET", "HEAD"}:
            self._get(repository)
        else:
            self._change(repository)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fails(self, fault: Fault) -> bool:
        """Answer with the fault, unless it is one of what is sent."""
        time.sleep(fault.hang_s)
        if fault.status is not None:
            self._answer(fault.status, b"{}", fault.headers)
        elif fault.redirect is not None:
            self._answer(302, b"", {"Location": fault.redirect})
        else:
            return False
        return True

    def _allowed(self, repository: Repository, token: str | None) -> bool:
        is_file = "/resolve/" in self.route or self.route.startswith("files/")
        if repository.token is not None and token != repository.token:
            self._missing("RepoNotFound" if token else None, 404 if token else 401)
            return False
        if repository.gated and is_file:
            self._missing("GatedRepo", 403 if token else 401)
            return False
        return True

    # What is read.

    def _get(self, repository: Repository | None) -> None:
        match self.route.split("/"):
            case ["api", "models", _, _, *rest]:
                self._facts(repository, rest)
            case ["cdn", digest]:
                self._file(next(self._blobs(digest)), {"ETag": f'"{digest}"'})
            case ["files", org, name, *parts]:
                repository = self.server.repositories.get(f"{org}/{name}")
                files = repository.commits[repository.branches["main"]] if repository else {}
                self._plain_file(files.get("/".join(parts)), f"{org}/{name}/{'/'.join(parts)}")
            case [_, _, "resolve", revision, *parts] if parts:
                self._resolve(repository, revision, "/".join(parts))
            case _:
                self._missing("RepoNotFound")

    def _blobs(self, digest: str) -> Any:
        for repository in self.server.repositories.values():
            for files in repository.commits.values():
                for name, blob in files.items():
                    if blob.sha256 == digest:
                        if self.command == "GET":
                            self.server.sent.append(f"{repository.name}/{name}")
                        yield blob

    def _facts(self, repository: Repository | None, rest: list[str]) -> None:
        if repository is None:
            return self._missing("RepoNotFound")
        if rest == ["refs"]:
            kinds = {"branches": repository.branches, "tags": repository.tags}
            return self._json(
                {
                    kind: [
                        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()
                    ]
                    for kind, names in kinds.items()
                }
                | {"converts": []}
            )
        kind, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        commit = repository.commit_of(revision)
        if commit is None:
            folder_of = kind == "tree" and repository.commit_of(revision.partition("/")[0])  # folders are not listed
            return self._missing("EntryNotFound" if folder_of else "RevisionNotFound")
        files = repository.commits[commit]
        if kind == "tree":
            return self._json([{"type": "file", "path": name, **_tree_facts(blob)} for name, blob in files.items()])
        blobs = "blobs" in self.query
        return self._json(
            {
                "id": repository.name,
                "modelId": repository.name,
                "sha": commit,
                "private": repository.token is not None,
                "gated": "auto" if repository.gated else False,
                "disabled": False,
                "tags": ["open_clip"],
                "downloads": 0,
                "likes": 0,
                "siblings": [
                    {"rfilename": name} | (_sibling_facts(blob) if blobs else {}) for name, blob in files.items()
                ],
            }
        )

    def _resolve(self, repository: Repository | None, revision: str, name: str) -> None:
        if repository is None:
            return self._missing("RepoNotFound")
        commit = repository.commit_of(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        blob = repository.commits[commit].get(name)
        if blob is None:
            return self._missing("EntryNotFound", headers={"X-Repo-Commit": commit})
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit}
        if blob.large:
            headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
            return self._answer(
                302, b"", headers | {"Location": f"http://localhost:{self.server.server_port}/cdn/{blob.sha256}"}
            )
        if self.command == "GET":
            self.server.sent.append(f"{repository.name}/{name}")
        return self._file(blob, headers)

    def _plain_file(self, blob: Blob | None, name: str) -> None:
        if blob is None:
            return self._answer(404, b"not here", {})
        if self.command == "GET":
            self.server.sent.append(name)
        return self._file(blob, {"ETag": f'"{blob.sha256[:16]}"'})

    def _file(self, blob: Blob, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        fault = self.fault
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if fault is not None and fault.ignore_range:
            start = 0
        if start >= blob.size and start:
            return self._answer(416, b"", {"Content-Range": f"bytes */{blob.size}"})
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(blob.size - start)} | headers
        if start:
            headers["Content-Range"] = f"bytes {start}-{blob.size - 1}/{blob.size}"
        self.send_response(206 if start else 200)
        for name, value in (headers | (fault.headers if fault else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(blob, start, fault)
        return None

    def _send(self, blob: Blob, start: int, fault: Fault | None) -> None:
        left = fault.after if fault is not None and fault.after is not None else blob.size
        with blob.path.open("rb") as stream:
            stream.seek(start)
            while left > 0 and (chunk := stream.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                if fault is not None and fault.corrupt and stream.tell() == blob.size:
                    chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
                self.wfile.write(chunk)
        if fault is not None and fault.after is not None:
            self.close_connection = True

    # What is written.

    def _change(self, repository: Repository | None) -> None:
        match self.route.split("/"):
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["lfs", digest]:
                blob = self.server.blob("weights.safetensors", self.body)
                self._answer(200 if blob.sha256 == digest else 400, b"", {})
            case [*_, "info", "lfs", "objects", "batch"]:
                self._lfs_batch()
            case ["api", "models", _, _, kind, *rest] if repository is not None:
                self._change_repository(repository, kind, "/".join(rest))
            case _:
                self._missing("RepoNotFound")

    def _create(self) -> None:
        from tests.hub_server import Repository

        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.server.repositories:
            return self._json({"url": f"{self.server.url}/{name}", "error": "exists"}, 409)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        repository = Repository(
            name, token=token if asked.get("private") or asked.get("visibility") == "private" else None
        )
        self.server.repositories[name] = repository
        repository.commit({".gitattributes": self.server.blob(".gitattributes", b"*.safetensors filter=lfs\n")})
        return self._json({"url": f"{self.server.url}/{name}", "name": name, "id": "0"})

    def _lfs_batch(self) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if not (self.server.blobs / asked["oid"]).is_file():
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append(one)
        self._json({"transfer": "basic", "objects": objects})

    def _change_repository(self, repository: Repository, kind: str, revision: str) -> None:
        asked = json.loads(self.body) if kind != "commit" else {}
        if kind == "preupload":
            self._json({"files": [self._upload_mode(repository, revision, one) for one in asked["files"]]})
        elif kind == "branch":
            start = repository.commit_of(asked.get("startingPoint") or "main")
            self._name(repository.branches, revision, start)
        elif kind == "tag":
            self._name(repository.tags, asked["tag"], repository.commit_of(revision))
        elif kind == "commit":
            self._commit(repository, revision)
        else:
            self._missing("RepoNotFound")

    def _name(self, names: dict[str, str], name: str, commit: str | None) -> None:
        if name in names:
            return self._json({"error": f"Reference already exists: {name}"}, 409)
        if commit is None:
            return self._missing("RevisionNotFound")
        names[name] = commit
        return self._json({})

    def _upload_mode(self, repository: Repository, revision: str, asked: dict[str, Any]) -> dict[str, Any]:
        from tests.hub_server import LARGE_SUFFIXES

        large = asked["path"].endswith(LARGE_SUFFIXES) or asked["size"] > 10_000_000
        commit = repository.commit_of(revision)
        there = repository.commits[commit].get(asked["path"]) if commit else None
        mode = "lfs" if large else "regular"
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": there.etag if there else None}

    def _commit(self, repository: Repository, branch: str) -> None:
        changes: dict[str, Blob | None] = {}
        message = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                changes[value["path"]] = self.server.blob(value["path"], base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                changes[value["path"]] = self.server.blob(value["path"], self.server.blobs / value["oid"])
            elif entry["key"] == "deletedFile":
                changes[value["path"]] = None
        with self.server.lock:
            commit = repository.commit(changes, branch, message)
        url = f"{self.server.url}/{repository.name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    # How it is said.

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str | None, status: int = 404, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": code} if code else {"X-Error-Message": "Invalid credentials"}
        self._answer(status, json.dumps({"error": code}).encode(), {**said, **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling_facts(blob: Blob) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": blob.size, "blobId": blob.git_sha1}
    if blob.large:
        facts["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
    return facts


def _tree_facts(blob: Blob) -> dict[str, Any]:
    facts: dict[str, Any] = {"size": blob.size, "oid": blob.git_sha1}
    if blob.large:
        facts["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return facts
