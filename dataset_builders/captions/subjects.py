"""What captions are made for: the distinct facts, images or native texts of spools and shard sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.records import CaptionOrigin, canonical_json
from dataset_builders.captions.facts import CaptionFacts, read_facts
from shards.caption_store import subject_of_facts, subject_of_image, subject_of_text
from shards.manifest import MANIFEST
from shards.reader import ShardSet
from shards.spool import read_spool, unit_path
from shards.tars import RandomAccess, list_members

About = Literal["facts", "image", "text"]
MACHINE_MADE = ("template", "llm", "rewrite")
NATIVE = tuple(origin for origin in get_args(CaptionOrigin) if origin not in MACHINE_MADE)
_WANTED = {"facts": "labels", "image": "an image", "text": "a native caption"}
_COLUMNS = ["key", "facts", "modality", "sha256", "captions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing that captions are made for, and how many samples share it."""

    id: str
    content: str
    """the facts as JSON, or the native text: what the store keeps of it"""
    facts: CaptionFacts
    num_samples: int = 1
    read_image: Callable[[], bytes] | None = None

    @property
    def native(self) -> str | None:
        """The native text, where this is one."""
        return self.content if self.id.startswith("text:") else None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A sample's columns that captioning reads, and how to get at its image."""

    facts: str | None
    modality: str
    sha256: str
    captions: list[dict[str, Any]]
    read_image: Callable[[], bytes]


def read_subjects(paths: Sequence[Path], about: About) -> list[Subject]:
    """Return the subjects of finished spools and shard sets, those that most samples share first.

    Args:
        paths: folders that a builder or `shards pack` wrote.
        about: facts: the distinct facts of labelled samples. image: every distinct image. text: every distinct native
            caption.

    Raises:
        DataError: neither spool nor set, nothing to caption in any, or two whose vocabularies give the same facts
            different names.
    """
    found: dict[str, Subject] = {}
    for path in paths:
        tasks, rows = _open(path)
        cache: dict[str, CaptionFacts] = {}
        for row in rows:
            for subject in _subjects_of(row, about, tasks, cache):
                known = found.get(subject.id)
                if known is None:
                    found[subject.id] = subject
                    continue
                if about == "facts" and known.facts != subject.facts:
                    raise DataError(
                        f"{path} gives the facts {subject.content} other names than an earlier source does; "
                        "caption the two apart, or rename the task in one of them"
                    )
                found[subject.id] = replace(known, num_samples=known.num_samples + 1)
    if not found:
        raise DataError(f"nothing to caption: no sample of {len(paths)} folders has {_WANTED[about]}; give others")
    return sorted(found.values(), key=lambda subject: (-subject.num_samples, subject.id))


def read_rows(path: Path) -> tuple[Mapping[str, Any], Iterator[SourceRow]]:
    """Return the vocabulary and the samples of a spool or a shard set.

    Raises:
        DataError: neither.
    """
    return _open(path)


def _subjects_of(
    row: SourceRow, about: About, tasks: Mapping[str, Any], cache: dict[str, CaptionFacts]
) -> Iterable[Subject]:
    if about == "facts" and row.facts is None:
        return
    known = row.facts if row.facts is not None and about != "text" else canonical_json({"modality": row.modality})
    if known not in cache:
        cache[known] = read_facts(known, tasks)
    facts = cache[known]
    if about == "facts":
        yield Subject(id=subject_of_facts(known), content=known, facts=facts)
    elif about == "image":
        yield Subject(id=subject_of_image(row.sha256), content=known, facts=facts, read_image=row.read_image)
    else:
        for text in dict.fromkeys(caption["text"] for caption in row.captions if caption["origin"] in NATIVE):
            yield Subject(id=subject_of_text(text), content=text, facts=facts)


def _open(path: Path) -> tuple[Mapping[str, Any], Iterator[SourceRow]]:
    if (path / MANIFEST).exists():
        shard_set = ShardSet(path)
        return shard_set.manifest["tasks"], _set_rows(shard_set)
    info = read_spool(path)
    return info.tasks, (row for unit in range(info.num_units) for row in _unit_rows(unit_path(path, unit)))


def _set_rows(shard_set: ShardSet) -> Iterator[SourceRow]:
    with pq.ParquetFile(shard_set.path / "samples.parquet") as file:
        number = 0
        for batch in file.iter_batches(columns=_COLUMNS):
            for row in batch.to_pylist():
                yield _row(row, partial(shard_set.image_bytes, number))
                number += 1


def _unit_rows(folder: Path) -> Iterator[SourceRow]:
    tar = folder / "samples.tar"
    digest: str = json.loads((folder / "unit.json").read_text(encoding="utf-8"))["sha256"]["samples.tar"]
    access = RandomAccess(str(tar), digest)
    places = {member.name: member for member in list_members(tar)}
    with pq.ParquetFile(folder / "samples.parquet") as file:
        for batch in file.iter_batches(columns=_COLUMNS):
            for row in batch.to_pylist():
                image = places[f"{row['key']}.jpg"]
                yield _row(row, partial(access.read, image.offset, image.size))


def _row(row: Mapping[str, Any], read_image: Callable[[], bytes]) -> SourceRow:
    return SourceRow(row["facts"], row["modality"], row["sha256"], row["captions"], read_image)
