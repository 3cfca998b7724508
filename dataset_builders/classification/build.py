"""The builder of labelled datasets: listed images to samples with labels, facts and template captions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from clipmed.configuration import to_dict
from clipmed.images import ingest_image
from clipmed.jobs import JobsConfig
from clipmed.records import Modality, Sample, Split, sample_key
from dataset_builders.captions.bank import TemplateBank, bank_dict, load_bank
from dataset_builders.captions.sampler import SEPARATOR, captions_for
from dataset_builders.classification.entry import Entry
from dataset_builders.classification.listing import LabelledItem, list_items
from dataset_builders.items import build_spool, read_media
from shards.spool import SpoolInfo


def build_classification(entry: Entry, root: Path, out: Path, jobs: JobsConfig) -> dict[str, Any]:
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
        DataError: the folder or its table is not as the entry says, or `out` was begun from something else.
    """
    bank = load_bank(entry.bank)
    items = list_items(entry, root)
    _require_wording(entry, bank, items)
    info = SpoolInfo(
        source=entry.name,
        num_units=entry.num_units,
        tasks=task_vocabulary(entry),
        config={"builder": "classification", "entry": to_dict(entry), "bank": bank_dict(bank)},
    )
    return build_spool(out, info, items, partial(make_sample, entry=entry, bank=bank, root=root), jobs)


def make_sample(item: LabelledItem, entry: Entry, bank: TemplateBank, root: Path) -> Sample:
    """Return the sample of a listed image.

    Raises:
        ItemRejectedError: the image is missing, reached through a link, or not one that is kept.
    """
    stored = ingest_image(read_media(root, item.path, entry.max_file_mb), entry.image)
    key = sample_key(entry.name, item.path)
    names = {f"{task}/{id_}": name for task, content in entry.tasks.items() for id_, name in content.classes.items()}
    line = {} if item.line is None else {"line": item.line}
    return Sample(
        key=key,
        source=entry.name,
        image=stored.jpeg,
        captions=captions_for(stated_facts(item, entry), bank, key, entry.captions_per_image, names),
        modality=Modality(item.modality),
        group=item.group,
        license=item.license,
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        labels={task: list(classes) for task, classes in item.labels},
        facts=all_facts(item),
        split=Split(item.split) if item.split else None,
        provenance={"path": item.path, **line},
    )


def all_facts(item: LabelledItem) -> dict[str, str]:
    """Return what is known of the image: modality, body part, and the classes of every task."""
    context = {"modality": item.modality, **({"body_part": item.body_part} if item.body_part else {})}
    return {**context, **{task: SEPARATOR.join(classes) for task, classes in item.labels}}


def stated_facts(item: LabelledItem, entry: Entry) -> dict[str, str]:
    """Return the facts that captions state: without the tasks that only say what was imaged."""
    silent = {name for name, task in entry.tasks.items() if not task.stated}
    return {name: value for name, value in all_facts(item).items() if name not in silent}


def task_vocabulary(entry: Entry) -> dict[str, dict[str, Any]]:
    """Return the label vocabulary as spools carry it. The modality of a mixed task is null."""
    return {
        name: {
            "modality": None if task.class_modality or entry.layout.modality_column else entry.modality,
            "classes": dict(task.classes),
            "multi_label": task.multi_label,
        }
        for name, task in entry.tasks.items()
    }


def _require_wording(entry: Entry, bank: TemplateBank, items: list[LabelledItem]) -> None:
    """Fail before any work when the bank cannot word what the listing holds."""
    needed = {
        (item.modality, any(classes and entry.tasks[task].stated for task, classes in item.labels))
        for item in items
        if item.problem is None
    }
    for modality, stated in sorted(needed):
        bank.modality_words(modality)
        bank.sentences(modality, "finding" if stated else "plain")
