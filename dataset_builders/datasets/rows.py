"""The rows of a dataset: one way to read path patterns, tables and arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from clipmed.errors import DataError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.datasets.entry import Entry
from dataset_builders.datasets.joining import JoinedTable, require_columns, value_of
from dataset_builders.datasets.layout import FIELD, Arrays, Layout
from dataset_builders.datasets.paths import matching_files
from dataset_builders.datasets.tables import Row, format_of, table_files, table_rows
from dataset_builders.datasets.texts import filled
from dataset_builders.items import Problem

EMBEDDED = "row"  # part of an image that lies in a Parquet table, before its number


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One row: its cells, and the image that it speaks of. `part` names the image inside its file."""

    place: str
    """where it stands, as rejects show it"""
    cells: Mapping[str, str]
    path: str = ""
    part: str = ""
    problem: Problem | None = None
    is_sparse: bool = False


def image_rows(entry: Entry, root: Path) -> Iterator[ImageRow]:
    """Yield every row of a dataset, in an order that its names and tables alone decide.

    Raises:
        DataError: a table or array file that is missing or not of its format, or a column that is not there.
    """
    layout = entry.layout
    if layout.files:
        rows = _file_rows(layout, root)
    elif layout.tables:
        rows = _table_rows(layout, root)
    else:
        rows = _array_rows(entry, root)
    for row in _with_all_columns(layout, rows):
        if row.problem or all(row.cells[name].strip() in allowed for name, allowed in layout.where.items()):
            yield row


def _with_all_columns(layout: Layout, rows: Iterator[ImageRow]) -> Iterator[ImageRow]:
    """Yield the rows with every wanted column; sparse rows may leave columns out, but not all of them the same."""
    wanted = wanted_columns(layout)
    checked: set[tuple[str, ...]] = set()
    sparse: dict[str, None] = {}
    for row in rows:
        columns = tuple(row.cells)
        if row.problem is None and columns not in checked:
            checked.add(columns)
            sparse.update(dict.fromkeys(columns if row.is_sparse else ()))
            if not row.is_sparse:
                require_columns(row.place, wanted, columns)
        yield replace(row, cells={**dict.fromkeys(wanted, ""), **row.cells})
    if sparse:
        require_columns(f"no row of {', '.join(table.file for table in layout.tables)}", wanted, tuple(sparse))


def wanted_columns(layout: Layout) -> list[str]:
    """Return every column that the layout takes something from."""
    columns = [layout.split, layout.group, layout.modality, layout.view, layout.body_part, layout.license]
    named = [name for column in columns if column for name in (column.column, column.otherwise)]
    for labels in layout.labels.values():
        named += [labels.column, *labels.columns.values()]
    for text in layout.texts:
        named += [text.column, *FIELD.findall(text.file), *FIELD.findall(text.prefix)]
    named += [*layout.where, *layout.details.values(), *layout.provenance]
    return list(dict.fromkeys(filter(None, named)))


def _file_rows(layout: Layout, root: Path) -> Iterator[ImageRow]:
    for path, parts in matching_files(root, layout.files, layout.exclude):
        shown = path.encode(errors="backslashreplace").decode()
        if shown != path:
            detail = "the file's name is not UTF-8"
            yield ImageRow(place=shown, cells={}, problem=Problem(Stage.PARSE, RejectReason.PATH_UNSAFE, detail))
            continue
        if not parts and (root / path).is_symlink():
            detail = f"{path} is a link; links are not followed"
            yield ImageRow(
                place=path, cells={}, path=path, problem=Problem(Stage.SOURCE, RejectReason.PATH_UNSAFE, detail)
            )
            continue
        names = {name for pattern in layout.files for name in FIELD.findall(pattern)}
        cells = {**dict.fromkeys(names, ""), "table": "", **parts, **_path_cells(path)}
        row = ImageRow(place=path, cells=cells, path=path)
        yield replace(row, cells=_derived(layout, cells, row))


def _table_rows(layout: Layout, root: Path) -> Iterator[ImageRow]:
    joined = [JoinedTable(join, root) for join in layout.join]
    files = _ImageFiles(root)
    for table in layout.tables:
        if layout.image_bytes and {format_of(table, file) for file in table_files(table, root)} != {"parquet"}:
            raise DataError(f"layout.image_bytes: {table.file} is another table; allowed: Parquet")
        for row in table_rows(table, root):
            place = f"{row.file}:{row.number}"
            found = ImageRow(place=place, cells=row.cells, is_sparse=row.is_sparse)
            try:
                yield _placed(layout, found, row, joined, files)
            except ItemRejectedError as error:
                yield replace(found, problem=Problem(error.stage, error.reason, error.detail))


