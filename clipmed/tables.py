"""Rows of tables that users bring: CSV with a header, lines of JSON, or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipmed.errors import DataError
from clipmed.extras import require

SUFFIXES = (".csv", ".jsonl", ".parquet")


def table_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield where each row is, such as "line 3", and its values by name; a line of JSON may be something else.

    Args:
        path: a file that ends in one of SUFFIXES.
        columns: names that are wanted; of Parquet, rows have no others. A name that the table lacks, rows lack too.

    Raises:
        DataError: the file cannot be read.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    return readers[path.suffix.lower()](path, columns)


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a CSV or Parquet file; errors as in `table_rows`."""
    if path.suffix.lower() == ".csv":
        with _reading_csv(path), path.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream, strict=True), [])
    with _reading_parquet(path) as table:
        return list(table.schema_arrow.names)


def _csv_rows(path: Path, _columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    with _reading_csv(path), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        for row in reader:
            yield f"line {reader.line_num}", row


def _json_rows(path: Path, _columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"line {number}", json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as lines of JSON: {error}") from error


def _parquet_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    with _reading_parquet(path) as table:
        number = 0
        for batch in table.iter_batches(columns=[name for name in table.schema_arrow.names if name in columns]):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


@contextmanager
def _reading_csv(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {error}") from error


@contextmanager
def _reading_parquet(path: Path) -> Iterator[Any]:
    """Yield the open file."""
    parquet: Any = require("pyarrow.parquet", "tables")
    arrow: Any = require("pyarrow", "tables")
    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
