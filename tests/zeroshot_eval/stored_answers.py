"""Stored answers for tests: an evaluation's folder without the evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zeroshot_eval.predictions import (
    Header,
    Predictions,
    choice_columns,
    classification_columns,
    make_predictions,
    multi_label_columns,
    write_predictions,
)
from zeroshot_eval.selection import Item


def make_header(task: str, **changes: Any) -> Header:
    values = {
        "suite": "toy", "kind": "classification", "checkpoint": "old", "checkpoint_digest": "0" * 8,
        "data_digest": "d" * 8, "logit_scale": 10.0, "modality": "ct", "main_metric": "balanced_accuracy",
        "classes": ("benign", "malignant"),
    }  # fmt: skip
    return Header(**{"task": task, **values, **changes})


def make_items(count: int, per_group: int = 1, **changes: Any) -> list[Item]:
    common = {"set_index": 0, "source": "clinic", "modality": "ct", "labels": {}, "captions": (), "facts": {}}
    return [
        Item(**{
            **common, "row": at, "key": f"clinic-{at}", "group": f"clinic/{at // per_group}", "sha256": f"{at:064d}",
            **{name: value[at] if isinstance(value, list) else value for name, value in changes.items()},
        })
        for at in range(count)
    ]  # fmt: skip


def classified(header: Header, targets: Sequence[int], scores: Any, items: Sequence[Item] | None = None) -> Predictions:
    values = np.asarray(scores, dtype=np.float32)
    return make_predictions(
        header, items or make_items(len(targets)), classification_columns(np.asarray(targets), values)
    )


def answered(header: Header, targets: Sequence[int], given: Sequence[int], items: Sequence[Item] | None = None):
    """Answers whose highest score is that of the given class."""
    scores = np.eye(len(header.classes))[np.asarray(given)]
    return classified(header, targets, scores, items)


def multi_labelled(header: Header, targets: Any, scores: Any, items: Sequence[Item] | None = None) -> Predictions:
    values = np.asarray(targets, dtype=np.int8)
    columns = multi_label_columns(values, np.asarray(scores, dtype=np.float32))
    return make_predictions(header, items or make_items(len(values)), columns)


def chosen_options(header: Header, answers, scores, set_ids, items=None) -> Predictions:
    columns = choice_columns(answers, scores, set_ids, ["any"] * len(answers))
    return make_predictions(header, items or make_items(len(answers)), columns)


def ranked(header: Header, rows: Sequence[tuple[str, int, int]], items: Sequence[Item]) -> Predictions:
    """Rows are (direction, best rank, worst rank)."""
    import pyarrow as pa

    columns = {
        "direction": pa.array([row[0] for row in rows]),
        "rank_best": pa.array([row[1] for row in rows], pa.int32()),
        "rank_worst": pa.array([row[2] for row in rows], pa.int32()),
        "num_correct": pa.array([1] * len(rows), pa.int32()),
        "gallery": pa.array([sum(other[0] != row[0] for other in rows) for row in rows], pa.int32()),
    }
    return make_predictions(header, items, columns)


def write_all(folder: Path, answers: Sequence[Predictions]) -> Path:
    for one in answers:
        write_predictions(folder, one)
    return folder
