"""Objects of an archive by their keys, from a folder or a server, with a local mirror on top where one is named.

Keys are those of the public bucket: PMC<id>.<v>/PMC<id>.<v>.xml, PMC<id>.<v>/<media>, metadata/PMC<id>.<v>.json.

<mirror>/<key>          what was fetched, byte for byte: the mirror is itself a folder to build from
<mirror>/.partial/      what a killed process had not finished; may be deleted while nothing runs
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Collection
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.items import BYTES_PER_MB, path_problem, read_media
from dataset_builders.pmc.config import NetworkConfig, PmcConfig
from dataset_builders.pmc.metadata import PLAIN_MD5, md5_hex
from shards.objects import Fault, Object, ObjectClient, ObjectError, Patience, check_address

# Proxies and servers in trouble answer 200 with a page, or with the error's XML.
_PAGE = re.compile(rb"\s*(<!doctype html|<html|(<\?xml[^>]*>\s*)?<error\b)", re.I)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_PAGE_BYTES = 512
_WHOLE_ANSWERS = 10  # a whole answer may take so many times longer than the wait for its next bytes
_REASONS = {
    Fault.MISSING: RejectReason.MEDIA_MISSING,
    Fault.TOO_LARGE: RejectReason.FILE_TOO_LARGE,
    Fault.DAMAGED: RejectReason.CHECKSUM_MISMATCH,
    Fault.CHANGED: RejectReason.CHECKSUM_MISMATCH,
}


class Archive(Protocol):
    """Where the files of articles are read from; safe in threads."""

    def read(self, key: str, *, limit_mb: float, md5: str = "") -> bytes:
        """Return an object whose bytes are what they should be.

        Args:
            key: the object's name below the archive's root.
            limit_mb: most bytes, in MB.
            md5: its checksum in hex, or an ETag; one that is no plain MD5, as of an upload in parts, is not looked at.

        Raises:
            ItemRejectedError: media_missing, source_unreachable, checksum_mismatch (also an error page in the place of
                the file), file_too_large, or path_unsafe where the key leads elsewhere.
        """

    def names(self, folder: str) -> Collection[str]:
        """Return the names of the files in a folder; none where that would take a request: metadata say it there.

        Raises:
            ItemRejectedError: package_unreadable, where there is no such folder.
        """


def is_remote(root: str) -> bool:
    """Return whether an archive's root is an address, and not a folder's path."""
    return "://" in root


def open_archive(config: PmcConfig) -> Archive:
    """Open the archive at `config.root`, with the mirror that the config names on top; nothing is read yet.

    Raises:
        DataError: an address of an unknown kind, or one that holds credentials.
        ConfigError: the folder does not exist.
    """
    archive: Archive
    if is_remote(config.root) and not config.root.startswith("file://"):
        check_address(config.root)
        archive = RemoteArchive(config.root, config.network)
    else:
        archive = FolderArchive(_folder(config.root))
    return archive if config.mirror is None else MirrorArchive(config.mirror, archive)


class FolderArchive:
    """An archive in a folder. Links are not followed."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigError(
                f"root: no such folder: {root}; give a folder of PMC<id>.<version>/ folders or *.tar.gz packages, "
                "or an address such as s3://pmc-oa-opendata"
            )
        self._root = root

    def read(self, key: str, *, limit_mb: float, md5: str = "") -> bytes:
        """Return a file, as Archive says."""
        data = read_media(self._root, key, limit_mb)
        if damage := _damage(key, data, md5):
            raise ItemRejectedError(Stage.SOURCE, RejectReason.CHECKSUM_MISMATCH, damage)
        return data

    def names(self, folder: str) -> Collection[str]:
        """Return the names of the files in a folder, links among them: reading one says what is wrong."""
        try:
            with os.scandir(self._root / folder) as entries:
                return frozenset(entry.name for entry in entries if entry.is_file())
        except OSError as error:
            detail = f"{folder}: {error.strerror}"
            raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, detail) from error


