"""The sample: one image with everything known of it, as it travels from builder to score."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from clipmed.errors import DataError
from clipmed.licenses import license_group

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class Modality(StrEnum):
    """How the image was made."""

    XRAY = "xray"
    CT = "ct"
    MRI = "mri"
    ULTRASOUND = "ultrasound"
    NUCLEAR = "nuclear"
    HISTOPATHOLOGY = "histopathology"
    MICROSCOPY = "microscopy"
    FUNDUS = "fundus"
    OCT = "oct"
    DERMATOLOGY = "dermatology"
    ENDOSCOPY = "endoscopy"
    OTHER = "other"


class Split(StrEnum):
    """The part of the set that a sample belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


CaptionOrigin = Literal[
    "figure", "subfigure", "mention", "report", "findings", "impression", "indication", "template", "llm", "rewrite"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One text of an image, and where it comes from.

    figure, subfigure, mention: of an article or a list of images; report and its sections findings, impression and
    indication: of a radiology report; template, llm: made from facts or from the image; rewrite: a native text made
    cleaner or shorter.
    `model` and `prompt` name the captioner and its prompt version; for templates the bank's name and version.
    """

    text: str
    origin: CaptionOrigin
    model: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("a caption must hold text: got an empty one; drop it or reject the item")

    def row(self) -> dict[str, str | None]:
        """Return the fields by name; `dataclasses.asdict` copies them for ten times as long."""
        return {"text": self.text, "origin": self.origin, "model": self.model, "prompt": self.prompt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with everything known of it; `image` is JPEG bytes, never re-encoded after this.

    `facts` are what label-made captions state ({"modality": …, "finding": …}): samples with equal facts have equal
    meaning for the loss. They are None for free text. `labels` maps a task to class ids. `split` is None until the
    packer decides it, unless the source has an official one. `provenance` is source-specific and JSON-serialisable.
    """

    key: str
    source: str
    image: bytes = field(repr=False)
    captions: tuple[Caption, ...]
    modality: Modality
    group: str
    license: str
    width: int
    height: int
    sha256: str
    phash: str
    labels: dict[str, list[str]] = field(default_factory=dict)
    facts: dict[str, str] | None = None
    split: Split | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.captions:
            raise DataError(f"sample {self.key} has no caption; allowed: one or more; reject the item instead")

    def row(self) -> dict[str, Any]:
        """Everything but the image bytes, as one flat row: the JSON member of a shard and the row of a parquet."""
        return {
            "key": self.key,
            "source": self.source,
            "captions": [caption.row() for caption in self.captions],
            "labels": [{"task": task, "classes": classes} for task, classes in sorted(self.labels.items())],
            "facts": canonical_json(self.facts) if self.facts is not None else None,
            "modality": str(self.modality),
            "group": self.group,
            "split": str(self.split) if self.split else None,
            "license": self.license,
            "license_group": str(license_group(self.license)),
            "provenance": canonical_json(self.provenance),
            "width": self.width,
            "height": self.height,
            "sha256": self.sha256,
            "phash": self.phash,
        }


def sample_key(source: str, source_id: str) -> str:
    """Return `<source>-<16 hex of sha256(source_id)>`: unique over all sources, stable over rebuilds.

    Args:
        source: lower-case name of letters, digits and underscores (a dot would end a WebDataset key).
        source_id: whatever identifies the image inside its source, such as a relative path.
    """
    if not SOURCE_NAME.fullmatch(source):
        raise DataError(
            f"source name {source!r} cannot start a key; allowed: lower-case letters, digits and '_'; rename the source"
        )
    return f"{source}-{hashlib.sha256(source_id.encode()).hexdigest()[:16]}"


def unit_of_group(group: str, num_units: int) -> int:
    """Return the work unit (0 … num_units-1) of a group: a hash, so that units are random samples."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % num_units


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return _CANONICAL.encode(value)
