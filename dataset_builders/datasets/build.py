"""The builder of catalogued datasets: listed images to samples with labels, facts and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from clipmed.configuration import to_dict
from clipmed.errors import ItemRejectedError
from clipmed.images import StoredImage, ingest_image
from clipmed.jobs import JobsConfig
from clipmed.records import Caption, Modality, Sample, Split, canonical_json, sample_key
from clipmed.rejects import RejectReason, Stage
from dataset_builders.captions.bank import TemplateBank, bank_dict, load_bank
from dataset_builders.captions.facts import ABSENT_SUFFIX, DETAIL_PREFIX, SEPARATOR, read_facts
from dataset_builders.captions.sampler import captions_for
from dataset_builders.datasets.entry import Entry
from dataset_builders.datasets.listing import ImageItem, list_items
from dataset_builders.datasets.rows import EMBEDDED
from dataset_builders.datasets.texts import native_texts
from dataset_builders.items import BYTES_PER_MB, build_spool, path_problem
from dataset_builders.readers.parts import ingest_part
from shards.spool import SpoolInfo


def build_dataset(entry: Entry, root: Path, out: Path, jobs: JobsConfig) -> dict[str, Any]:
    """Build the dataset at `root` into the spool `out`, or finish one that was begun.

    Args:
        entry: the dataset's catalogue entry.
        root: the folder as the provider ships it.
        out: the spool's folder.
        jobs: where units run.

    Returns:
        The counts: source, units, seen, samples, rejects, rejects_by_reason, counters.

    Raises:
        ConfigError: the template bank lacks what the entry needs.
        DataError: the folder or its tables are not as the entry says, or `out` was begun from something else.
    """
    bank = load_bank(entry.bank)
    items = list_items(entry, root)
    _require_wording(entry, bank, items)
    info = SpoolInfo(
        source=entry.name,
        num_units=entry.num_units,
        tasks=task_vocabulary(entry),
        config={"builder": "dataset", "entry": to_dict(entry), "bank": bank_dict(bank)},
    )
    return build_spool(out, info, items, partial(make_sample, entry=entry, bank=bank, root=root), jobs)


def make_sample(item: ImageItem, entry: Entry, bank: TemplateBank, root: Path) -> Sample:
    """Return the sample of a listed image.

    Raises:
        ItemRejectedError: the image is missing, reached through a link, or not one that is kept; or it has no caption.
    """
    key = sample_key(entry.name, f"{item.path}#{item.part}" if item.part else item.path)
    native = _native_captions(item, entry, root)
    stored, told = _stored(item, entry, root)
    described = replace(item, body_part=item.body_part or told.get("body_part"), view=item.view or told.get("view"))
    facts = all_facts(described) if item.labels else None
    made: tuple[Caption, ...] = ()
    if facts is not None:
        known = read_facts(canonical_json(facts), task_vocabulary(entry))
        made = captions_for(known, bank, key, entry.captions_per_image)
    return Sample(
        key=key,
        source=entry.name,
        image=stored.jpeg,
        captions=(*native, *made),
        modality=Modality(item.modality),
        group=item.group,
        license=item.license,
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        labels={labels.task: list(labels.present) for labels in item.labels},
        facts=facts,
        split=Split(item.split) if item.split else None,
        provenance=_provenance(item),
    )


def all_facts(item: ImageItem) -> dict[str, str]:
    """Return what is known of the image, flat, as `dataset_builders.captions.facts` describes it."""
    context = {"modality": item.modality, "body_part": item.body_part, "view": item.view}
    facts = {name: value for name, value in context.items() if value}
    for labels in item.labels:
        facts[labels.task] = SEPARATOR.join(labels.present)
        if labels.absent:
            facts[labels.task + ABSENT_SUFFIX] = SEPARATOR.join(labels.absent)
    return facts | {DETAIL_PREFIX + name: words for name, words in item.details}


def task_vocabulary(entry: Entry) -> dict[str, dict[str, Any]]:
    """Return the label vocabulary as spools carry it. The modality of a mixed task is null."""
    return {
        name: {
            "modality": None if task.class_modality or entry.layout.modality else entry.modality,
            "classes": dict(task.classes),
            "multi_label": task.multi_label,
            **({"synonyms": {name: list(names) for name, names in task.synonyms.items()}} if task.synonyms else {}),
            **({"negative": list(task.negative)} if task.negative else {}),
            **({} if task.stated else {"stated": False}),
        }
        for name, task in entry.tasks.items()
    }


def _native_captions(item: ImageItem, entry: Entry, root: Path) -> tuple[Caption, ...]:
    """Return the image's own texts that are long enough.

    Raises:
        ItemRejectedError: there is none, and no label either.
    """
    found = native_texts(entry.layout.texts, dict(item.text_cells), root)
    kept = [(origin, text) for origin, text in found if len(text) >= entry.min_caption_chars]
    if not kept and not item.labels:
        if not found:
            raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_MISSING, "no text and no label")
        detail = f"{found[0][1]!r}; allowed: {entry.min_caption_chars} characters or more"
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_TOO_SHORT, detail)
    return tuple(Caption(text=text, origin=origin) for origin, text in kept)


def _stored(item: ImageItem, entry: Entry, root: Path) -> tuple[StoredImage, dict[str, str]]:
    """Return the image as it is stored, and what its file tells of it."""
    problem = path_problem(root, item.path)
    if problem is not None:
        raise problem.error()
    path = root / item.path
    if entry.layout.image_bytes:
        return ingest_image(
            _embedded(path, int(item.part.removeprefix(f"{EMBEDDED}-")), entry.layout.image_bytes), entry.image
        ), {}
    if entry.layout.arrays:
        name, _, part = item.part.partition("-")
        return ingest_part(path, part, replace(entry.reader, kind="arrays", array=name), entry.image)
    size = path.stat().st_size
    if size > entry.max_file_mb * BYTES_PER_MB:
        detail = f"{item.path} has {size} bytes; allowed: {entry.max_file_mb:g} MB"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.FILE_TOO_LARGE, detail)
    return ingest_part(path, item.part, entry.reader, entry.image)


def _embedded(path: Path, number: int, column: str) -> bytes:
    """Return the encoded image of a row of a Parquet table, counted from 1."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        before = 0
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            if number <= before + count:
                break
            before += count
    value = _row_group(path, group, column)[number - before - 1]
    found = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(found, bytes) or not found:
        raise ItemRejectedError(Stage.SOURCE, RejectReason.MEDIA_MISSING, f"row {number} of {path.name} holds no image")
    return found


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int, column: str) -> list[Any]:
    """Return a column of one row group; a process keeps the last one."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        found: list[Any] = opened.read_row_group(group, columns=[column])[column].to_pylist()
    return found


def _provenance(item: ImageItem) -> dict[str, Any]:
    place = {"place": item.place.rpartition(" (")[2].rstrip(")")} if item.place else {}
    return {"path": item.path, **({"part": item.part} if item.part else {}), **place, **dict(item.provenance)}


def _require_wording(entry: Entry, bank: TemplateBank, items: Sequence[ImageItem]) -> None:
    """Fail before any work when the bank cannot word what the listing holds."""
    needed = {
        (item.modality, any(labels.present and entry.tasks[labels.task].stated for labels in item.labels))
        for item in items
        if item.problem is None and item.labels
    }
    for modality, stated in sorted(needed):
        bank.modality_words(modality)
        bank.sentences(modality, "finding" if stated else "plain")
