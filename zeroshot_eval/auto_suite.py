"""The suite that data bring along: every label task with its classes' names, and retrieval where there are captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipmed.errors import DataError
from zeroshot_eval.collections import Collection, LabelTask
from zeroshot_eval.suite import ClassificationTask, RetrievalTask, Suite

AUTO = "auto"
TEMPLATES = ("{}", "an image of {}", "a medical image showing {}")
NOTE = "Classes and sentences are those of the data, or made of the classes' names where the data give none."


def own_suite(collections: Sequence[Collection]) -> Suite:
    """Return the suite of what the collections know.

    A label task that several collections know, with the same classes or not, is asked once over all of them.

    Raises:
        DataError: the collections know no label task of two classes and have no captions in their test split.
    """
    known: dict[str, list[LabelTask]] = {}
    for collection in collections:
        for name, entry in collection.tasks.items():
            known.setdefault(name, []).append(entry)
    asked = (_classification(name, entries) for name, entries in known.items())
    tasks = [task for task in asked if task is not None]
    searches = (_retrieval(at, collection) for at, collection in enumerate(collections))
    retrieval = {search.name: search for search in searches if search is not None}
    if not tasks and not retrieval:
        raise DataError(
            "the data name no classes and hold no captions to search, so that there is nothing to ask; give a suite "
            "with --suite"
        )
    return Suite(
        name=AUTO,
        title="What the data themselves ask",
        note=NOTE,
        tasks=tuple(tasks),
        retrieval=tuple(retrieval.values()),
    )


def _classification(name: str, entries: Sequence[LabelTask]) -> ClassificationTask | None:
    first = entries[0]
    classes: Mapping[str, str] = {key: word for entry in entries for key, word in entry.classes.items()}
    if len(classes) < (1 if first.multi_label else 2):
        return None
    return ClassificationTask(
        name=name,
        task=name,
        modality=first.modality,
        kind="multi_label" if first.multi_label else "single",
        classes={class_id: (word,) for class_id, word in classes.items()},
        templates=first.templates or TEMPLATES,
        dataset=name,
    )


def _retrieval(at: int, collection: Collection) -> RetrievalTask | None:
    """Return the search among a collection's captions; collections of the same sources are searched as one."""
    items = [item for item in collection.items("test", at) if item.captions]
    if len(items) < 2:
        return None
    sources = sorted({item.source for item in items})
    name = "captions_" + "+".join(sources)
    return RetrievalTask(name=name, captions="all", sources=tuple(sources), dataset="+".join(sources))
