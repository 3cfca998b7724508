"""Settings of the PubMed Central builder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.errors import ConfigError
from clipmed.images import ImageConfig
from clipmed.records import SOURCE_NAME

Layout = Literal["auto", "bucket", "packages"]


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
class PmcConfig:
    """A folder of PubMed Central articles, and what of them becomes samples."""

    root: Path
    """folder of articles: PMC<id>.<version>/ folders as the public bucket has them, or *.tar.gz packages"""
    source: str = "pmc"
    """name of the source in keys and reports"""
    layout: Layout = "auto"
    """bucket: article folders and metadata/. packages: legacy *.tar.gz. auto: whatever of the two is there"""
    num_units: int = 16
    """work units; more units means finer resuming and more parallelism"""
    include_retracted: bool = False
    """keep articles that their metadata calls retracted"""
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
