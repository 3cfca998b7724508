"""Tables of any usual format as rows of texts, read as their provider wrote them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from lxml import etree

from clipmed.configuration import nearest
from clipmed.errors import DataError, ItemRejectedError
from dataset_builders.datasets.layout import Table
from dataset_builders.datasets.paths import matching_files
from dataset_builders.items import path_problem

MAX_WHOLE_MB = 2000.0  # JSON, XML and Excel files are read whole
_KEY = "key"
_ENDINGS = {
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xml": "xml",
    ".nxml": "xml",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its cells by column, and where it stands. `fault` says why it cannot be used."""

    cells: Mapping[str, str]
    file: str
    number: int
    """line of a text file, otherwise number of the row from 1"""
    fault: str = ""
    is_sparse: bool = False
    """the format lets rows leave columns out"""


def table_rows(table: Table, root: Path) -> Iterator[Row]:
    """Yield the rows of a table's files, in order, with the table's own `values` and the column `table`.

    Raises:
        DataError: no file fits, a link or a path that leaves the root, or a file that is not of its format.
    """
    files = table_files(table, root)
    for file in files:
        constant = {"table": Path(file).name.split(".")[0], **table.values}
        for row in _READERS[format_of(table, file)](table, root, file):
            yield replace(row, cells={**constant, **row.cells, **table.values})


def table_files(table: Table, root: Path) -> list[str]:
    """Return the files of a table, relative to the root.

    Raises:
        DataError: no file fits, or one is reached through a link.
    """
    if not any(sign in table.file for sign in "*?"):
        found = [table.file]
    else:
        found = [path for path, _ in matching_files(root, [table.file])]
    if not found:
        raise DataError(f"{root} has no table {table.file}; put it there, or give another folder")
    for file in found:
        if problem := path_problem(root, file):
            raise DataError(f"cannot read the table {root / file}: {problem.detail}")
    return found


def format_of(table: Table, file: str) -> str:
    """Return the format of a table's file: the stated one, or that of its ending."""
    if table.format != "auto":
        return table.format
    return _ENDINGS.get(Path(file.removesuffix(".gz")).suffix.lower(), "csv")


@contextmanager
def _text(table: Table, root: Path, file: str) -> Iterator[TextIO]:
    encoding = "utf-8-sig" if table.encoding == "utf-8" else table.encoding
    opened: Any = gzip.open if file.endswith(".gz") else open
    with opened(root / file, "rt", encoding=encoding, newline="") as stream:
        yield stream


def _csv_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    delimiter = "\t" if format_of(table, file) == "tsv" else table.delimiter
    try:
        with _text(table, root, file) as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            header = table.header or _named(next(reader, []), root / file)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield _row(header, cells, file, reader.line_num)
    except (csv.Error, UnicodeError, OSError, EOFError) as error:
        raise DataError(f"{root / file} cannot be read as a table: {error}; allowed: {table.encoding} text") from error


def _named(header: Sequence[str], path: Path) -> tuple[str, ...]:
    if not any(name.strip() for name in header):
        raise DataError(f"{path} names no column in its first line; give the names as tables.header if it has none")
    return tuple(header)


def _row(header: Sequence[str], cells: Sequence[str], file: str, number: int) -> Row:
    fault = ""
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        fault = f"line {number} has {len(cells)} cells; the header has {len(header)}"
    once: dict[str, str] = {}
    for name, cell in zip(header, cells, strict=False):
        if name in once and name and once[name] != cell:
            fault = fault or f"line {number} has two cells of the column {name!r} that differ"
        once.setdefault(name, cell)
    return Row(once, file, number, fault)


def _json_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    content: Any = _parsed(_whole(root, file), root / file)
    for step in filter(None, table.records.split(".")):
        if not isinstance(content, dict) or step not in content:
            raise DataError(f"{root / file} has no key {step!r} of records {table.records!r}; look at its structure")
        content = content[step]
    if not isinstance(content, list | dict):
        raise DataError(f"{root / file}: the records are {type(content).__name__}; allowed: a list or an object")
    for number, record in enumerate(_records(content), 1):
        yield _json_row(record, file, number)


