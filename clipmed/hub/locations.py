"""What a checkpoint's location says.

    folder                        a path of this machine
    hf-hub:org/name[@revision]    a repository of the Hugging Face hub; the revision is a branch, a tag or a commit
    MODEL:TAG                     pretrained weights that OpenCLIP lists, such as ViT-B-32:openai
    https://host/folder           a folder of the same files on a web server; http:// as well

Each may end in #sha256=<64 hex digits>, the hash that the weights must have: a location that is pinned to its bytes.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipmed.errors import ConfigError

HUB_PREFIX = "hf-hub:"
SHA256_MARK = "#sha256="
LOCATIONS = "a folder, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or https://host/folder"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a checkpoint lies. `name` is a path, org/name, MODEL:TAG or a URL that ends in a slash."""

    kind: Literal["folder", "hub", "tag", "url"]
    name: str
    revision: str | None = None
    """a branch, tag or commit of the hub; its default branch if not given"""
    sha256: str | None = None
    """hex SHA-256 that the weights must have"""

    def __str__(self) -> str:
        name = f"{HUB_PREFIX}{self.name}" if self.kind == "hub" else self.name
        return f"{name}@{self.revision}" if self.revision else name


def parse_location(location: str | Path, *, revision: str | None = None, sha256: str | None = None) -> Location:
    """Return what a location says; `revision` and `sha256` may be given apart from it.

    >>> parse_location("hf-hub:org/name@v1")
    Location(kind='hub', name='org/name', revision='v1', sha256=None)

    Raises:
        ConfigError: a malformed name, revision or hash, a revision of what has none, or two that differ.
    """
    text, sha256 = split_sha256(str(location), sha256)
    if text.startswith(HUB_PREFIX):
        return _hub_location(text, revision, sha256)
    if revision is not None:
        raise ConfigError(f"revision: got {revision!r} for {text}; allowed: with {HUB_PREFIX}org/name alone")
    if re.match(r"https?://", text):
        return Location(kind="url", name=_folder_url(text), sha256=sha256)
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text, re.IGNORECASE)
    if scheme:
        raise ConfigError(f"{text}: got the scheme {scheme[1]}://; allowed: {LOCATIONS}")
    model, colon, tag = text.partition(":")
    if colon and model and tag and not {"/", "\\"} & set(text) and not Path(text).exists():
        return Location(kind="tag", name=text, sha256=sha256)
    return Location(kind="folder", name=text, sha256=sha256)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit's full hash, whose files never change."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def check_repository(name: str) -> str:
    """Return the name of a hub repository, after checking that it is one.

    Raises:
        ConfigError: not org/name.
    """
    if _REPOSITORY.fullmatch(name) is None or ".." in name:
        raise ConfigError(f"got the repository {name!r}; allowed: org/name, of letters, digits, '.', '_' and '-'")
    return name


def split_sha256(text: str, sha256: str | None = None) -> tuple[str, str | None]:
    """Return a location without the hash that it may end in, and the hash, which may be given apart from it.

    Raises:
        ConfigError: a malformed hash, or two that differ.
    """
    text, mark, given = text.partition(SHA256_MARK)
    if mark and sha256 not in (None, given):
        raise ConfigError(f"sha256: got {sha256} and, in the location, {given}; give one")
    found = given if mark else sha256
    if found is not None and _SHA256.fullmatch(found) is None:
        raise ConfigError(f"sha256: got {found!r}; allowed: the 64 lower-case hex digits that sha256sum prints")
    return text, found


def _hub_location(text: str, revision: str | None, sha256: str | None) -> Location:
    name, at, given = text.removeprefix(HUB_PREFIX).partition("@")
    if at and revision not in (None, given):
        raise ConfigError(f"revision: got {revision!r} and, in the location, {given!r}; give one")
    found = given if at else revision
    if found is not None and (_REVISION.fullmatch(found) is None or ".." in found):
        raise ConfigError(f"{text}: got the revision {found!r}; allowed: a branch, a tag or a commit")
    return Location(kind="hub", name=check_repository(name), revision=found, sha256=sha256)


def _folder_url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    try:
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(
            f"{_without_user(text)}: not the URL of a folder; allowed: https://host/folder, without user, query or "
            "fragment"
        )
    return text.rstrip("/") + "/"


def _without_user(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", text)
