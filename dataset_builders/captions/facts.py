"""What is known of an image, as captioners state it and the guard checks it: read from a sample's facts and labels.

A sample carries its facts flat, as `clipmed.records.Sample.facts`:

    modality, body_part, view     as words; the last two where they are known
    <task>                        class ids that the image has, with a `|` between several
    <task>:absent                 class ids that its source says it does not have
    detail:<name>                 further words of the source that captions may state, such as detail:plane

The vocabulary of the spool or the shard set names the classes. This module puts both together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipmed.errors import DataError

CONTEXT_FACTS = ("modality", "body_part", "view")
SEPARATOR = "|"  # between the classes of one task
ABSENT_SUFFIX = ":absent"
DETAIL_PREFIX = "detail:"
_ARTICLE = re.compile(r"^(?:an?|the) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One class of a task: its ids, its display name (a noun phrase) and other names of it."""

    task: str
    class_id: str
    name: str
    synonyms: tuple[str, ...] = ()
    is_negative: bool = False
    """the class says that nothing was found, such as "no tumor" """

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the finding, the display name first."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFacts:
    """What is known of an image.

    `absent` holds what the image is known not to show: classes that its source denies, and the other classes of tasks
    with one class an image. `details` are (name, words) that may be stated and need not be.
    """

    modality: str
    body_part: str | None = None
    view: str | None = None
    present: tuple[Finding, ...] = ()
    absent: tuple[Finding, ...] = ()
    details: tuple[tuple[str, str], ...] = ()


def read_facts(facts: str, tasks: Mapping[str, Mapping[str, Any]]) -> CaptionFacts:
    """Return the facts of a sample's row with the names that the vocabulary gives.

    Args:
        facts: canonical JSON, the `facts` of a row.
        tasks: the vocabulary: {task: {"classes": {class id: display name}, "multi_label": bool, and where the source
            gives them "synonyms": {class id: [names]}, "negative": [class ids], "stated": bool}}. Tasks with stated
            false only say what was imaged: they are left out.

    Raises:
        DataError: a task or class that the vocabulary does not hold.
    """
    flat: dict[str, str] = json.loads(facts)
    present: list[Finding] = []
    absent: list[Finding] = []
    details: list[tuple[str, str]] = []
    for name, value in flat.items():
        if name.startswith(DETAIL_PREFIX):
            details.append((name.removeprefix(DETAIL_PREFIX), value))
        elif name not in CONTEXT_FACTS:
            task = name.removesuffix(ABSENT_SUFFIX)
            vocabulary = _vocabulary(tasks, task)
            if not vocabulary.get("stated", True):
                continue
            ids = [class_id for class_id in value.split(SEPARATOR) if class_id]
            (present if name == task else absent).extend(_finding(task, class_id, vocabulary) for class_id in ids)
            if name == task and ids and not vocabulary.get("multi_label", False):
                absent.extend(
                    _finding(task, class_id, vocabulary) for class_id in vocabulary["classes"] if class_id not in ids
                )
    return CaptionFacts(
        modality=flat["modality"],
        body_part=flat.get("body_part"),
        view=flat.get("view"),
        present=tuple(present),
        absent=tuple(absent),
        details=tuple(details),
    )


def without_article(phrase: str) -> str:
    """Return a noun phrase without the article before it: "mass" of "a mass"."""
    return _ARTICLE.sub("", phrase)


def _vocabulary(tasks: Mapping[str, Mapping[str, Any]], task: str) -> Mapping[str, Any]:
    if task not in tasks:
        raise DataError(f"facts name the task {task!r}; the vocabulary has: {', '.join(sorted(tasks)) or 'none'}")
    return tasks[task]


def _finding(task: str, class_id: str, vocabulary: Mapping[str, Any]) -> Finding:
    if class_id not in vocabulary["classes"]:
        raise DataError(f"facts name the class {class_id!r} of {task}; the vocabulary does not hold it")
    return Finding(
        task=task,
        class_id=class_id,
        name=vocabulary["classes"][class_id],
        synonyms=tuple(vocabulary.get("synonyms", {}).get(class_id, ())),
        is_negative=class_id in vocabulary.get("negative", ()),
    )
