"""Files of a repository of the Hugging Face hub, in the cache that huggingface_hub and transformers read, too.

    $HF_HUB_CACHE/models--ORG--NAME/blobs/HASH               contents, named by their sha256, or git's sha1 if small
                                   /snapshots/COMMIT/FILE    links to them
                                   /refs/REVISION            the commit that a branch or tag was when last asked for
                                   /clipmed/COMMIT.json      the names of the commit's files

Every file is checked against the hash that the hub has of it, when it comes and when it is found in the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.checkpoint_files import WEIGHTS_FILE, file_sha256
from clipmed.errors import CheckpointError
from clipmed.hub.copies import link_file
from clipmed.hub.environment import endpoint, hub_cache, hub_headers, is_offline
from clipmed.hub.locations import Location, is_commit
from clipmed.hub.partials import write_shared
from clipmed.hub.transfer import (
    SMALL_BYTES_MAX,
    WEIGHTS_BYTES_MAX,
    Expected,
    StatusError,
    UnreachableError,
    download,
    read_small,
)
from clipmed.locks import locked

DEFAULT_REVISION = "main"
SHOWN_AFTER_S = 2.0
FACTS_BYTES_MAX = 50_000_000
LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
LOGIN_NODE = "on a machine with a network run `clipmed pull {location}`, with the same HF_HOME"

_LOGGER = logging.getLogger(__name__)
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[^/\\\0:]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Files of a repository at one commit."""

    folder: Path
    commit: str
    is_listed: bool
    """whether it is known which files the commit has: not where another client filled the cache"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitFiles:
    """The files of a commit as the hub lists them, by name."""

    commit: str
    files: Mapping[str, Expected]


def fetch_repository(location: Location, wanted: Sequence[str], *, offline: bool | None = None) -> Snapshot:
    """Download, or find in the cache, files of a hub repository; those of the wanted that there are.

    A commit whose files are all in the cache is not asked for again. Without a network a branch is what it was when it
    was last asked for, and a warning is logged.

    Args:
        location: of the kind `hub`.
        wanted: names or patterns of files; a file in a folder of the repository is never fetched.
        offline: use the cache alone; $HF_HUB_OFFLINE if not given.

    Raises:
        CheckpointError: no such repository or revision, no permission, no network and nothing in the cache, or files
            that are not what the hub says.
    """
    cached = _cached(location, wanted)
    lacks = _lacks(cached, wanted) if cached is not None else []
    if is_offline(offline):
        if cached is None or lacks:
            what = f"{lacks[0]} of {location}" if lacks else str(location)
            raise CheckpointError(
                f"{what} is not in the cache {hub_cache()}, and offline mode is on; "
                f"{LOGIN_NODE.format(location=location)}, or unset HF_HUB_OFFLINE"
            )
        return _checked(cached, location)
    if cached is not None and is_commit(location.revision) and cached.is_listed and not lacks:
        return _checked(cached, location)
    try:
        tree = commit_files(location)
    except (UnreachableError, StatusError) as error:
        if cached is None or lacks or not _passes_by(error):
            raise _explained(error, location) from error
        _LOGGER.warning("%s: the hub does not answer; the cache's copy of commit %s is used", location, cached.commit)
        return _checked(cached, location)
    return _fetched(location, tree, [name for name in tree.files if _matches(name, wanted)])


def check_pin(location: Location, sha256: str | None) -> None:
    """Check, before anything is downloaded, that the weights will have the hash that a location is pinned to.

    Args:
        location: pinned or not.
        sha256: hex, of the weights, as their server says it; None where it does not.

    Raises:
        CheckpointError: they are others.
    """
    if location.sha256 is not None and sha256 not in (None, location.sha256):
        raise CheckpointError(
            f"{location}: the weights are others than those that were pinned: sha256 {sha256}, expected "
            f"{location.sha256}; nothing was downloaded"
        )


def repository_folder(name: str) -> Path:
    """Return the folder of the cache that holds a repository of this name, there or not."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def _matches(name: str, wanted: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in wanted)