class RemoteArchive:
    """An archive on a server, read by many threads under one limit on requests at once and a second."""

    def __init__(self, url: str, network: NetworkConfig) -> None:
        patience = Patience(
            timeout_s=network.timeout_s,
            whole_s=network.timeout_s * _WHOLE_ANSWERS,
            retries=network.retries,
            last_pause_s=network.max_backoff_s,
        )
        self._client = ObjectClient(url, patience, public=True)
        self._places = threading.BoundedSemaphore(network.concurrency)
        self._rate = RateLimit(network.requests_per_s, burst=network.concurrency)

    def read(self, key: str, *, limit_mb: float, md5: str = "") -> bytes:
        """Return an object, as Archive says; asked for again while it fails or its bytes are wrong."""
        _require_inside(key)
        changed = 0

        def attempt() -> bytes:
            nonlocal changed
            found = self._ask(key, int(limit_mb * BYTES_PER_MB))
            damage = _damage(key, found.data, md5)
            if damage and _is_as_sent(found):
                changed += 1
            if damage:  # what arrived as the server has it is asked for once more, not for as long as patience lasts
                raise ObjectError(Fault.CHANGED if changed > 1 else Fault.DAMAGED, damage)
            return found.data

        try:
            return self._client.retried(attempt)
        except ObjectError as error:
            reason = _REASONS.get(error.fault, RejectReason.SOURCE_UNREACHABLE)
            detail = error.detail.removeprefix(f"{self._client.url}/")  # the same, wherever the archive lies
            raise ItemRejectedError(Stage.SOURCE, reason, detail) from error

    def names(self, folder: str) -> Collection[str]:
        """Return nothing: what a folder on a server holds is known from its metadata."""
        return frozenset()

    def _ask(self, key: str, max_bytes: int) -> Object:
        self._rate.wait()
        with self._places:
            return self._client.get_once(key, max_bytes)


class MirrorArchive:
    """A folder that keeps what is fetched from an archive, and gives it while its checksum holds.

    What has no known checksum is fetched each time: an old copy could not be told from a new one. Any number of
    processes may share the folder. Files are not synced: one that a power cut damages fails its checksum and is
    fetched again.
    """

    def __init__(self, root: Path, archive: Archive) -> None:
        self._root = root
        self._archive = archive

    def read(self, key: str, *, limit_mb: float, md5: str = "") -> bytes:
        """Return the mirror's copy, or fetch and keep one, as Archive says."""
        _require_inside(key)
        kept = self._kept(key, limit_mb, md5)
        if kept is not None:
            return kept
        data = self._archive.read(key, limit_mb=limit_mb, md5=md5)
        self._keep(key, data)
        return data

    def names(self, folder: str) -> Collection[str]:
        """Return the names that the archive gives: the mirror may lack files."""
        return self._archive.names(folder)

    def _kept(self, key: str, limit_mb: float, md5: str) -> bytes | None:
        if not PLAIN_MD5.fullmatch(md5):
            return None
        try:
            data = read_media(self._root, key, limit_mb)
        except ItemRejectedError as error:
            if error.reason is RejectReason.PATH_UNSAFE:
                raise
            return None
        return data if md5_hex(data) == md5 else None

    def _keep(self, key: str, data: bytes) -> None:
        """Put a file in its place whole, whatever other processes do and whenever this one is killed."""
        problem = path_problem(self._root, key)
        if problem is not None and problem.reason is RejectReason.PATH_UNSAFE:
            raise problem.error()
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._partial, delete=False) as stream:
            stream.write(data)
        try:
            Path(stream.name).chmod(0o644)
            Path(stream.name).replace(path)
        finally:
            Path(stream.name).unlink(missing_ok=True)

    @cached_property
    def _partial(self) -> Path:
        folder = self._root / ".partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class RateLimit:
    """Lets so many through a second in the long run, `burst` of them at once; safe in threads."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval_s = 1 / per_s
        self._ahead_s = burst / per_s
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait for one's turn."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - self._ahead_s) + self._interval_s
            pause_s = self._next - now
        if pause_s > 0:
            time.sleep(pause_s)


def _folder(root: str) -> Path:
    if not root.startswith("file://"):
        return Path(root)
    check_address(root)
    return Path(unquote(urlsplit(root).path))


def _require_inside(key: str) -> None:
    """Raise ItemRejectedError where a key, which metadata may name, leads out of its archive."""
    path = PurePosixPath(key)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts and str(path) == key
    if not plain or _CONTROL.search(key):
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PATH_UNSAFE, f"{key!r} leaves the archive")


def _damage(key: str, data: bytes, md5: str) -> str:
    """Say what is wrong with an object's bytes; nothing where they may be right."""
    if PLAIN_MD5.fullmatch(md5):
        found = md5_hex(data)
        return "" if found == md5 else f"{key}: md5 {found}; stated: {md5}{_shown_page(data)}"
    if page := _shown_page(data):
        return key + page
    return f"{key} is no JSON" if key.endswith(".json") and not _is_json(data) else ""


def _shown_page(data: bytes) -> str:
    return ": a page in the place of the file" if _PAGE.match(data[:_PAGE_BYTES]) else ""


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _is_as_sent(found: Object) -> bool:
    """Whether the server's own ETag, where it is an MD5, confirms the bytes."""
    return found.etag == md5_hex(found.data)
