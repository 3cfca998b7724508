"""Settings of the builder of image–caption lists."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from clipmed.images import ImageConfig
from clipmed.records import SOURCE_NAME, Modality

MODALITIES = tuple(str(modality) for modality in Modality)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig:
    """A JSON-lines file with one image and its captions a line, and which of its fields say what."""

    source: str
    """name of the source in keys and reports: lower-case letters, digits and '_'"""
    file: str = "pairs.jsonl"
    """the list, relative to the root; images lie below the root too"""
    image_field: str = "image"
    """field with the image's path, relative to the root"""
    caption_field: str = "caption"
    """field with the caption, or a list of captions"""
    mention_field: str | None = None
    """field with the texts that mention the image: captions of origin `mention`"""
    group_field: str | None = None
    """field that says which images must stay in one split, such as the case; each image by itself if not given"""
    modality_field: str | None = None
    """field with the modality"""
    modality_map: dict[str, str] = field(default_factory=dict)
    """modality as the list writes it: clipmed's name of it"""
    modality: str = "other"
    """modality of every image, where no field says it"""
    license_field: str | None = None
    """field with each image's licence"""
    license_map: dict[str, str] = field(default_factory=dict)
    """licence as the list writes it: the licence that this means"""
    license: str = ""
    """licence of every image, where no field says it; empty if none is stated"""
    provenance_fields: tuple[str, ...] = ()
    """further fields to keep with the sample as they are"""
    min_caption_chars: int = 10
    """captions shorter than this are not used"""
    num_units: int = 8
    """work units; more units means finer resuming and more parallelism"""
    max_file_mb: float = 128.0
    """largest image file, in MB"""
    image: ImageConfig = field(default_factory=ImageConfig)
    """what an image must be, and how it is stored"""

    def __post_init__(self) -> None:
        if not SOURCE_NAME.fullmatch(self.source):
            raise ConfigError(f"source: got {self.source!r}; allowed: lower-case letters, digits and '_'")
        if self.num_units < 1 or self.min_caption_chars < 1:
            raise ConfigError(
                f"num_units={self.num_units}, min_caption_chars={self.min_caption_chars}; allowed: 1 or more"
            )
        for value in (self.modality, *self.modality_map.values()):
            if value not in MODALITIES:
                near = nearest(value, MODALITIES)
                raise ConfigError(f"modality: got {value!r}{near} Allowed: {', '.join(MODALITIES)}")
