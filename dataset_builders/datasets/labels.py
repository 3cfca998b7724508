"""Which classes a row gives an image, and which it denies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipmed.configuration import nearest
from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.datasets.entry import Task
from dataset_builders.datasets.joining import captured
from dataset_builders.datasets.layout import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLabels:
    """The classes of one task that an image has, and those that its source says it does not have."""

    task: str
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def labels_of(name: str, task: Task, labels: Labels, cells: Mapping[str, str]) -> TaskLabels | None:
    """Return what a row says of a task; None where it says nothing.

    Raises:
        ItemRejectedError: a class that the entry does not list, or several of a task with one class an image.
    """
    found = _in_columns(name, task, labels, cells) if labels.columns else _in_cell(name, task, labels, cells)
    if not task.multi_label and len(found.present) > 1:
        detail = f"{name} has the classes {', '.join(found.present)}; allowed: one"
        raise ItemRejectedError(Stage.PARSE, RejectReason.ROW_INVALID, detail)
    if not task.multi_label and not found.present:
        return None
    return found


def together(name: str, task: Task, parts: Sequence[TaskLabels]) -> TaskLabels:
    """Return what several rows of one image say together: a class that one of them names is present.

    Raises:
        ItemRejectedError: several classes of a task with one class an image.
    """
    present = _ordered(task, {class_id for part in parts for class_id in part.present})
    absent = {class_id for part in parts for class_id in part.absent} - set(present)
    if not task.multi_label and len(present) > 1:
        detail = f"rows of one image give {name} the classes {', '.join(present)}; allowed: one"
        raise ItemRejectedError(Stage.PARSE, RejectReason.ROW_INVALID, detail)
    return TaskLabels(task=name, present=present, absent=_ordered(task, absent))


def _in_columns(name: str, task: Task, labels: Labels, cells: Mapping[str, str]) -> TaskLabels:
    said = {class_id: cells[column].strip() for class_id, column in labels.columns.items()}
    present = {class_id for class_id, cell in said.items() if cell in labels.present}
    absent = {class_id for class_id, cell in said.items() if cell in labels.absent}
    return TaskLabels(
        task=name, present=_ordered(task, present), absent=_ordered(task, absent if task.multi_label else ())
    )


def _in_cell(name: str, task: Task, labels: Labels, cells: Mapping[str, str]) -> TaskLabels:
    written = cells[labels.column].strip()
    if labels.ranges:
        return TaskLabels(task=name, present=_in_range(name, labels, written))
    parts = written.split(labels.separator) if task.multi_label else [written]
    named = {class_id for part in parts if (class_id := _class_id(name, task, labels, part.strip()))}
    complete = task.multi_label and labels.complete
    absent = set(task.classes) - named if complete else set()
    return TaskLabels(task=name, present=_ordered(task, named), absent=_ordered(task, absent))


def _class_id(name: str, task: Task, labels: Labels, written: str) -> str:
    value = captured(labels.pattern, written) if labels.pattern else written
    class_id = labels.values.get(value, value)
    if class_id and class_id not in task.classes:
        near = nearest(class_id, list(task.classes))
        detail = f"{written!r} is no class of {name}{near}"
        raise ItemRejectedError(Stage.PARSE, RejectReason.LABEL_UNKNOWN, detail)
    return class_id


def _in_range(name: str, labels: Labels, written: str) -> tuple[str, ...]:
    if not written:
        return ()
    try:
        number = float(written)
    except ValueError as error:
        detail = f"{written!r} of {name} is no number"
        raise ItemRejectedError(Stage.PARSE, RejectReason.LABEL_UNKNOWN, detail) from error
    found = tuple(class_id for class_id, (low, high) in labels.ranges.items() if low <= number <= high)
    if not found:
        raise ItemRejectedError(Stage.PARSE, RejectReason.LABEL_UNKNOWN, f"{written} is in no range of {name}")
    return found


def _ordered(task: Task, class_ids: set[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(class_id for class_id in task.classes if class_id in class_ids)
