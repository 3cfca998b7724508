"""Checkpoints from elsewhere: the Hugging Face hub, OpenCLIP's pretrained tags, and folders on the web.

`fetch` gives the local folder of a location; `clipmed.hub.publishing` sends one to the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipmed.checkpoint_files import (
    CONFIG_FILE,
    SMALL_FILES,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    check_sum,
    text_names_elsewhere,
)
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub.environment import is_offline
from clipmed.hub.locations import HUB_PREFIX, LOCATIONS, Location, parse_location
from clipmed.hub.repositories import LOGIN_NODE, Snapshot, fetch_repository

__all__ = [
    "HUB_PREFIX",
    "LOCATIONS",
    "Fetched",
    "Location",
    "fetch",
    "fetch_snapshot",
    "parse_location",
    "pinned",
    "resolve",
]

PICKLES = ("open_clip_pytorch_model.bin", "pytorch_model.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A checkpoint's folder on this machine, and where it came from."""

    location: Location
    folder: Path
    commit: str | None = None
    """of a hub repository"""


def fetch(
    location: str | Path, *, revision: str | None = None, sha256: str | None = None, offline: bool | None = None
) -> Path:
    """Return the folder of a checkpoint on this machine, downloaded first where it must be.

    Downloads are resumed, checked against the hub's hashes or SHA256SUMS, and kept: those of the hub in its own cache
    ($HF_HOME), where other programs find them.

    Args:
        location: a folder (returned as it is), `hf-hub:org/name[@revision]`, OpenCLIP's `MODEL:TAG`, or
            `https://host/folder`; each may end in `#sha256=…`.
        revision: branch, tag or commit of a hub repository. A commit's full hash pins every byte.
        sha256: hex SHA-256 that the weights must have.
        offline: use the cache alone; $HF_HUB_OFFLINE if not given.

    Raises:
        ConfigError: a malformed location.
        CheckpointError: nothing there, no permission, no network and nothing in the cache, or other bytes than they
            should be.
    """
    return resolve(location, revision=revision, sha256=sha256, offline=offline).folder


def resolve(
    location: str | Path, *, revision: str | None = None, sha256: str | None = None, offline: bool | None = None
) -> Fetched:
    """Do the same as `fetch`, and say which commit it is.

    What a checkpoint from elsewhere only names, its text tower's config and tokenizer, is fetched, too: it can be used
    offline then.
    """
    parsed = parse_location(location, revision=revision, sha256=sha256)
    try:
        found = _found(parsed, offline)
    except OSError as error:
        raise CheckpointError(
            f"cannot fetch {parsed}: {error}; is there room, and may you write to the cache (HF_HOME)?"
        ) from error
    _fetch_text_tower(found, offline)
    if parsed.sha256 is not None:
        check_sum(found.folder / WEIGHTS_FILE, parsed.sha256, "the weights are others than those that were pinned")
    return found


def pinned(fetched: Fetched, sha256: str) -> str:
    """Return the line of code that loads exactly this checkpoint.

    Args:
        fetched: the checkpoint.
        sha256: hex SHA-256 of its weights.
    """
    location = fetched.location
    if fetched.commit is not None and location.kind == "hub":
        location = replace(location, revision=fetched.commit)
    return f'clipmed.load("{location}", sha256="{sha256}")'


def fetch_snapshot(location: str, wanted: Sequence[str], *, offline: bool | None = None) -> Path:
    """Download, or find in the cache, files of a hub repository; return the folder that holds those that there are.

    Args:
        location: `hf-hub:org/name`, or with a branch, tag or commit `hf-hub:org/name@revision`.
        wanted: names or patterns of files.
        offline: use the cache alone; $HF_HUB_OFFLINE if not given.

    Raises:
        CheckpointError: no such repository, no network and nothing in the cache, or no permission.
    """
    parsed = parse_location(location)
    if parsed.kind != "hub":
        raise ConfigError(f"got {location!r}; allowed: {HUB_PREFIX}org/name[@revision]")
    return fetch_repository(parsed, wanted, offline=offline).folder


def _found(location: Location, offline: bool | None) -> Fetched:
    if location.kind == "hub":
        snapshot = fetch_repository(location, (*SMALL_FILES, WEIGHTS_FILE), offline=offline)
        _check_kind(snapshot, location)
        return Fetched(location=location, folder=snapshot.folder, commit=snapshot.commit)
    if location.kind == "url":
        from clipmed.hub.web_folders import fetch_web_folder

        return Fetched(location=location, folder=fetch_web_folder(location, offline=offline))
    if location.kind == "tag":
        from clipmed.hub.openclip_tags import fetch_tag

        snapshot = fetch_tag(location, offline=offline)
        return Fetched(location=location, folder=snapshot.folder, commit=snapshot.commit)
    return Fetched(location=location, folder=Path(location.name))


def _fetch_text_tower(found: Fetched, offline: bool | None) -> None:
    """Fetch the text tower that a config names, unless it lies beside it, or nothing can be fetched now."""
    from clipmed.checkpoint_config import is_hub_name

    if found.location.kind == "folder" or is_offline(offline):
        return
    for name in text_names_elsewhere(found.folder):
        if is_hub_name(name):
            fetch_repository(Location(kind="hub", name=name), TOKENIZER_FILES, offline=offline)


def _check_kind(snapshot: Snapshot, location: Location) -> None:
    folder = snapshot.folder
    lacks = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if lacks and not snapshot.is_listed:
        raise CheckpointError(
            f"{location}: the cache has no {' and no '.join(lacks)} of commit {snapshot.commit}, and without a network "
            f"nobody knows whether the hub has; {LOGIN_NODE.format(location=location)}"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{location} is no checkpoint in OpenCLIP's layout: it has no {CONFIG_FILE}; `clipmed import {location}` "
            "converts those in transformers' layout"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{location} has no {WEIGHTS_FILE}; pickled weights are not read, since loading them can run code; "
            f"`clipmed import {location} --out FOLDER` converts known layouts safely, or name a revision that has "
            "safetensors"
        )