def _records(content: list[Any] | dict[str, Any]) -> Iterator[Any]:
    """Yield the records of a list, or of objects whose keys name one record or a list; then with the name as `key`."""
    for item in content.items() if isinstance(content, dict) else content:
        if isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item.values())), dict):
            item = next(iter(item.items()))  # noqa: PLW2901 (an object of one named record)
        if not isinstance(item, tuple):
            yield item
            continue
        name, found = item
        for record in found if isinstance(found, list) else [found]:
            yield {_KEY: name, **record} if isinstance(record, dict) else {_KEY: name, "value": record}


def _json_row(record: Any, file: str, number: int) -> Row:
    if not isinstance(record, dict):
        return Row({}, file, number, f"record {number} is {type(record).__name__}; allowed: an object")
    cells = dict(_flat(record))
    try:
        "".join([*cells, *cells.values()]).encode()
    except UnicodeEncodeError:
        return Row({}, file, number, f"record {number} holds half of a surrogate pair, which is no text")
    return Row(cells, file, number, is_sparse=True)


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _jsonl_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    try:
        with _text(table, root, file) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield _json_row(_loads(line), file, number)
                except (ValueError, RecursionError) as error:
                    yield Row({}, file, number, f"line {number} is not JSON: {error}")
    except (UnicodeError, OSError, EOFError) as error:
        raise DataError(f"cannot read {root / file}: {error}; allowed: JSON lines in {table.encoding}") from error


def _parsed(data: bytes, path: Path) -> Any:
    try:
        return _loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _loads(text: str) -> Any:
    """Parse JSON; numbers stay the texts that they are written as."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parquet_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(root / file) as opened:
            names = [field.name for field in opened.schema_arrow if not _holds_bytes(field.type)]
            number = 0
            for batch in opened.iter_batches(columns=names):
                for record in batch.to_pylist():
                    number += 1
                    yield _json_row(_plain(record), file, number)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root / file} is not a Parquet file that can be read: {error}") from error


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        for name, value in record.items()
    }


def _holds_bytes(kind: Any) -> bool:
    """Whether a column holds encoded images: bytes, or an object with bytes in it."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _xlsx_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    import openpyxl

    data = _whole(root, file)
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        sheet = book[table.sheet] if table.sheet else book.worksheets[0]
        rows: Iterable[Any] = sheet.iter_rows(values_only=True)
        header = table.header or None
        for number, values in enumerate(rows, 1):
            cells = ["" if value is None else str(value) for value in values]
            if not any(cells):
                continue
            if header is None:
                header = tuple(cells)
                continue
            yield _row(header, cells, file, number)
        book.close()
    except KeyError as error:
        near = nearest(table.sheet, book.sheetnames)
        raise DataError(
            f"{root / file} has no sheet {table.sheet!r}{near} Sheets: {', '.join(book.sheetnames)}"
        ) from error
    except Exception as error:
        raise DataError(f"{root / file} is not an Excel file (xlsx) that can be read: {error}") from error


def _xml_rows(table: Table, root: Path, file: str) -> Iterator[Row]:
    from dataset_builders.pmc.config import ParseLimits
    from dataset_builders.pmc.parser import parse_xml

    try:
        tree = parse_xml(_whole(root, file), ParseLimits()).root
    except ItemRejectedError as error:
        yield Row({}, file, 1, f"{file} is not XML that can be read: {error.detail}")
        return
    for number, element in enumerate(_found(tree, table.rows, root / file), 1):
        cells = {name: _joined(_found(element, path, root / file)) for name, path in table.columns.items()}
        yield Row(cells, file, number)


def _found(element: Any, path: str, where: Path) -> list[Any]:
    try:
        found = element.xpath(path)
    except etree.XPathError as error:
        raise DataError(f"{where}: {path!r} is no XPath: {error}; correct tables.rows or tables.columns") from error
    return found if isinstance(found, list) else [found]


def _joined(found: Sequence[Any]) -> str:
    texts = [
        " ".join("".join(map(str, part.itertext())).split()) if isinstance(part, etree._Element) else str(part)
        for part in found
    ]
    return " ".join(text.strip() for text in texts if text.strip())


def _whole(root: Path, file: str) -> bytes:
    path = root / file
    try:
        if path.stat().st_size > MAX_WHOLE_MB * 1e6:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes; allowed: {MAX_WHOLE_MB:g} MB; cut it into several"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return data


_READERS = {
    "csv": _csv_rows,
    "tsv": _csv_rows,
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
    "xlsx": _xlsx_rows,
    "xml": _xml_rows,
}
