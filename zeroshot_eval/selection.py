"""Which samples a task asks, out of one or several collections; everything left out is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from zeroshot_eval.suite import ClassificationTask, ProbeTask, RetrievalTask

if TYPE_CHECKING:
    from zeroshot_eval.collections import Collection

ABSENT_SUFFIX = ":absent"  # facts {"<task>:absent": "a|b"}: classes that the source says an image has not
SEPARATOR = "|"
UNKNOWN = -1

Ints = npt.NDArray[np.int64]
Targets = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Item:
    """What scoring needs of one sample: where its image lies, and what is known of it."""

    set_index: int
    row: int
    key: str
    source: str
    modality: str
    group: str  # with its source, since two sources may number their patients alike
    labels: dict[str, list[str]]
    captions: tuple[str, ...]
    sha256: str  # of the encoded image; empty where it is not known
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Selection:
    """The samples that a task asks.

    `targets` are class indices (n,), or 1, 0 and -1 for unknown, int8 of (n, C), for multi_label, or empty for
    retrieval.
    """

    items: tuple[Item, ...]
    targets: Targets
    excluded: dict[str, int] = field(default_factory=dict)
    """left out, by reason"""

    @property
    def groups(self) -> list[str]:
        """The group of each sample."""
        return [item.group for item in self.items]

    @property
    def sources(self) -> list[str]:
        """The sources that the samples come from, sorted."""
        return sorted({item.source for item in self.items})

    @property
    def set_indices(self) -> list[int]:
        """The collections that the samples come from, sorted."""
        return sorted({item.set_index for item in self.items})


@dataclass(frozen=True, slots=True)
class Skipped:
    """A task that is not scored, and why; the report and scores.json name it."""

    task: str
    reason: str
    suite: str = ""


class Pool:
    """The samples of several collections by split, read once; a key that an earlier one holds already is left out."""

    def __init__(self, collections: Sequence[Collection]) -> None:
        self.collections = tuple(collections)
        self._splits: dict[str, tuple[Item, ...]] = {}
        self.duplicates: Counter[str] = Counter()

    def items(self, split: str) -> tuple[Item, ...]:
        """Return the samples of a split, collection after collection, in the order of their rows."""
        if split not in self._splits:
            seen: dict[str, Item] = {}
            items: list[Item] = []
            for set_index, collection in enumerate(self.collections):
                for item in collection.items(split, set_index):
                    if item.key not in seen:
                        seen[item.key] = item
                        items.append(item)
                    elif seen[item.key].sha256 == item.sha256:
                        self.duplicates[split] += 1
                    else:
                        raise DataError(
                            f"two different images are called {item.key!r}, in {self.collections[set_index].location} "
                            f"and {self.collections[seen[item.key].set_index].location}; rename one of the folders"
                        )
            self._splits[split] = tuple(items)
        return self._splits[split]

    def vocabulary(self, task: str) -> list[str] | None:
        """Return the class ids that the collections know for a label task, or None where none knows it."""
        known = [collection.tasks[task] for collection in self.collections if task in collection.tasks]
        return sorted({class_id for entry in known for class_id in entry.classes}) if known else None

    def tasks(self) -> set[str]:
        """Return the label tasks that the collections know."""
        return {task for collection in self.collections for task in collection.tasks}


def select_classification(task: ClassificationTask, pool: Pool) -> Selection | Skipped:
    """Return the samples of a classification task, or why there are none.

    Of a single-label task, a sample counts when it has exactly one label of the task and that label is a candidate
    class; the rest is counted as excluded. With `only_classes`, other candidates' samples are not asked, and not
    counted as excluded. Of a multi-label task every labelled sample counts.

    Raises:
        ConfigError: a candidate class that the collections do not know.
    """
    return select_labelled(task, task.split, pool)


def select_labelled(task: ClassificationTask | ProbeTask, split: str, pool: Pool) -> Selection | Skipped:
    """Return the samples of one split with the targets of a label task; see `select_classification`."""
    known = pool.vocabulary(task.task)
    if known is None:
        return Skipped(task.name, f"the sets have no label task {task.task!r}")
    labelled = [item for item in pool.items(split) if _is_labelled(item, task) and _of_sources(item, task.sources)]
    if not labelled:
        return _nothing_to_ask(task, split, {})
    classes = tuple(task.classes) or tuple(known)
    for class_id in classes:
        if class_id not in known:
            raise ConfigError(
                f"task {task.name!r}: class {class_id!r} is not in the sets' label task {task.task!r}"
                f"{nearest(class_id, known)} Allowed: {', '.join(known)}"
            )
    if task.kind == "multi_label":
        found = _multi_label(task, classes, labelled)
    else:
        found = _single_label(task, classes, labelled)
    return found if found.items else _nothing_to_ask(task, split, found.excluded)


def select_retrieval(task: RetrievalTask, pool: Pool) -> Selection | Skipped:
    """Return the samples of a retrieval task, or why there are too few: a gallery needs two."""
    of_task = [
        item
        for item in pool.items(task.split)
        if _of_sources(item, task.sources) and task.modality in {None, item.modality}
    ]
    items = [item for item in of_task if item.captions]
    excluded = {"no caption": len(of_task) - len(items)} if len(items) < len(of_task) else {}
    if len(items) < 2:
        return _nothing_to_ask(task, task.split, excluded | ({"too few for a gallery": len(items)} if items else {}))
    return Selection(tuple(items), np.empty(0, dtype=np.int64), excluded)


def _single_label(task: ClassificationTask | ProbeTask, classes: Sequence[str], labelled: Sequence[Item]) -> Selection:
    asked = set(task.only_classes or classes) if isinstance(task, ClassificationTask) else set(classes)
    index = {class_id: number for number, class_id in enumerate(classes)}
    items, targets, excluded = [], [], Counter[str]()
    for item in labelled:
        labels = item.labels[task.task]
        if reason := _no_target(labels, index):
            excluded[reason] += 1
        elif labels[0] in asked:
            items.append(item)
            targets.append(index[labels[0]])
    return Selection(tuple(items), np.asarray(targets, dtype=np.int64), dict(excluded))


def _no_target(labels: Sequence[str], index: Mapping[str, int]) -> str | None:
    if len(labels) != 1:
        return f"{len(labels)} labels"
    return None if labels[0] in index else f"label {labels[0]!r} is no candidate"


def _multi_label(task: ClassificationTask | ProbeTask, classes: Sequence[str], labelled: Sequence[Item]) -> Selection:
    """Return targets 1 for a class that an image has, 0 for one that it has not, -1 where that is not known.

    A source that says of any image which classes it has not leaves open what it does not say; of all others a label
    that is not there means that the class is not.
    """
    absent_key = task.task + ABSENT_SUFFIX
    says_absent = {item.source for item in labelled if absent_key in item.facts}
    targets = np.zeros((len(labelled), len(classes)), dtype=np.int8)
    for place, item in enumerate(labelled):
        present = set(item.labels.get(task.task, ()))
        absent = set(item.facts.get(absent_key, "").split(SEPARATOR))
        for column, class_id in enumerate(classes):
            if class_id in present:
                targets[place, column] = 1
            elif item.source in says_absent and class_id not in absent:
                targets[place, column] = UNKNOWN
    known = (targets != UNKNOWN).any(axis=1)
    excluded = {"no class is known": int((~known).sum())} if not known.all() else {}
    kept = tuple(item for item, is_known in zip(labelled, known, strict=True) if is_known)
    return Selection(kept, targets[known], excluded)


def _nothing_to_ask(
    task: ClassificationTask | RetrievalTask | ProbeTask, split: str, excluded: Mapping[str, int]
) -> Skipped:
    sources = f" of the sources {', '.join(task.sources)}" if task.sources else ""
    left_out = "".join(f"; {count} left out: {reason}" for reason, count in excluded.items())
    return Skipped(task.name, f"split {split!r} holds no sample for it{sources}{left_out}")


def _is_labelled(item: Item, task: ClassificationTask | ProbeTask) -> bool:
    denied = task.kind == "multi_label" and task.task + ABSENT_SUFFIX in item.facts
    return denied or task.task in item.labels


def _of_sources(item: Item, sources: Sequence[str]) -> bool:
    return not sources or item.source in sources
