"""What a dataset holds: every image of its paths, tables or arrays, before any image is decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from clipmed.errors import ItemRejectedError
from clipmed.licenses import spdx_id
from clipmed.rejects import RejectReason, Stage
from dataset_builders.datasets.entry import Entry
from dataset_builders.datasets.joining import value_of
from dataset_builders.datasets.labels import TaskLabels, labels_of, together
from dataset_builders.datasets.layout import FIELD, MODALITIES, Text
from dataset_builders.datasets.rows import ImageRow, image_rows
from dataset_builders.items import Problem, path_problem, require_folder
from dataset_builders.readers.parts import list_parts

# Files that hold one image whatever the reader's settings are, but for several windows.
_SINGLE = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageItem:
    """One image as its source lists it. Labels are in the entry's order of tasks."""

    item: str
    path: str
    part: str = ""
    group: str
    labels: tuple[TaskLabels, ...] = ()
    modality: str = ""
    body_part: str | None = None
    view: str | None = None
    split: str | None = None
    license: str = ""
    details: tuple[tuple[str, str], ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    text_cells: tuple[tuple[str, str], ...] = ()
    """cells that native texts are made of, by column"""
    place: str = ""
    """table and line, where it is from a table"""
    problem: Problem | None = field(default=None)

    def content(self) -> tuple[object, ...]:
        """Return everything that two rows of one image must agree on."""
        return (
            *(self.labels, self.group, self.modality, self.body_part, self.view, self.split, self.license),
            *(self.details, self.text_cells),
        )


def list_items(entry: Entry, root: Path) -> list[ImageItem]:
    """Return all images below `root`, in an order that names and tables alone decide.

    Raises:
        DataError: no such folder, table or array, or a table without a column that the entry names.
    """
    require_folder(root)
    items = [_item(entry, row) for row in image_rows(entry, root)]
    if entry.layout.tables:
        items = list(_settled(entry, items))
    return [part for item in items for part in _parts(entry, root, item)]


def _item(entry: Entry, row: ImageRow) -> ImageItem:
    shown = row.path or row.place
    place = row.place if entry.layout.tables else ""
    found = ImageItem(item=row.place, path=row.path, part=row.part, group=f"{entry.name}/{shown}", place=place)
    try:
        if row.problem is not None:
            raise row.problem.error()
        return _described(entry, _with_labels(entry, found, row.cells), row.cells)
    except ItemRejectedError as error:
        return replace(found, problem=Problem(error.stage, error.reason, error.detail))


def _with_labels(entry: Entry, found: ImageItem, cells: Mapping[str, str]) -> ImageItem:
    layout = entry.layout
    said = [labels_of(name, task, layout.labels[name], cells) for name, task in entry.tasks.items()]
    labels = tuple(part for part in said if part is not None)
    if not labels and not layout.texts:
        columns = [name for part in layout.labels.values() for name in (part.column, *part.columns.values()) if name]
        raise _rejected(RejectReason.LABEL_UNKNOWN, f"no label in {', '.join(columns)}")
    group = _group(entry, found, cells)
    return replace(
        found,
        labels=labels,
        group=f"{entry.name}/{group}",
        details=tuple(
            (name, cells[column].strip()) for name, column in layout.details.items() if cells[column].strip()
        ),
        provenance=tuple((name, cells[name]) for name in layout.provenance if cells[name]),
        text_cells=tuple((name, cells[name]) for name in _text_columns(layout.texts)),
    )


def _group(entry: Entry, found: ImageItem, cells: Mapping[str, str]) -> str:
    """Return what must stay in one split: the image's file by itself where the source names nothing of it."""
    column = entry.layout.group
    alone = f"{found.path}#{found.part}".rstrip("#") if entry.layout.arrays or entry.layout.image_bytes else found.path
    if column is None:
        return alone
    if not cells[column.column].strip() and not (column.otherwise and cells[column.otherwise].strip()):
        raise _rejected(RejectReason.ROW_INVALID, f"column {column.column!r}, the group, is empty")
    return value_of(column, cells) or alone


def _text_columns(texts: Sequence[Text]) -> list[str]:
    named = [name for text in texts for name in (text.column, *FIELD.findall(text.file), *FIELD.findall(text.prefix))]
    return list(dict.fromkeys(filter(None, named)))


def _described(entry: Entry, found: ImageItem, cells: Mapping[str, str]) -> ImageItem:
    """Add what a column, a class or the entry decides."""
    modality = entry.modality
    body_part = _value(entry, "body_part", cells) or entry.body_part
    for labels in found.labels:
        for class_id in labels.present:
            modality = entry.tasks[labels.task].class_modality.get(class_id, modality)
            body_part = entry.tasks[labels.task].class_body_part.get(class_id, body_part)
    if entry.layout.modality is not None:
        modality = _modality(value_of(entry.layout.modality, cells))
    if modality is None:
        raise _rejected(RejectReason.ROW_INVALID, "no label that decides the modality")
    return replace(
        found,
        modality=modality,
        body_part=body_part,
        view=_value(entry, "view", cells) or entry.view,
        split=_split(entry, cells),
        license=spdx_id(_value(entry, "license", cells) or entry.license),
    )


def _value(entry: Entry, what: str, cells: Mapping[str, str]) -> str:
    column = getattr(entry.layout, what)
    return "" if column is None else value_of(column, cells)


def _modality(written: str) -> str:
    modality = written if written in MODALITIES else written.lower()
    if modality not in MODALITIES:
        raise _rejected(RejectReason.ROW_INVALID, f"unknown modality {written!r}; name it in layout.modality.values")
    return modality


def _split(entry: Entry, cells: Mapping[str, str]) -> str | None:
    if entry.layout.split is None:
        return None
    written = value_of(replace(entry.layout.split, values={}), cells)
    split = entry.layout.split_of(written)
    if split is None:
        raise _rejected(RejectReason.ROW_INVALID, f"unknown split {written!r}; name it in layout.split.values")
    return split


def _settled(entry: Entry, items: Sequence[ImageItem]) -> Iterator[ImageItem]:
    """Settle rows of one image: gathered into one item, or the first of equal ones; differing ones can't be trusted."""
    rows: dict[tuple[str, str], list[ImageItem]] = {}
    for item in items:
        if item.problem is None:
            rows.setdefault((item.path, item.part), []).append(item)
    for item in items:
        same = [] if item.problem else rows[item.path, item.part]
        if len(same) < 2:
            yield item
        elif not entry.layout.gather:
            yield _of_equal(item, same)
        elif item is same[0]:
            yield _gathered(entry, same)


def _of_equal(item: ImageItem, same: Sequence[ImageItem]) -> ImageItem:
    if any(other.content() != item.content() for other in same):
        detail = f"rows {', '.join(other.place for other in same)} list one image with different values"
        return replace(item, problem=Problem(Stage.PARSE, RejectReason.ROW_INVALID, detail))
    if item is not same[0]:
        detail = f"{item.place} repeats {same[0].place}"
        return replace(item, problem=Problem(Stage.PARSE, RejectReason.DUPLICATE_EXACT, detail))
    return item


def _gathered(entry: Entry, same: Sequence[ImageItem]) -> ImageItem:
    first = same[0]
    try:
        labels = tuple(
            together(name, task, parts)
            for name, task in entry.tasks.items()
            if (parts := [labels for item in same for labels in item.labels if labels.task == name])
        )
    except ItemRejectedError as error:
        return replace(first, problem=Problem(error.stage, error.reason, error.detail))
    cells: dict[str, list[str]] = {}
    for item in same:
        for name, cell in item.text_cells:
            cells.setdefault(name, []).append(cell)
    return replace(first, labels=labels, text_cells=tuple((name, _one_cell(each)) for name, each in cells.items()))


def _one_cell(cells: Sequence[str]) -> str:
    """Return the texts of several rows as one cell: as they are where they are one, else as a list in JSON."""
    unique = list(dict.fromkeys(cell for cell in cells if cell.strip()))
    return unique[0] if len(unique) == 1 else json.dumps(unique, ensure_ascii=False) if unique else ""


def _parts(entry: Entry, root: Path, item: ImageItem) -> Iterator[ImageItem]:
    """Yield an item for each image of a file: frames, slices, tiles."""
    suffix = PurePosixPath(item.path).suffix.lower()
    is_single = suffix in _SINGLE and len(entry.reader.windows) == 1
    if item.problem is not None or item.part or is_single or entry.layout.image_bytes or path_problem(root, item.path):
        yield item
        return
    try:
        names = list_parts(root / item.path, entry.reader)
    except ItemRejectedError as error:
        yield replace(item, problem=Problem(error.stage, error.reason, error.detail))
        return
    for name in names:
        yield replace(item, part=name, item=f"{item.item}#{name}") if name else item


def _rejected(reason: RejectReason, detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.PARSE, reason, detail)
