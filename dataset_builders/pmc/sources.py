"""Articles of an archive behind one interface: versions in the public bucket's layout, and legacy packages.

<root>/PMC<id>.<version>/PMC<id>.<version>.xml, .json and media        one folder a version of an article
<root>/metadata/PMC<id>.<version>.json                                 the same JSON: licence, retraction, checksums
<root>/**/*.tar.gz                                                     packages: PMC<id>/*.nxml and media
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.pmc.archive import Archive, is_remote
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.metadata import PLAIN_MD5, ArticleMetadata, read_metadata
from dataset_builders.pmc.packages import Package, read_package

_MAX_METADATA_MB = 16.0
_OWN_SUFFIXES = ("xml", "json", "txt", "pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArticleRef:
    """Where one version of an article lies. Sorted by number, then newest version first.

    `version` is None in a package, which does not say. `etag` is that of the metadata when the archive was listed,
    empty if not known. `superseded_by` names the version or file that stands for the article instead; empty if none.
    """

    number: int
    version: int | None
    path: str
    layout: Literal["bucket", "packages"]
    etag: str = ""
    superseded_by: str = ""

    @property
    def pmcid(self) -> str:
        """The article's id, without version."""
        return f"PMC{self.number}"

    def __lt__(self, other: ArticleRef) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, str]:
        return self.number, -(self.version or 0), self.path


class Article(Protocol):
    """The files of one article version, read when asked for; safe in threads."""

    metadata: ArticleMetadata | None
    unsafe_members: tuple[str, ...]
    media_names: Collection[str]

    def xml(self) -> bytes:
        """Return the XML; raises ItemRejectedError where it is missing or differs from its checksum."""

    def media(self, name: str) -> bytes:
        """Return one of `media_names`; raises ItemRejectedError where it cannot be had as it should be."""


def open_article(ref: ArticleRef, archive: Archive, config: PmcConfig) -> Article:
    """Open one article version.

    Raises:
        ItemRejectedError: the package or the metadata cannot be read, is above the size limit, or is no longer what the
            reference was taken from (article_changed).
    """
    if ref.layout == "packages":
        return PackageArticle(read_package(Path(config.root) / ref.path, config.media))
    return BucketArticle(ref, archive, config)


class BucketArticle:
    """An article version in the bucket or in a copy of it."""

    unsafe_members: tuple[str, ...] = ()

    def __init__(self, ref: ArticleRef, archive: Archive, config: PmcConfig) -> None:
        self._name = ref.path
        self._archive = archive
        self._config = config
        self.metadata = _metadata(ref, archive, config)
        own = {f"{self._name}.{suffix}" for suffix in _OWN_SUFFIXES}
        self.media_names: Collection[str] = {*archive.names(self._name), *self._md5()} - own

    def xml(self) -> bytes:
        """Return the XML, checked against the metadata's checksum where that states one."""
        name = f"{self._name}.xml"
        try:
            return self._read(name, self._config.parse.max_xml_mb)
        except ItemRejectedError as error:
            absent = error.reason is RejectReason.MEDIA_MISSING
            unlike = error.reason is RejectReason.CHECKSUM_MISMATCH and not self._md5().get(name)
            if not absent and not unlike:
                raise
            raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, error.detail) from error

    def media(self, name: str) -> bytes:
        """Return a media file, checked against the metadata's checksum where that states one."""
        return self._read(name, self._config.media.max_media_mb)

    def _md5(self) -> Mapping[str, str]:
        return self.metadata.md5 if self.metadata else {}

    def _read(self, name: str, limit_mb: float) -> bytes:
        return self._archive.read(f"{self._name}/{name}", limit_mb=limit_mb, md5=self._md5().get(name, ""))


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


def _metadata(ref: ArticleRef, archive: Archive, config: PmcConfig) -> ArticleMetadata | None:
    """Return the metadata from the first of its two places that has them; None in a folder that has neither.

    Raises:
        ItemRejectedError: as the archive says, package_unreadable, or article_changed.
    """
    for folder in ("metadata", ref.path):
        key = f"{folder}/{ref.path}.json"
        try:
            return read_metadata(key, _metadata_bytes(key, ref, archive, config))
        except ItemRejectedError as error:
            if error.reason is not RejectReason.MEDIA_MISSING:
                raise
    if ref.etag or is_remote(config.root):
        detail = f"{ref.path} is listed, and its metadata are missing"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_CHANGED, detail)
    return None


def _metadata_bytes(key: str, ref: ArticleRef, archive: Archive, config: PmcConfig) -> bytes:
    """Return the JSON that the reference's ETag names; another, where the config takes what has changed."""
    try:
        return archive.read(key, limit_mb=_MAX_METADATA_MB, md5=ref.etag)
    except ItemRejectedError as error:
        if error.reason is not RejectReason.CHECKSUM_MISMATCH:
            raise
        mismatch = error
    if not PLAIN_MD5.fullmatch(ref.etag):
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, mismatch.detail) from mismatch
    try:
        other = archive.read(key, limit_mb=_MAX_METADATA_MB)
    except ItemRejectedError as error:
        if error.reason is not RejectReason.CHECKSUM_MISMATCH:
            raise
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, error.detail) from error
    if config.on_change == "reject":
        detail = f"{mismatch.detail}; take a new snapshot, or set on_change to take"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_CHANGED, detail)
    return other
