"""What a labelled dataset holds: every image of its folders or its table, before any image is opened."""

from __future__ import annotations

import csv
import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from clipmed.configuration import nearest
from clipmed.errors import DataError, ItemRejectedError
from clipmed.licenses import spdx_id
from clipmed.rejects import RejectReason, Stage
from dataset_builders.classification.entry import MODALITIES, Entry, Task
from dataset_builders.items import Problem, require_folder, text_lines

Row = Mapping[str | None, str | list[str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledItem:
    """One image as its source lists it. `labels` are (task, class ids) in the entry's order of tasks."""

    item: str
    path: str
    group: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    modality: str = ""
    body_part: str | None = None
    split: str | None = None
    license: str = ""
    line: int | None = None
    problem: Problem | None = field(default=None)

    def content(self) -> tuple[object, ...]:
        """Return everything that two rows of one image must agree on."""
        return self.labels, self.group, self.modality, self.body_part, self.split, self.license


def list_items(entry: Entry, root: Path) -> list[LabelledItem]:
    """Return all items below `root`, in an order that depends on their names alone.

    Raises:
        DataError: no such folder or table, or a table without a column that the entry names.
    """
    require_folder(root)
    if entry.layout.kind == "csv":
        return _settle_repeats(list(_table_items(entry, root)))
    return list(_folder_items(entry, root))


def _folder_items(entry: Entry, root: Path) -> Iterator[LabelledItem]:
    layout = entry.layout
    splits = _folders(root) if layout.split_folders else [None]
    for split_folder in splits:
        base = root / split_folder if split_folder else root
        for class_folder in _folders(base):
            for path in _files(base / class_folder, root):
                if fnmatch.fnmatchcase(path.name, layout.pattern):
                    yield _folder_item(entry, str(path), class_folder, split_folder)


def _folder_item(entry: Entry, path: str, class_folder: str, split_folder: str | None) -> LabelledItem:
    shown = path.encode(errors="backslashreplace").decode()
    found = LabelledItem(item=shown, path=shown, group=_group(entry, shown))
    try:
        if shown != path:
            raise _rejected(RejectReason.PATH_UNSAFE, "the file's name is not UTF-8")
        split = _split(entry, split_folder) if split_folder is not None else None
        task, content = next(iter(entry.tasks.items()))
        labels = ((task, (_class_id(entry, task, content, class_folder),)),)
        return _described(entry, replace(found, labels=labels, split=split, license=spdx_id(entry.license)), None)
    except ItemRejectedError as error:
        return replace(found, problem=Problem(error.stage, error.reason, error.detail))


def _folders(base: Path) -> list[str]:
    """Return the names of the folders in `base`, links to folders included: their content is rejected, not hidden."""
    return sorted(entry.name for entry in base.iterdir() if entry.is_dir())


def _files(folder: Path, root: Path) -> Iterator[PurePosixPath]:
    """Yield every file below `folder`, as a path relative to `root`; a linked folder counts as one item."""
    if folder.is_symlink():
        yield PurePosixPath(folder.relative_to(root).as_posix())
        return
    for current, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        here = Path(current)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield PurePosixPath((here / name).relative_to(root).as_posix())


def _table_items(entry: Entry, root: Path) -> Iterator[LabelledItem]:
    name = entry.layout.file
    assert name is not None  # the entry was validated
    reader = csv.DictReader(text_lines(root / name), delimiter=entry.layout.delimiter)
    try:
        check_columns(root / name, entry.layout.columns(), reader.fieldnames)
        for row in reader:
            yield _row_item(entry, row, reader.line_num)
    except csv.Error as error:
        raise DataError(f"{root / name}, line {reader.line_num}: not a table with this delimiter: {error}") from error


def check_columns(path: Path, wanted: Sequence[str], found: Sequence[str] | None) -> None:
    """Raise DataError unless the table has each wanted column exactly once."""
    columns = list(found or ())
    for name in wanted:
        if columns.count(name) != 1:
            times = "no" if name not in columns else "more than one"
            near = nearest(name, columns) if name not in columns else "."
            raise DataError(f"{path} has {times} column {name!r}{near} Columns: {', '.join(columns) or 'none'}")


def _row_item(entry: Entry, row: Row, line: int) -> LabelledItem:
    found = LabelledItem(item=f"{entry.layout.file}:{line}", path="", group=f"{entry.name}/line {line}", line=line)
    try:
        path = _image_path(entry, row, line)
        found = replace(found, item=f"{path} ({found.item})", path=path, group=_group(entry, path))
        if entry.layout.group_column is not None:
            found = replace(found, group=f"{entry.name}/{_cell(row, entry.layout.group_column)}")
        return _described(entry, _with_cells(entry, found, row), row)
    except ItemRejectedError as error:
        return replace(found, problem=Problem(error.stage, error.reason, error.detail))


def _with_cells(entry: Entry, found: LabelledItem, row: Row) -> LabelledItem:
    layout = entry.layout
    labels = []
    for task, content in entry.tasks.items():
        classes = _classes(entry, task, content, row)
        if classes is not None:
            labels.append((task, classes))
    if not labels:
        shown = ", ".join(layout.label_columns.values())
        raise _rejected(RejectReason.LABEL_UNKNOWN, f"no label in {shown}")
    split = _split(entry, _cell(row, layout.split_column)) if layout.split_column else None
    stated = str(row.get(layout.license_column) or "") if layout.license_column else ""
    return replace(found, labels=tuple(labels), split=split, license=spdx_id(stated or entry.license))


def _image_path(entry: Entry, row: Row, line: int) -> str:
    if None in row or any(value is None for value in row.values()):
        raise _rejected(RejectReason.ROW_INVALID, f"line {line} has not as many cells as the header")
    assert entry.layout.image_column is not None
    written = _cell(row, entry.layout.image_column)
    return str(PurePosixPath(entry.layout.image_folder) / f"{written}{entry.layout.image_suffix}")


def _classes(entry: Entry, task: str, content: Task, row: Row) -> tuple[str, ...] | None:
    """Return the row's classes of a task; None where a single-label task has an empty cell."""
    written = str(row[entry.layout.label_columns[task]]).strip()
    if content.multi_label:
        parts = [part for part in written.split(entry.layout.label_separator) if part.strip()]
        return tuple(sorted({_class_id(entry, task, content, part) for part in parts}))
    return (_class_id(entry, task, content, written),) if written else None


def _class_id(entry: Entry, task: str, content: Task, written: str) -> str:
    class_id = entry.layout.class_of(written)
    if class_id not in content.classes:
        near = nearest(class_id, list(content.classes))
        raise _rejected(RejectReason.LABEL_UNKNOWN, f"{written!r} is no class of {task}{near}")
    return class_id


def _split(entry: Entry, written: str) -> str:
    split = entry.layout.split_of(written)
    if split is None:
        raise _rejected(RejectReason.ROW_INVALID, f"unknown split {written!r}; name it in layout.split_values")
    return split


def _described(entry: Entry, found: LabelledItem, row: Row | None) -> LabelledItem:
    """Add the modality and the body part, which a column, a class or the entry decides."""
    modality, body_part = entry.modality, entry.body_part
    for task, classes in found.labels:
        for class_id in classes:
            modality = entry.tasks[task].class_modality.get(class_id, modality)
            body_part = entry.tasks[task].class_body_part.get(class_id, body_part)
    column = entry.layout.modality_column
    if column is not None and row is not None:
        modality = _modality(entry, _cell(row, column))
    if modality is None:
        raise _rejected(RejectReason.ROW_INVALID, "no label that decides the modality")
    return replace(found, modality=modality, body_part=body_part)


def _modality(entry: Entry, written: str) -> str:
    modality = entry.layout.modality_values.get(written, written.lower())
    if modality not in MODALITIES:
        raise _rejected(RejectReason.ROW_INVALID, f"unknown modality {written!r}; name it in layout.modality_values")
    return modality


def _cell(row: Row, column: str) -> str:
    value = str(row[column]).strip()
    if not value:
        raise _rejected(RejectReason.ROW_INVALID, f"column {column!r} is empty")
    return value


def _group(entry: Entry, path: str) -> str:
    """Return what must stay in one split: the part of the file name that the entry captures, or the file itself."""
    match = re.search(entry.group_from, PurePosixPath(path).name) if entry.group_from else None
    captured = "/".join(part for part in match.groups() if part) if match else ""
    return f"{entry.name}/{captured or path}"


def _settle_repeats(items: list[LabelledItem]) -> list[LabelledItem]:
    """Keep the first of equal rows of one image; where its rows contradict each other, none can be trusted."""
    rows: dict[str, list[LabelledItem]] = {}
    for item in items:
        if item.problem is None:
            rows.setdefault(item.path, []).append(item)
    return [item if item.problem else _settled(item, rows[item.path]) for item in items]


def _settled(item: LabelledItem, same: Sequence[LabelledItem]) -> LabelledItem:
    lines = ", ".join(str(other.line) for other in same)
    if any(other.content() != item.content() for other in same):
        detail = f"lines {lines} list one image with different values"
        return replace(item, problem=Problem(Stage.PARSE, RejectReason.ROW_INVALID, detail))
    if item.line != same[0].line:
        detail = f"line {item.line} repeats line {same[0].line}"
        return replace(item, problem=Problem(Stage.PARSE, RejectReason.DUPLICATE_EXACT, detail))
    return item


def _rejected(reason: RejectReason, detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.PARSE, reason, detail)
