"""Which samples a task asks, out of one or several shard sets; everything left out is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from shards.manifest import INDEX_FILE
from shards.reader import ShardSet
from zeroshot_eval.suite import ClassificationTask, RetrievalTask

COLUMNS = ["key", "source", "modality", "group", "labels", "captions"]
Ints = npt.NDArray[np.int64]


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
    caption: str  # the first one


@dataclass(frozen=True, slots=True)
class Selection:
    """The samples that a task asks. `targets` are class indices, or empty for retrieval."""

    items: tuple[Item, ...]
    targets: Ints
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
        """The sets that the samples come from, sorted."""
        return sorted({item.set_index for item in self.items})


@dataclass(frozen=True, slots=True)
class Skipped:
    """A task that is not scored, and why; the report and scores.json name it."""

    task: str
    reason: str


class Pool:
    """The samples of several sets by split, read once; a key that an earlier set holds already is left out."""

    def __init__(self, sets: Sequence[ShardSet]) -> None:
        self.sets = tuple(sets)
        self._splits: dict[str, tuple[Item, ...]] = {}
        self.duplicates: Counter[str] = Counter()

    def items(self, split: str) -> tuple[Item, ...]:
        """Return the samples of a split, set after set, in index order."""
        if split not in self._splits:
            seen: set[str] = set()
            items: list[Item] = []
            for set_index, shard_set in enumerate(self.sets):
                for item in _read_split(set_index, shard_set, split):
                    if item.key in seen:
                        self.duplicates[split] += 1
                    else:
                        seen.add(item.key)
                        items.append(item)
            self._splits[split] = tuple(items)
        return self._splits[split]

    def vocabulary(self, task: str) -> list[str] | None:
        """Return the class ids that the sets' manifests list for a label task, or None where no set knows it."""
        found = [shard_set.manifest["tasks"].get(task) for shard_set in self.sets]
        known = [entry["classes"] for entry in found if entry is not None]
        return sorted({class_id for classes in known for class_id in classes}) if known else None

    def tasks(self) -> set[str]:
        """Return the label tasks that the sets know."""
        return {task for shard_set in self.sets for task in shard_set.manifest["tasks"]}


def select_classification(task: ClassificationTask, pool: Pool) -> Selection | Skipped:
    """Return the samples of a classification task, or why there are none.

    A sample counts when it has exactly one label of the task and that label is a candidate class; the rest is counted
    as excluded. With `only_classes`, other candidates' samples are not asked, and not counted as excluded.

    Raises:
        ConfigError: a candidate class that the sets do not know.
    """
    known = pool.vocabulary(task.task)
    if known is None:
        return Skipped(task.name, f"the sets have no label task {task.task!r}")
    for class_id in task.classes:
        if class_id not in known:
            raise ConfigError(
                f"task {task.name!r}: class {class_id!r} is not in the sets' label task {task.task!r}"
                f"{nearest(class_id, known)} Allowed: {', '.join(known)}"
            )
    asked = set(task.only_classes or task.classes)
    index = {class_id: number for number, class_id in enumerate(task.classes)}
    items, targets, excluded = [], [], Counter[str]()
    labelled = [item for item in pool.items(task.split) if task.task in item.labels and _of_sources(item, task.sources)]
    for item in labelled:
        labels = item.labels[task.task]
        if reason := _no_target(labels, index):
            excluded[reason] += 1
        elif labels[0] in asked:
            items.append(item)
            targets.append(index[labels[0]])
    if not items:
        return _nothing_to_ask(task, excluded)
    return Selection(tuple(items), np.asarray(targets, dtype=np.int64), dict(excluded))


def _no_target(labels: Sequence[str], index: Mapping[str, int]) -> str | None:
    if len(labels) != 1:
        return f"{len(labels)} labels"
    return None if labels[0] in index else f"label {labels[0]!r} is no candidate"


def select_retrieval(task: RetrievalTask, pool: Pool) -> Selection | Skipped:
    """Return the samples of a retrieval task, or why there are too few: a gallery needs two."""
    items = [
        item
        for item in pool.items(task.split)
        if _of_sources(item, task.sources) and task.modality in {None, item.modality}
    ]
    if len(items) < 2:
        return _nothing_to_ask(task, {"too few for a gallery": len(items)} if items else {})
    return Selection(tuple(items), np.empty(0, dtype=np.int64))


def _nothing_to_ask(task: ClassificationTask | RetrievalTask, excluded: Mapping[str, int]) -> Skipped:
    sources = f" of the sources {', '.join(task.sources)}" if task.sources else ""
    left_out = "".join(f"; {count} left out: {reason}" for reason, count in excluded.items())
    return Skipped(task.name, f"split {task.split!r} holds no sample for it{sources}{left_out}")


def _of_sources(item: Item, sources: Sequence[str]) -> bool:
    return not sources or item.source in sources


def _read_split(set_index: int, shard_set: ShardSet, split: str) -> list[Item]:
    rows = shard_set.rows(split)
    table = pq.read_table(shard_set.path / INDEX_FILE, columns=COLUMNS, filters=[("split", "==", split)])
    return [
        Item(
            set_index=set_index,
            row=int(row),
            key=values["key"],
            source=values["source"],
            modality=values["modality"],
            group=f"{values['source']}/{values['group']}",
            labels={label["task"]: list(label["classes"]) for label in values["labels"]},
            caption=values["captions"][0]["text"],
        )
        for row, values in zip(rows, table.to_pylist(), strict=True)
    ]