def _placed(layout: Layout, found: ImageRow, row: Row, joined: Sequence[JoinedTable], files: _ImageFiles) -> ImageRow:
    """Return a table's row with all its cells, and its image.

    Raises:
        ItemRejectedError: a faulty row, one that a joined table does not know, or one without an image's path.
    """
    if row.fault:
        raise _invalid(row.fault)
    cells = _derived(layout, _joined(joined, found), found)
    if layout.image_bytes:
        path, part = row.file, f"{EMBEDDED}-{row.number}"
    else:
        needed = FIELD.findall(layout.image)
        if not row.is_sparse:
            require_columns(found.place, needed, tuple(cells))
        empty = [name for name in needed if not cells.get(name, "").strip()]
        if empty:
            raise _invalid(f"column {empty[0]!r}, which the image's path needs, is empty")
        path, part = files.find(filled(layout.image, cells)), ""
    return replace(found, place=f"{path} ({found.place})", cells={**cells, **_path_cells(path)}, path=path, part=part)


class _ImageFiles:
    """Finds the files that image paths with a * mean; the folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """Return the path with its * replaced, where exactly one file fits; otherwise the path as it is."""
        path = str(PurePosixPath(path))
        if "*" not in path:
            return path
        folders, _, name = path.rpartition("/")
        if "*" in name:
            found = [file for file, _ in matching_files(self._root, [path])]
            return found[0] if len(found) == 1 else path
        if folders not in self._known:
            names: dict[str, list[str]] = {}
            for file, _ in matching_files(self._root, [f"{folders}/*"]):
                names.setdefault(PurePosixPath(file).name, []).append(file)
            self._known[folders] = names
        found = self._known[folders].get(name, [])
        return found[0] if len(found) == 1 else path


def _joined(joined: Sequence[JoinedTable], found: ImageRow) -> Mapping[str, str]:
    cells = found.cells
    for table in joined:
        if not found.is_sparse:
            require_columns(found.place, tuple(table.join.on), tuple(cells))
        more = table.cells_for(cells)
        if more is None:
            raise _invalid(f"no row of {table.join.table.file} has its {', '.join(table.join.on)}")
        cells = {**more, **cells}
    return cells


def _derived(layout: Layout, cells: Mapping[str, str], found: ImageRow) -> dict[str, str]:
    all_cells = dict(cells)
    for name, column in layout.derive.items():
        needed = [part for part in (column.column, column.otherwise) if part]
        if found.is_sparse:
            all_cells = {**dict.fromkeys(needed, ""), **all_cells}
        require_columns(found.place, needed, tuple(all_cells))
        all_cells[name] = value_of(column, all_cells)
    return all_cells


def _array_rows(entry: Entry, root: Path) -> Iterator[ImageRow]:
    for arrays in entry.layout.arrays:
        columns, parts = _read_arrays(entry, arrays, root)
        constant = {"table": PurePosixPath(arrays.file).stem, **arrays.values, **_path_cells(arrays.file)}
        for part in parts:
            row = int(part.partition("-")[0])
            cells = {**{name: values[row] for name, values in columns.items()}, **constant, "row": str(row)}
            place = f"{arrays.file}#{arrays.images}-{part}"
            found = ImageRow(place=place, cells=cells, path=arrays.file, part=f"{arrays.images}-{part}")
            yield replace(found, cells=_derived(entry.layout, cells, found))


def _read_arrays(entry: Entry, arrays: Arrays, root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the label columns of an array file, and the parts of its images."""
    from dataset_builders.readers.arrays import array_parts, open_arrays

    reader = replace(entry.reader, kind="arrays", array=arrays.images)
    try:
        parts = array_parts(root / arrays.file, reader)
        count = open_arrays(root / arrays.file, reader).shape(arrays.images)[0]
        labels = open_arrays(root / (arrays.labels_file or arrays.file), reader)
        columns: dict[str, list[str]] = {}
        for column, name in arrays.labels.items():
            columns |= _columns(column, np.asarray(labels.array(name)))
    except ItemRejectedError as error:
        raise DataError(f"{root / arrays.file}: {error.detail}") from error
    for column, values in columns.items():
        if len(values) != count:
            raise DataError(
                f"{root / arrays.file}: {len(values)} labels of {column} for {count} images; allowed: as many"
            )
    return columns, parts


def _columns(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> dict[str, list[str]]:
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return {name: [_shown(value) for value in flat[:, 0]]}
    return {f"{name}.{place}": [_shown(value) for value in flat[:, place]] for place in range(flat.shape[1])}


def _shown(value: np.generic) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)


def _path_cells(path: str) -> dict[str, str]:
    return {"path": path, "stem": PurePosixPath(path.removesuffix(".gz")).stem}


def _invalid(detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.PARSE, RejectReason.ROW_INVALID, detail)