def _cached(location: Location, wanted: Sequence[str]) -> Snapshot | None:
    root = repository_folder(location.name)
    commit = location.revision or DEFAULT_REVISION
    if not is_commit(commit):
        try:
            commit = (root / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    folder = root / "snapshots" / commit
    if (
        not is_commit(commit)
        or not folder.is_dir()
        or not any(_matches(path.name, wanted) for path in folder.iterdir())
    ):
        return None
    return Snapshot(folder=folder, commit=commit, is_listed=_listed(_listing(folder)) is not None)


def _lacks(snapshot: Snapshot, wanted: Sequence[str]) -> list[str]:
    """Return the wanted files of its commit that a snapshot has not, as far as the commit's files are known."""
    names = _listed(_listing(snapshot.folder)) or []
    return [name for name in names if _matches(name, wanted) and not (snapshot.folder / name).is_file()]


def _listed(path: Path) -> list[str] | None:
    """Return the names of a commit's files; None where they were never listed."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _listing(folder: Path) -> Path:
    """Return the file with the names of the commit's files for a snapshot's folder."""
    return folder.parent.parent / "clipmed" / f"{folder.name}.json"


def _checked(snapshot: Snapshot, location: Location) -> Snapshot:
    """Return the snapshot after checking its files against the hashes that they are named by in the cache."""
    for path in sorted(snapshot.folder.iterdir()):
        if path.is_file() and (difference := _named_by(path.resolve().name).mismatch_of(path)):
            raise CheckpointError(
                f"{path} in the cache was damaged: {difference}; remove {path.resolve()}, then "
                f"{LOGIN_NODE.format(location=location)}"
            )
    return snapshot


@dataclass(frozen=True, slots=True)
class _Named:
    expected: Expected

    def mismatch_of(self, path: Path) -> str:
        sha256 = self.expected.sha256
        if sha256 is None:
            return self.expected.mismatch(path)
        got = file_sha256(path)  # gigabytes are read once a process
        return "" if got == sha256 else f"sha256 {got}, expected {sha256}"


def _named_by(blob: str) -> _Named:
    if _HEX.fullmatch(blob) is None:
        return _Named(Expected())
    return _Named(Expected(sha256=blob) if len(blob) == 64 else Expected(git_sha1=blob))


def commit_files(location: Location) -> CommitFiles:
    """Ask the hub for the files of a repository's revision.

    Raises:
        UnreachableError, StatusError: no answer, or another one.
        CheckpointError: an answer that is not a hub's.
    """
    at = f"/revision/{urllib.parse.quote(location.revision, safe='')}" if location.revision else ""
    url = f"{endpoint()}/api/models/{location.name}{at}?blobs=true"
    body = read_small(url, hub_headers(), FACTS_BYTES_MAX)
    try:
        facts = json.loads(body)
        commit, siblings = facts["sha"], facts["siblings"]
        files = {str(entry["rfilename"]): _expected(entry) for entry in siblings}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{url} did not answer as the hub does ({error!r}); look at HF_ENDPOINT") from error
    if not is_commit(str(commit)):
        raise CheckpointError(f"{url} names the commit {str(commit)[:60]!r}, which is none; look at HF_ENDPOINT")
    return CommitFiles(commit=commit, files={name: expected for name, expected in files.items() if _is_plain(name)})


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file at the repository's root: others are never written."""
    return _FILE_NAME.fullmatch(name) is not None and name not in {".", ".."}


def _expected(entry: Mapping[str, Any]) -> Expected:
    large = entry.get("lfs") or {}
    size, sha256, blob = entry.get("size"), large.get("sha256"), entry.get("blobId")
    hashed = isinstance(sha256, str) and len(sha256) == 64 and _HEX.fullmatch(sha256) is not None
    return Expected(
        size=size if isinstance(size, int) and size >= 0 else None,
        sha256=sha256 if hashed else None,
        git_sha1=blob if not large and isinstance(blob, str) and is_commit(blob) else None,
    )


def _fetched(location: Location, tree: CommitFiles, names: Sequence[str]) -> Snapshot:
    """Download what is not there yet, weights last: where they are, all is."""
    check_pin(location, (tree.files.get(WEIGHTS_FILE) or Expected()).sha256)
    root = repository_folder(location.name)
    snapshot = Snapshot(folder=root / "snapshots" / tree.commit, commit=tree.commit, is_listed=True)
    locks = root.parent / ".locks" / root.name
    try:
        for folder in (snapshot.folder, root / "blobs", locks):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{root}: {error.strerror}; set HF_HOME to a folder where you may write") from error
    with locked(locks / "clipmed-names.lock"):
        write_shared(_listing(snapshot.folder), json.dumps(sorted(tree.files)))
    total = sum(tree.files[name].size or 0 for name in names)
    bar = tqdm(total=total or None, desc=str(location), unit="B", unit_scale=True, delay=SHOWN_AFTER_S, file=sys.stderr)
    with bar:
        for name in sorted(names, key=lambda name: (name.endswith(LARGE_SUFFIXES), name)):
            expected, start = tree.files[name], bar.n
            blob = root / "blobs" / _blob_name(tree.commit, name, expected)
            with locked(locks / f"{blob.name}.lock"):
                if not (blob.is_file() and not _Named(expected).mismatch_of(blob)):
                    _download(location, tree, name, blob, lambda have, start=start: bar.update(start + have - bar.n))
                link_file(blob, snapshot.folder / name, Path("..") / ".." / "blobs" / blob.name)
            bar.update(start + (expected.size or 0) - bar.n)
    if not is_commit(location.revision):
        with locked(locks / "clipmed-names.lock"):
            write_shared(root / "refs" / (location.revision or DEFAULT_REVISION), tree.commit)
    return snapshot


def _blob_name(commit: str, name: str, expected: Expected) -> str:
    """Return a blob's name: its hash, as the hub's own clients have it, or where none is known one of our own."""
    return expected.sha256 or expected.git_sha1 or "by-name-" + hashlib.sha256(f"{commit}/{name}".encode()).hexdigest()


def _download(location: Location, tree: CommitFiles, name: str, blob: Path, progress: Any) -> None:
    url = f"{endpoint()}/{location.name}/resolve/{tree.commit}/{urllib.parse.quote(name)}"
    limit = WEIGHTS_BYTES_MAX if name.endswith(LARGE_SUFFIXES) else SMALL_BYTES_MAX
    try:
        download(url, blob, tree.files[name], headers=hub_headers(), limit=limit, progress=progress)
    except (UnreachableError, StatusError) as error:
        raise _explained(error, location) from error


def _passes_by(error: UnreachableError | StatusError) -> bool:
    return not isinstance(error, StatusError) or error.status >= 500 or error.status == 429


def _explained(error: UnreachableError | StatusError, location: Location) -> CheckpointError:
    page = f"{endpoint()}/{location.name}"
    token = "set HF_TOKEN to a token that may read it (it was asked for with {} token)".format(
        "the given" if "authorization" in hub_headers() else "no"
    )
    if isinstance(error, StatusError) and (error.code == "GatedRepo" or error.status == 403):
        said = f"it is gated, or your token may not read it: accept its terms at {page}, and {token}"
    elif isinstance(error, StatusError) and error.code == "RevisionNotFound":
        said = f"it has no branch, tag or commit {location.revision!r}; see {page}/tree/main"
    elif isinstance(error, StatusError) and error.status in {401, 404}:
        said = f"there is no such repository, or it is private: check the name; for a private one, {token}"
    elif isinstance(error, StatusError):
        said = f"the hub has trouble ({error}); try again later"
    else:
        said = (
            f"the hub cannot be reached ({error}); check the network and HF_ENDPOINT, or "
            f"{LOGIN_NODE.format(location=location)}, and set HF_HUB_OFFLINE=1 here"
        )
    return CheckpointError(f"cannot fetch {location}: {said}")
