"""Archives of articles behind one interface: folders in the public bucket's layout, and legacy packages.

<root>/PMC<id>.<version>/PMC<id>.<version>.xml, .json and media        one folder a version of an article
<root>/metadata/PMC<id>.<version>.json                                 the same JSON: licence, retraction, checksums
<root>/**/*.tar.gz                                                     packages: PMC<id>/*.nxml and media
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.items import read_media
from dataset_builders.pmc.config import Layout, PmcConfig
from dataset_builders.pmc.metadata import ArticleMetadata, check_md5, read_metadata
from dataset_builders.pmc.packages import Package, package_pmcid, read_package

_VERSION_FOLDER = re.compile(r"PMC(\d+)\.(\d+)")
_UNVERSIONED = 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ArticleRef:
    """Where one version of an article lies. Sorted by number, then newest version first.

    `superseded_by` names the version or file that stands for the article instead of this one; empty if none does.
    """

    number: int
    rank: int
    path: str
    layout: Literal["bucket", "packages"]
    superseded_by: str = ""

    @property
    def pmcid(self) -> str:
        """The article's id, without version."""
        return f"PMC{self.number}"

    @property
    def version(self) -> int | None:
        """The version's number; None in a package, which does not say."""
        return -self.rank or None


class Article(Protocol):
    """The files of one article version, read when asked for."""

    metadata: ArticleMetadata | None
    unsafe_members: tuple[str, ...]
    media_names: Collection[str]

    def xml(self) -> bytes:
        """Return the XML; raises ItemRejectedError where it is missing or differs from its checksum."""

    def media(self, name: str) -> bytes:
        """Return one of `media_names`; raises ItemRejectedError where it cannot be had as it should be."""


def list_articles(root: Path, layout: Layout) -> list[ArticleRef]:
    """Return every version of every article under `root`, by number, newest first; the same for the same files.

    Only names are read: no article is opened, but packages whose file name lacks a PMC number.

    Raises:
        ConfigError: the folder does not exist or holds no article of the layout.
    """
    if not root.is_dir():
        raise ConfigError(
            f"root: no such folder: {root}; give a folder of PMC<id>.<version>/ folders or *.tar.gz packages"
        )
    refs: list[ArticleRef] = []
    if layout in {"auto", "bucket"}:
        refs += _bucket_refs(root)
    if layout in {"auto", "packages"}:
        refs += _package_refs(root)
    if not refs:
        raise ConfigError(
            f"root: {root} holds no article in the layout {layout!r}; "
            "allowed: PMC<id>.<version>/ folders (bucket) or *.tar.gz files (packages)"
        )
    return _mark_superseded(sorted(refs))


def open_article(ref: ArticleRef, config: PmcConfig) -> Article:
    """Open one article version.

    Raises:
        ItemRejectedError: the package or the metadata cannot be read, or is above the size limit.
    """
    if ref.layout == "packages":
        return PackageArticle(read_package(config.root / ref.path, config.media))
    return BucketArticle(config.root, ref.path, config)


class BucketArticle:
    """An article version in a local copy of the bucket."""

    unsafe_members: tuple[str, ...] = ()

    def __init__(self, root: Path, name: str, config: PmcConfig) -> None:
        self._root = root
        self._name = name
        self._config = config
        candidates = (root / "metadata" / f"{name}.json", root / name / f"{name}.json")
        self.metadata = read_metadata(next((path for path in candidates if path.is_file()), None))
        try:
            present = {entry.name for entry in os.scandir(root / name) if entry.is_file()}
        except OSError as error:
            raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, f"{name}: {error}") from error
        own = {f"{name}.{suffix}" for suffix in ("xml", "json", "txt", "pdf")}
        self.media_names: Collection[str] = (present | self._md5().keys()) - own

    def xml(self) -> bytes:
        """Return the XML, checked against the metadata's checksum where that states one."""
        try:
            return self._read(f"{self._name}.xml", self._config.parse.max_xml_mb)
        except ItemRejectedError as error:
            if error.reason is not RejectReason.MEDIA_MISSING:
                raise
            raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, error.detail) from error

    def media(self, name: str) -> bytes:
        """Return a media file, checked against the metadata's checksum where that states one."""
        return self._read(name, self._config.media.max_media_mb)

    def _md5(self) -> Mapping[str, str]:
        return self.metadata.md5 if self.metadata else {}

    def _read(self, name: str, limit_mb: float) -> bytes:
        data = read_media(self._root, f"{self._name}/{name}", limit_mb)
        check_md5(name, data, self._md5().get(name))
        return data


class PackageArticle:
    """An article in a legacy package, held in memory."""

    metadata: ArticleMetadata | None = None

    def __init__(self, package: Package) -> None:
        self._package = package
        self.unsafe_members = package.unsafe_members
        self.media_names: Collection[str] = package.media.keys() | package.too_large.keys()

    def xml(self) -> bytes:
        """Return the package's .nxml."""
        if self._package.xml is None:
            raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, "no .nxml in the package")
        return self._package.xml

    def media(self, name: str) -> bytes:
        """Return a media member."""
        if name in self._package.too_large:
            detail = f"{name} has {self._package.too_large[name]} bytes, above the limit"
            raise ItemRejectedError(Stage.SOURCE, RejectReason.FILE_TOO_LARGE, detail)
        return self._package.media[name]


def _bucket_refs(root: Path) -> list[ArticleRef]:
    refs = []
    with os.scandir(root) as entries:
        for entry in entries:
            match = _VERSION_FOLDER.fullmatch(entry.name)
            if match and entry.is_dir():
                number, version = int(match.group(1)), int(match.group(2))
                refs.append(ArticleRef(number=number, rank=-version, path=entry.name, layout="bucket"))
    return refs


def _package_refs(root: Path) -> list[ArticleRef]:
    refs = []
    for path in root.rglob("*.tar.gz"):
        relative = path.relative_to(root).as_posix()
        refs.append(ArticleRef(number=package_pmcid(path), rank=_UNVERSIONED, path=relative, layout="packages"))
    return refs


def _mark_superseded(refs: list[ArticleRef]) -> list[ArticleRef]:
    """Let the first of each article stand, and mark the others with its path."""
    newest: dict[int, str] = {}
    marked = []
    for ref in refs:
        # Packages of unknown number are articles of their own.
        standing = newest.setdefault(ref.number, ref.path) if ref.number else ref.path
        superseded_by = standing if standing != ref.path else ""
        marked.append(
            ArticleRef(number=ref.number, rank=ref.rank, path=ref.path, layout=ref.layout, superseded_by=superseded_by)
        )
    return marked
