"""Further tables joined to rows by equal texts in their key columns, and further columns made of others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipmed.configuration import nearest
from clipmed.errors import DataError
from dataset_builders.datasets.layout import Column, Join
from dataset_builders.datasets.tables import table_rows

Key = tuple[str, ...]


class JoinedTable:
    """A table held in memory by its key.

    Raises:
        DataError: the table cannot be read, lacks a key column, or has two different rows of one key.
    """

    def __init__(self, join: Join, root: Path) -> None:
        self.join = join
        self._rows: dict[Key, Mapping[str, str]] = {}
        self._columns: dict[str, None] = {}
        own = tuple(join.on.values())
        places: dict[Key, int] = {}
        for row in table_rows(join.table, root):
            if row.fault:
                raise DataError(f"{root / row.file}: {row.fault}; correct the table that is joined")
            require_columns(f"{root / row.file}", own, tuple(row.cells))
            key = tuple(row.cells[name].strip() for name in own)
            cells = {name: cell for name, cell in row.cells.items() if name != "table"}
            if self._rows.setdefault(key, cells) != cells:
                raise DataError(
                    f"{root / row.file}: rows {places[key]} and {row.number} both have {', '.join(own)} "
                    f"{', '.join(key)!r} and differ; join on more columns, or keep one of them"
                )
            places.setdefault(key, row.number)
            self._columns.update(dict.fromkeys(cells))

    def cells_for(self, cells: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return the further cells of a row: empty ones, or None where a row is required, if there is none."""
        found = self._rows.get(tuple(cells.get(name, "").strip() for name in self.join.on))
        if found is not None or self.join.required:
            return found
        return dict.fromkeys(self._columns, "")


def value_of(column: Column, cells: Mapping[str, str]) -> str:
    """Return what a column says of a row: its cell, the part that its pattern captures, through its values."""
    cell = cells[column.column].strip()
    if not cell and column.otherwise:
        cell = cells[column.otherwise].strip()
    if column.pattern:
        cell = captured(column.pattern, cell)
    return column.values.get(cell, cell)


def captured(pattern: str, text: str) -> str:
    """Return what a regular expression's groups capture in a text, joined by /; the empty text if it is not found."""
    match = re.search(pattern, text)
    return "/".join(part for part in match.groups() if part) if match else ""


def require_columns(where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise DataError unless every wanted column is there."""
    for name in wanted:
        if name not in found:
            shown = ", ".join(column or "(no name)" for column in found) or "none"
            raise DataError(f"{where} has no column {name!r}{nearest(name, list(found))} Columns: {shown}")
