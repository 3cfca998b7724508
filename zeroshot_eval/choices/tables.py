"""Tables that question sets are published in, read as data: JSON, CSV and TSV, Parquet and Arrow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from clipmed.errors import DataError

MAX_JSON_BYTES = 1 << 30
MAX_ROW_BYTES = 96 << 20  # a row of a table in text: an image of 64 MiB in base64, and some
_SKIM_BYTES = 1 << 20


class JsonObject(dict[str, Any]):
    """An object of a JSON file: of a name that comes twice the first value holds; `repeated` lists such names."""

    repeated: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; NaN and Infinity, which JSON does not have, are read as null.

    Raises:
        DataError: the file is too large, no JSON, or nested too deep.
    """
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise DataError(f"{path}: {size} bytes of JSON; allowed: up to {MAX_JSON_BYTES}")
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None, object_pairs_hook=_json_object
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def json_rows(path: Path) -> list[Any]:
    """Return the rows of a JSON file that holds a list.

    Raises:
        DataError: the file holds something else.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: got a JSON {type(rows).__name__}; a list of rows is needed")
    return rows


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row of a CSV or TSV file: where it lies, and its cells by column; None where it is above the size limit."""

    number: int
    offset: int
    length: int
    cells: dict[str, str] | None


class TextTable:
    """A CSV or TSV file with a heading, read row by row; a row can be read again from where it lies.

    Cells may be quoted, with tabs, commas and line breaks inside; a row that is too large costs no memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._separator = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
        self._quoted = _open_quote(self._separator)
        with path.open("rb") as stream:
            heading, _ = self._next(stream)
        names = self._split(heading.removeprefix(b"\xef\xbb\xbf")) if heading else None
        if not names or len(set(names)) < len(names):
            raise DataError(f"{path}: heading: got {names!r}; a first line of different column names is needed")
        self.columns = tuple(names)

    def __iter__(self) -> Iterator[TextRow]:
        with self.path.open("rb") as stream:
            self._next(stream)
            number, offset = 1, stream.tell()
            while (found := self._next(stream)) != (b"", 0):
                raw, length = found
                if raw is None or raw.strip():
                    yield TextRow(number, offset, length, None if raw is None else self._cells(raw))
                number, offset = number + 1, stream.tell()

    def cell(self, offset: int, length: int, column: str) -> str:
        """Return one cell of the row that lies at these bytes."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            return self._cells(stream.read(min(length, MAX_ROW_BYTES)))[column]

    def _next(self, stream: IO[bytes]) -> tuple[bytes | None, int]:
        """Return the next row and its length in bytes: (b"", 0) at the end, (None, length) if it is too large."""
        parts: list[bytes] = []
        length = quotes = 0
        spans_lines = None  # whether a quoted cell goes on over line breaks; told at the first one
        while piece := stream.readline(_SKIM_BYTES):
            length += len(piece)
            quotes += piece.count(b'"')
            if length <= MAX_ROW_BYTES:
                parts.append(piece)
            if not piece.endswith(b"\n"):
                continue
            if spans_lines is None:
                spans_lines = quotes % 2 == 1 and self._quoted.fullmatch(b"".join(parts)) is not None
            if not spans_lines or quotes % 2 == 0 or length > MAX_ROW_BYTES:
                break
        return (b"".join(parts) if length <= MAX_ROW_BYTES else None), length

    def _cells(self, raw: bytes) -> dict[str, str]:
        values = self._split(raw)
        padded = [*values, *[""] * (len(self.columns) - len(values))]
        return dict(zip(self.columns, padded, strict=False))

    def _split(self, raw: bytes) -> list[str]:
        text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        if '"' not in text:
            return text.split(self._separator)
        cell = re.compile(rf'"([^"]*(?:""[^"]*)*)"[^{self._separator}]*|([^{self._separator}]*)')
        values, place = [], 0
        while place <= len(text):
            match = cell.match(text, place)
            assert match is not None  # the second branch matches an empty cell
            values.append(match[2] if match[1] is None else match[1].replace('""', '"'))
            place = match.end() + 1
        return values


class ArrowTable:
    """Rows of Parquet files, or of Arrow files as Hugging Face's `datasets` writes them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._groups = [group for file in files for group in _groups(file)]
        self._held: tuple[int, pa.Table] | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a reference ("group:row") and the values of the columns that the file has, row by row."""
        for number in range(len(self._groups)):
            table = self._table(number)
            wanted = [name for name in columns if name in table.schema.names]
            for row, values in enumerate(table.select(wanted).to_pylist()):
                yield f"{number}:{row}", values

    def value(self, ref: str, column: str) -> Any:
        """Return one value of the row of a reference; None where the file lacks the column."""
        number, _, row = ref.partition(":")
        table = self._table(int(number))
        return table[column][int(row)].as_py() if column in table.schema.names else None

    def _table(self, number: int) -> pa.Table:
        """Return a group of rows; the last one asked is held, since questions come row by row."""
        if self._held is None or self._held[0] != number:
            try:
                self._held = (number, self._groups[number]())
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"rows of group {number} cannot be read: {error}") from error
        return self._held[1]


def table_files(location: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the file itself, or the files of a folder with one of these suffixes, sorted, in folders below it too.

    Raises:
        DataError: there are none.
    """
    if location.is_file():
        return [location]
    found = sorted(path for path in location.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise DataError(f"{location}: no file ending in {' or '.join(suffixes)}; give the file, or a folder of such")
    return found


def _json_object(pairs: list[tuple[str, Any]]) -> JsonObject:
    made = JsonObject()
    repeated = []
    for name, value in pairs:
        if name in made:
            repeated.append(name)
        else:
            made[name] = value
    made.repeated = tuple(repeated)
    return made


def _open_quote(separator: str) -> re.Pattern[bytes]:
    """Return a pattern of lines whose last cell opens a quote that the line does not close."""
    cell = rf'(?:"[^"]*(?:""[^"]*)*"[^{separator}]*|[^{separator}"][^{separator}]*|)'
    return re.compile(rf'(?:{cell}{separator})*+"[^"]*(?:""[^"]*)*'.encode())


def _groups(path: Path) -> list[Callable[[], pa.Table]]:
    """Return readers of a file's groups of rows."""
    try:
        if path.suffix == ".arrow":
            return [partial(pa.Table.from_batches, [batch]) for batch in _arrow_batches(path)]
        opened = pq.ParquetFile(path)
        return [partial(opened.read_row_group, number) for number in range(opened.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no {path.suffix.removeprefix('.')} file: {error}") from error


def _arrow_batches(path: Path) -> list[pa.RecordBatch]:
    """Return the batches of an Arrow stream or file, mapped from the disk."""
    source = pa.memory_map(str(path))
    try:
        return list(pyarrow.ipc.open_stream(source))
    except pa.ArrowInvalid:
        source.seek(0)
        opened = pyarrow.ipc.open_file(source)
        return [opened.get_batch(number) for number in range(opened.num_record_batches)]
