"""The samples of a packed shard set, as a collection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from shards.manifest import INDEX_FILE
from shards.reader import ShardSet
from zeroshot_eval.collections import LabelTask
from zeroshot_eval.selection import Item
from zeroshot_eval.suite import MIXED

COLUMNS = ["key", "source", "modality", "group", "labels", "captions", "sha256", "facts", "provenance"]
LONGEST_WORDS = 100  # characters; a provenance of more tells no subgroup


@dataclass(slots=True)
class ShardCollection:
    """A packed shard set, in a folder or at a URL."""

    location: str
    digest: str = ""
    image_digest: str = ""
    tasks: Mapping[str, LabelTask] = field(default_factory=dict)
    attrition: list[dict[str, Any]] = field(default_factory=list)
    set: ShardSet = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.set = ShardSet(self.location)
        self.digest = self.image_digest = self.set.digest
        self.attrition = self.set.manifest.get("attrition", [])
        self.tasks = {name: _label_task(entry) for name, entry in self.set.manifest["tasks"].items()}

    def __len__(self) -> int:
        """Return the number of images over all splits."""
        return len(self.set)

    def items(self, split: str, set_index: int) -> list[Item]:
        """Return what the set's index says of the images of a split."""
        rows = self.set.rows(split)
        table = pq.read_table(self.set.path / INDEX_FILE, columns=COLUMNS, filters=[("split", "==", split)])
        return [
            Item(
                set_index=set_index,
                row=int(row),
                key=values["key"],
                source=values["source"],
                modality=values["modality"],
                group=f"{values['source']}/{values['group']}",
                labels={label["task"]: list(label["classes"]) for label in values["labels"]},
                captions=tuple(caption["text"] for caption in values["captions"]),
                sha256=values["sha256"] or "",
                facts=_words(values["provenance"], LONGEST_WORDS) | _words(values["facts"]),
            )
            for row, values in zip(rows, table.to_pylist(), strict=True)
        ]

    def image_bytes(self, row: int) -> bytes:
        """Return the stored JPEG."""
        return self.set.image_bytes(row)

    def key(self, row: int) -> str:
        """Return the sample's key."""
        return str(self.set.record(row)["key"])


def _label_task(entry: Mapping[str, Any]) -> LabelTask:
    return LabelTask(
        classes=dict(entry["classes"]),
        modality=entry.get("modality") or MIXED,
        multi_label=bool(entry.get("multi_label", False)),
    )


def _words(text: str | None, longest: int | None = None) -> dict[str, str]:
    """Return the scalars of a JSON object as words."""
    values = json.loads(text) if text else {}
    words = {name: str(value) for name, value in values.items() if isinstance(value, str | int | float)}
    return {name: word for name, word in words.items() if word and (longest is None or len(word) <= longest)}
