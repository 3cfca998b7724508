"""Settings of the PubMed Central builder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.errors import ConfigError
from clipmed.images import ImageConfig
from clipmed.records import SOURCE_NAME
from dataset_builders.figures.config import KindConfig, PanelConfig

Layout = Literal["auto", "bucket", "packages"]
_DATE = re.compile(r"(\d{4}(-\d\d(-\d\d)?)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseLimits:
    """What the XML of an article may be before it is refused."""

    max_xml_mb: float = 64.0
    """largest XML file of an article, in MB"""
    recover_structure: bool = False
    """also take what can be read of XML with broken tags or a missing end; off, only damaged characters are repaired"""

    def __post_init__(self) -> None:
        _require_positive("parse.max_xml_mb", self.max_xml_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """How much is read into memory for one article."""

    max_media_mb: float = 128.0
    """largest image file, in MB"""
    max_package_mb: float = 2048.0
    """largest package once unpacked, in MB; reading stops there"""

    def __post_init__(self) -> None:
        _require_positive("media.max_media_mb", self.max_media_mb)
        _require_positive("media.max_package_mb", self.max_package_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class MentionConfig:
    """Which paragraphs that cite a figure become captions of it, and how much of each."""

    max_mentions: int = 8
    """most paragraphs kept for one figure, in the article's order"""
    max_chars: int = 1500
    """paragraphs longer than this are cut to whole sentences around the citation"""
    max_sentences: int = 5
    """most sentences kept of a paragraph that is cut"""
    min_chars: int = 20
    """paragraphs shorter than this are left out"""

    def __post_init__(self) -> None:
        for name in ("max_mentions", "max_chars", "max_sentences", "min_chars"):
            if getattr(self, name) < 0:
                raise ConfigError(f"mentions.{name}: got {getattr(self, name)}; allowed: 0 or more")
        if self.max_sentences < 1 or self.max_chars < 1:
            raise ConfigError(
                f"mentions: got max_sentences={self.max_sentences}, max_chars={self.max_chars}; allowed: 1 or more; "
                "set max_mentions to 0 to leave mentions out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfig:
    """Which articles are read at all, decided on the archive's metadata before any XML or image is fetched.

    An article in a package has no metadata: only the ids, and what its own XML says of its licence, decide there.
    """

    license_groups: tuple[Literal["commercial", "noncommercial", "other"], ...] = ("commercial", "noncommercial")
    """licence groups of the metadata's code; no code, and TDM (text mining only), are in `other`"""
    retracted: bool = False
    """also articles that their metadata calls retracted"""
    historical_ocr: bool = False
    """also scanned articles whose text was read by a machine"""
    published_from: str = ""
    """earliest publication date, as 2020, 2020-07 or 2020-07-15; empty: no limit"""
    published_to: str = ""
    """latest publication date, inclusive, in the same form; empty: no limit"""
    journals: tuple[str, ...] = ()
    """journals to keep, by the abbreviation that the metadata's citation begins with; none given: all"""
    ids: Path | None = None
    """file of ids to keep, one a line: PMC ids, PubMed ids (digits) or DOIs; # starts a comment"""
    exclude_ids: Path | None = None
    """file of ids to leave out, in the same form"""

    def __post_init__(self) -> None:
        if not self.license_groups:
            raise ConfigError(
                "select.license_groups: got none; allowed: one or more of commercial, noncommercial, other"
            )
        for name in ("published_from", "published_to"):
            if not _DATE.fullmatch(getattr(self, name)):
                raise ConfigError(f"select.{name}: got {getattr(self, name)!r}; allowed: YYYY, YYYY-MM or YYYY-MM-DD")
        first, last = self.published_from, self.published_to
        if last and first[: len(last)] > last[: len(first)]:
            raise ConfigError(f"select: published_from {first} comes after published_to {last}; nothing would be read")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """How an archive on a server is read. Nothing here changes what is built."""

    concurrency: int = 32
    """requests at once, in each process"""
    requests_per_s: float = 100.0
    """most requests a second, in each process; retries count"""
    retries: int = 6
    """how often a request is repeated that failed, broke off or gave bytes with a wrong checksum"""
    timeout_s: float = 60.0
    """longest wait for an answer, in seconds"""
    max_backoff_s: float = 15.0
    """longest pause before a request is repeated, in seconds; pauses double from 0.1 s"""
    stop_after_unreachable: int = 20
    """end with an error when so many articles in a row cannot be reached; building again goes on from there"""

    def __post_init__(self) -> None:
        _require_positive("network.requests_per_s", self.requests_per_s)
        _require_positive("network.timeout_s", self.timeout_s)
        for name in ("concurrency", "stop_after_unreachable"):
            if getattr(self, name) < 1:
                raise ConfigError(f"network.{name}: got {getattr(self, name)}; allowed: 1 or more")
        if self.retries < 0 or self.max_backoff_s < 0:
            raise ConfigError(
                f"network: got retries={self.retries}, max_backoff_s={self.max_backoff_s}; allowed: 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PmcConfig:
    """An archive of PubMed Central articles, and what of them becomes samples."""

    root: str
    """folder or address (s3://…, gs://…, https://…) of PMC<id>.<version>/ folders as the public bucket has them, or a
    folder of *.tar.gz packages"""
    snapshot: Path | None = None
    """the pinned list of articles that `pmc snapshot` wrote; without one the archive is listed when the build begins"""
    mirror: Path | None = None
    """folder that what is fetched is kept in, in the bucket's layout, and taken from while its checksums hold"""
    source: str = "pmc"
    """name of the source in keys and reports"""
    layout: Layout = "auto"
    """bucket: article folders and metadata/. packages: legacy *.tar.gz. auto: whatever of the two is there"""
    num_units: int = 16
    """work units; more units means finer resuming and more parallelism"""
    on_change: Literal["reject", "take"] = "reject"
    """what to do with an article whose metadata is no longer the snapshot's"""
    min_caption_chars: int = 10
    """captions shorter than this are not used"""
    image: ImageConfig = field(default_factory=ImageConfig)
    """what an image must be, and how it is stored"""
    mentions: MentionConfig = field(default_factory=MentionConfig)
    """the paragraphs that cite a figure"""
    parse: ParseLimits = field(default_factory=ParseLimits)
    """limits on an article's XML"""
    media: MediaLimits = field(default_factory=MediaLimits)
    """limits on an article's files"""
    select: SelectionConfig = field(default_factory=SelectionConfig)
    """which articles are read"""
    panels: PanelConfig = field(default_factory=PanelConfig)
    """what becomes of compound figures"""
    kinds: KindConfig = field(default_factory=KindConfig)
    """how figures are told apart from plots and diagrams"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """how an archive on a server is read"""

    def __post_init__(self) -> None:
        if not SOURCE_NAME.fullmatch(self.source):
            raise ConfigError(f"source: got {self.source!r}; allowed: lower-case letters, digits and '_'")
        if self.num_units < 1:
            raise ConfigError(f"num_units: got {self.num_units}; allowed: 1 or more")
        if self.min_caption_chars < 1:
            raise ConfigError(f"min_caption_chars: got {self.min_caption_chars}; allowed: 1 or more")


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name}: got {value}; allowed: more than 0")
