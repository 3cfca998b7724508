"""Checkpoints that lie as a folder on a plain web server, kept in a cache by URL and version.

    $HF_HOME/clipmed/urls/HASH OF URL/url.txt        the URL
                                     /VERSION/FILE   the folder's files; a version is what SHA256SUMS or the ETags say
                                     /latest.txt     the version that was last seen

A web server lists no files: those of SHA256SUMS are fetched, and where there is none, those that a checkpoint may have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from clipmed.checkpoint_files import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    SUMS_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    check_sums,
    read_sums,
)
from clipmed.errors import CheckpointError
from clipmed.files import replace_folder
from clipmed.hub.environment import is_offline, own_cache
from clipmed.hub.locations import Location
from clipmed.hub.partials import claimed, left_overs, remove, write_shared
from clipmed.hub.repositories import check_pin
from clipmed.hub.transfer import (
    SMALL_BYTES_MAX,
    WEIGHTS_BYTES_MAX,
    Expected,
    StatusError,
    UnreachableError,
    download,
    opened,
)
from clipmed.locks import locked

LATEST_FILE = "latest.txt"
SHOWN_AFTER_S = 2.0
OPTIONAL_FILES = (CARD_FILE, CALIBRATION_FILE)

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remote:
    """A file as the server describes it."""

    size: int | None
    stamp: str
    """its ETag, or its date where it has none"""


def fetch_web_folder(location: Location, *, offline: bool | None = None) -> Path:
    """Download, or find in the cache, the checkpoint folder at a URL.

    Without a network it is what it was when it was last asked for, and a warning is logged.

    Args:
        location: of the kind `url`.
        offline: use the cache alone; $HF_HUB_OFFLINE if not given.

    Raises:
        CheckpointError: nothing there, no network and nothing in the cache, or other bytes than SHA256SUMS says.
    """
    home = cache_of_url(location.name)
    cached = _cached(home)
    if is_offline(offline):
        if cached is None:
            raise CheckpointError(
                f"{location} is not in the cache {home.parent}, and offline mode is on; on a machine with a network "
                f"run `clipmed pull {location}`, with the same HF_HOME, or unset HF_HUB_OFFLINE"
            )
        return cached
    try:
        return _fetched(location, home)
    except UnreachableError as error:
        if cached is None:
            raise CheckpointError(
                f"cannot fetch {location}: {error}; check the network, or on a machine with one run "
                f"`clipmed pull {location}`, with the same HF_HOME, and set HF_HUB_OFFLINE=1 here"
            ) from error
        _LOGGER.warning("%s does not answer; the cache's copy is used", location)
        return cached


def cache_of_url(url: str) -> Path:
    """Return the folder that keeps the versions of a URL's folder."""
    return own_cache("urls") / hashlib.sha256(url.encode()).hexdigest()[:32]


def _cached(home: Path) -> Path | None:
    try:
        version = (home / LATEST_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    folder = home / version
    return folder if version and "/" not in version and (folder / CONFIG_FILE).is_file() else None


def _fetched(location: Location, home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "lock"):
        sums = _sums(location, home)
        remote = _remote_files(location, sums)
        if WEIGHTS_FILE not in remote or CONFIG_FILE not in remote:
            missing = CONFIG_FILE if CONFIG_FILE not in remote else WEIGHTS_FILE
            raise CheckpointError(
                f"{location} has no {missing}; give the URL of a checkpoint's folder: one with {CONFIG_FILE} and "
                f"{WEIGHTS_FILE} (pickled weights are not read, since loading them can run code)"
            )
        check_pin(location, sums.get(WEIGHTS_FILE))
        version = _version(sums, remote)
        folder = home / version
        if not (folder / CONFIG_FILE).is_file():
            with claimed(folder) as partial:
                _download_all(location, remote, sums, partial)
                check_sums(partial)
                _put(partial, folder)
            for left in left_overs(home):  # of versions that are no more
                remove(left)
        write_shared(home / "url.txt", location.name + "\n")
        write_shared(home / LATEST_FILE, version)
        return folder


def _put(partial: Path, folder: Path) -> None:
    """Rename a whole folder to what it shall be called; on a disk without locks another process may be first."""
    if (folder / CONFIG_FILE).is_file():
        return
    try:
        replace_folder(partial, folder)
    except OSError:
        if not (folder / CONFIG_FILE).is_file():
            raise


def _sums(location: Location, home: Path) -> dict[str, str]:
    """Return the hashes that the folder's SHA256SUMS lists; empty where it has none."""
    with tempfile.TemporaryDirectory(dir=home) as incoming:
        try:
            _get(location, SUMS_FILE, Path(incoming) / SUMS_FILE, Expected(), lambda _: None)
        except StatusError as error:
            if error.status not in {403, 404, 410}:
                raise CheckpointError(f"cannot fetch {location}: {error}") from error
            return {}
        return read_sums(Path(incoming)) or {}


def _remote_files(location: Location, sums: Mapping[str, str]) -> dict[str, _Remote]:
    names = (
        [*sums, SUMS_FILE, *OPTIONAL_FILES] if sums else [CONFIG_FILE, WEIGHTS_FILE, *OPTIONAL_FILES, *TOKENIZER_FILES]
    )
    found = {}
    for name in names:
        try:
            with opened(_url(location, name), {"Accept-Encoding": "identity"}, method="HEAD") as answer:
                size = answer.headers.get("Content-Length") or ""
                stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                found[name] = _Remote(size=int(size) if size.isdecimal() else None, stamp=stamp)
        except StatusError as error:
            if name in sums or error.status not in {403, 404, 410}:
                raise CheckpointError(f"cannot fetch {location}: {error}") from error
    return found


def _version(sums: Mapping[str, str], remote: Mapping[str, _Remote]) -> str:
    """Return a name for the state of the folder that the server has now."""
    facts = [
        (name, sums.get(name) or f"{one.size} {one.stamp}") for name, one in sorted(remote.items()) if name != SUMS_FILE
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _download_all(location: Location, remote: Mapping[str, _Remote], sums: Mapping[str, str], partial: Path) -> None:
    partial.mkdir(exist_ok=True)
    total = sum(one.size or 0 for one in remote.values())
    bar = tqdm(total=total or None, desc=str(location), unit="B", unit_scale=True, delay=SHOWN_AFTER_S, file=sys.stderr)
    with bar:
        for name in sorted(remote, key=lambda name: (name == WEIGHTS_FILE, name)):
            path, start = partial / name, bar.n
            expected = Expected(size=remote[name].size, sha256=sums.get(name))
            if path.is_file() and not expected.mismatch(path):
                continue
            try:
                _get(location, name, path, expected, lambda have, start=start: bar.update(start + have - bar.n))
            except StatusError as error:
                raise CheckpointError(f"cannot fetch {location}: {error}") from error


def _get(location: Location, name: str, path: Path, expected: Expected, progress: object) -> None:
    limit = WEIGHTS_BYTES_MAX if name == WEIGHTS_FILE else SMALL_BYTES_MAX
    download(_url(location, name), path, expected, headers={}, limit=limit, progress=progress)  # type: ignore[arg-type]


def _url(location: Location, name: str) -> str:
    return location.name + urllib.parse.quote(name)
