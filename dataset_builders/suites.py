"""Suites of zero-shot tasks made from the catalogue: one truth for classes and prompts, handed over as a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from dataset_builders.captions.facts import without_article
from dataset_builders.datasets.entry import Entry, Task, load_entry, shipped_entries

MIXED = "mixed"


def suite_of(tags: Sequence[str], title: str, name: str) -> dict[str, Any]:
    """Return the suite of all entries with one of the tags, as plain data for `zeroshot_eval`.

    Every task with two classes or more is asked with the entry's prompts. Of multi-label tasks each class is asked
    against its denial.

    Args:
        tags: some of the entries' `suites`.
        title: the heading of reports.
        name: the suite's name.

    Raises:
        ConfigError: no entry has a tag, or an entry has no prompts for a task.
    """
    known = suite_tags()
    for tag in tags:
        if tag not in known:
            raise ConfigError(f"no dataset has the tag {tag!r}{nearest(tag, known)} Allowed: {', '.join(known)}")
    entries = [entry for entry in map(load_entry, shipped_entries()) if set(tags) & set(entry.suites)]
    tasks = [task for entry in entries for task in _tasks(entry)]
    retrieval = [_retrieval(entry) for entry in entries if entry.layout.texts]
    return {
        "name": name,
        "title": title,
        "note": "Made from the catalogue. Scores are of the samples that the sets hold in the split that is asked.",
        "tasks": tasks,
        **({"retrieval": retrieval} if retrieval else {}),
    }


def suite_text(suite: dict[str, Any]) -> str:
    """Return a suite as the text of its YAML file."""
    head = "# Made by: python -m dataset_builders suite. Change the catalogue's entries, and make it anew.\n"
    return head + yaml.safe_dump(suite, sort_keys=False, allow_unicode=True, width=120)


def suite_tags() -> list[str]:
    """Return every tag of a published collection that the catalogue has."""
    return sorted({tag for name in shipped_entries() for tag in load_entry(name).suites})


def _tasks(entry: Entry) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name if len(entry.tasks) == 1 else f"{entry.name}_{task}",
            "task": task,
            "dataset": entry.name,
            "sources": [entry.name],
            "modality": _modality(entry, content),
            **({"kind": "multi_label"} if content.multi_label else {}),
            **({"ordinal": True} if content.ordinal else {}),
            **_prompts(entry, task, content),
            **_note(entry),
        }
        for task, content in entry.tasks.items()
        if len(content.classes) > 1
    ]


def _modality(entry: Entry, task: Task) -> str:
    found = set(task.class_modality.values()) or {entry.modality or MIXED}
    if entry.layout.modality is not None or len(found) > 1:
        return MIXED
    return str(found.pop())


def _prompts(entry: Entry, name: str, task: Task) -> dict[str, Any]:
    if task.prompts is None:
        raise ConfigError(f"{entry.name}: task {name!r} has no prompts; add them to its catalogue entry")
    worded: dict[str, Any] = {
        "classes": {class_id: list(words) for class_id, words in task.prompts.classes.items()},
        "templates": list(task.prompts.templates),
    }
    if task.multi_label:
        worded["negative_prompts"] = {
            class_id: [template.replace("{}", f"no {without_article(words[0])}") for template in task.prompts.templates]
            for class_id, words in task.prompts.classes.items()
        }
    return worded


def _note(entry: Entry) -> dict[str, str]:
    notes: Sequence[str] = [f"Shares images with {', '.join(entry.overlaps)}."] if entry.overlaps else []
    return {"note": " ".join(notes)} if notes else {}


def _retrieval(entry: Entry) -> dict[str, Any]:
    return {"name": f"{entry.name}_captions", "sources": [entry.name]}
