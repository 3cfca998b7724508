"""Captions of stores joined to samples while they are copied: by their facts, their image, their native texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipmed.errors import DataError
from clipmed.records import Caption
from shards.caption_store import CaptionStore, subject_of_facts, subject_of_image, subject_of_text
from shards.config import PackConfig

_REMEMBERED = 100_000  # subjects whose captions a process keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """Which stores are joined, and how: what a worker needs of the pack config."""

    stores: tuple[tuple[str, str], ...]
    """path and digest of each"""
    replaces: bool
    models: tuple[str, ...]
    most: int

    @classmethod
    def of(cls, config: PackConfig, described: Sequence[Mapping[str, str]]) -> JoinSettings:
        """Return the settings of a pack config and its described stores, with whole paths."""
        digests = (store["digest"] for store in described)
        return cls(
            stores=tuple(zip((str(path.resolve()) for path in config.captions), digests, strict=True)),
            replaces=config.caption_join == "replace",
            models=config.caption_models,
            most=config.captions_per_sample,
        )

    @classmethod
    def parse(cls, text: str) -> JoinSettings:
        """Return the settings that `json.dumps(asdict(settings))` wrote."""
        found = json.loads(text)
        return cls(
            stores=tuple((path, digest) for path, digest in found["stores"]),
            replaces=found["replaces"],
            models=tuple(found["models"]),
            most=found["most"],
        )


def describe_stores(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return the name and the digest of each store.

    Raises:
        DataError: one of them is no caption store.
    """
    described = []
    for path in paths:
        with CaptionStore.open(path, "read") as store:
            described.append({"store": path.name, "digest": store.digest()})
    return described


def joined_captions(row: Mapping[str, Any], settings: JoinSettings) -> list[dict[str, Any]]:
    """Return the captions of a sample's row with those of the stores.

    Native texts come first, each followed or replaced by its rewrites; then captions made for the facts or the image;
    then template captions, which a sample with made ones loses where stores replace. Of several made captions those
    are taken that a hash of the key puts first, so that samples of one class differ.
    """
    if not settings.stores:
        return list(row["captions"])
    native: list[dict[str, Any]] = []
    templates = [caption for caption in row["captions"] if caption["origin"] == "template"]
    for caption in row["captions"]:
        if caption["origin"] != "template":
            rewrites = _chosen([subject_of_text(caption["text"])], row["key"], settings)
            native += rewrites if rewrites and settings.replaces else [caption, *rewrites]
    subjects = [subject_of_image(row["sha256"])] + ([subject_of_facts(row["facts"])] if row["facts"] else [])
    made = _chosen(subjects, row["key"], settings)
    return [*native, *made, *([] if made and settings.replaces else templates)]


def count_captions(captions_column: pa.ChunkedArray) -> dict[str, Any]:
    """Count a set's captions by origin and by model, and its samples that have one of a store, or of a template."""
    origins: Counter[str] = Counter()
    models: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for chunk in captions_column.chunks:
        for captions in chunk.to_pylist():
            found = {caption["origin"] for caption in captions}
            origins.update(caption["origin"] for caption in captions)
            models.update(_made_by(caption) for caption in captions if caption["model"])
            samples.update({"from_store": bool(found & {"llm", "rewrite"}), "from_template": "template" in found})
    return {
        "by_origin": dict(sorted(origins.items())),
        "by_model": dict(sorted(models.items())),
        "samples": {name: samples[name] for name in ("from_store", "from_template")},
    }


def _made_by(caption: Mapping[str, Any]) -> str:
    return f"{caption['origin']}: {caption['model']} ({caption['prompt']})"


def _chosen(subjects: Iterable[str], key: str, settings: JoinSettings) -> list[dict[str, Any]]:
    found = [
        caption
        for store in settings.stores
        for subject in subjects
        for caption in _accepted(*store, subject)
        if not settings.models or caption.model in settings.models
    ]
    unique = list({caption.text: caption for caption in reversed(found)}.values())
    unique.sort(key=lambda caption: hashlib.sha256(f"{key}\0{caption.text}".encode()).digest())
    return [asdict(caption) for caption in unique[: settings.most]]


@lru_cache(maxsize=_REMEMBERED)
def _accepted(store: str, digest: str, subject: str) -> tuple[Caption, ...]:
    return _open(store, digest, os.getpid()).accepted(subject)


@lru_cache(maxsize=16)
def _open(store: str, _digest: str, _process: int) -> CaptionStore:
    """Open a store once a process: a connection does not survive a fork."""
    return CaptionStore.open(Path(store), "read")


def require_matches(counts: Mapping[str, Any], stores: Sequence[Mapping[str, str]]) -> None:
    """Raise DataError where stores were given and not one sample took a caption of them."""
    if stores and not counts["samples"]["from_store"]:
        names = ", ".join(store["store"] for store in stores)
        raise DataError(
            f"no sample took a caption of {names}: they were made for other facts, or by models that --caption-models "
            "leaves out; give the stores that were made for these spools"
        )
