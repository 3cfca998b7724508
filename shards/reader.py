"""Random access to a packed shard set: any sample's image, captions and labels by row number, without untarring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.records import Split
from clipmed.rejects import RejectReason
from shards.manifest import INDEX_FILE, MANIFEST, read_manifest
from shards.storage import ByteRange, SampleError, is_url, open_shards
from shards.tars import BLOCK

_PLACES = ("shard", "split", "jpg_offset", "jpg_size", "json_offset", "json_size")


class ShardSet:
    """An open shard set.

    Only the places of the members are held in memory; captions and labels are read beside the image, from the shard.
    Safe in threads; safe after a fork unless it `is_remote`; pickled as its location, for workers that are spawned.

    Args:
        location: a folder, or a URL (see `shards.storage`).

    Raises:
        DataError: no shard set of this schema version is there.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = str(location)
        self.is_remote = is_url(self.location)
        self.path, self._shards = open_shards(self.location)
        self.manifest = read_manifest(self.path)
        self.digest = hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()

    def __len__(self) -> int:
        """Return the number of samples over all splits."""
        return len(self._places["shard"])

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self.location,)

    def __repr__(self) -> str:
        return f"ShardSet({self.location!r}, {self.manifest['counts']['samples']} samples)"

    @cached_property
    def table(self) -> pa.Table:
        """All of samples.parquet, captions included; read on first use."""
        return pq.read_table(self.path / INDEX_FILE)

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Return the row numbers of a split, in index order.

        Raises:
            DataError: no such split name.
        """
        names = [str(name) for name in Split]
        if split not in names:
            raise DataError(f"unknown split {split!r}; allowed: {', '.join(names)}")
        return np.flatnonzero(self._places["split"] == names.index(split)).astype(np.int64)

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, dict[str, Any]] | SampleError]:
        """Return the stored JPEG and the record of each row, or why it cannot be read; all rows are read at once.

        A sample's members lie one after the other: both come with one read, and their names are checked.
        """
        spans = [self._span(row) for row in rows]
        found = self._shards.read_many(spans)
        return [
            part if isinstance(part, SampleError) else self._unpack(row, span, part)
            for row, span, part in zip(rows, spans, found, strict=True)
        ]

    def image_bytes(self, row: int) -> bytes:
        """Return the stored JPEG of a row."""
        return self._member(row, "jpg")

    def record(self, row: int) -> dict[str, Any]:
        """Return all that is known of a row, as `clipmed.records.Sample.row` lays it out."""
        record: dict[str, Any] = json.loads(self._member(row, "json"))
        return record

    def captions(self, row: int) -> list[dict[str, Any]]:
        """Return the captions of a row: {text, origin, model, prompt}, one or more."""
        captions: list[dict[str, Any]] = self.record(row)["captions"]
        return captions

    def labels(self, row: int) -> dict[str, list[str]]:
        """Return the labels of a row: class ids by task, empty where it has none."""
        return {label["task"]: label["classes"] for label in self.record(row)["labels"]}

    def column(self, name: str) -> list[Any]:
        """Return a column of the index as Python values.

        Raises:
            DataError: no such column.
        """
        return list(self.arrow_column(name).to_pylist())

    def arrow_column(self, name: str) -> pa.ChunkedArray:
        """Return a column of the index; `name` may lead into a nested one (`captions.list.element.origin`).

        Raises:
            DataError: no such column.
        """
        with pq.ParquetFile(self.path / INDEX_FILE) as file:  # read_table takes no nested names
            table = file.read(columns=[name])
        if table.num_columns != 1:
            names = ", ".join(pq.read_schema(self.path / INDEX_FILE).names)
            raise DataError(f"{self.path / INDEX_FILE} has no column {name!r}; allowed: {names}")
        return table.column(0)

    @cached_property
    def _places(self) -> dict[str, Any]:
        table = pq.read_table(self.path / INDEX_FILE, columns=list(_PLACES))
        shard = table["shard"].dictionary_encode().combine_chunks()
        names = shard.dictionary.to_pylist()
        split = pc.index_in(table["split"], value_set=pa.array([str(name) for name in Split]))
        places: dict[str, Any] = {name: table[name].to_numpy() for name in _PLACES[2:]}
        if unsafe := [name for name in names if name != PurePosixPath(name).name]:
            raise DataError(f"{self.location}: {INDEX_FILE} names shards outside the set, such as {unsafe[0]!r}")
        return {**places, "shard": shard.indices.to_numpy(), "split": split.to_numpy(), "names": names}

    def _member(self, row: int, kind: str) -> bytes:
        places, offset = self._places, int(self._place(f"{kind}_offset", row))
        wanted = ByteRange(places["names"][places["shard"][row]], offset, int(places[f"{kind}_size"][row]))
        (found,) = self._shards.read_many([wanted])
        if isinstance(found, SampleError):
            raise DataError(f"{found.detail}; restore it, or pack the set again")
        return found

    def _place(self, column: str, row: int) -> int:
        places = self._places
        if not 0 <= row < len(places["shard"]):
            raise DataError(f"{self.location}: no row {row}; allowed: 0 to {len(places['shard']) - 1}")
        return int(places[column][row])

    def _span(self, row: int) -> ByteRange:
        """From the header of the image to the end of the record."""
        start = self._place("jpg_offset", row) - BLOCK
        stop = self._place("json_offset", row) + self._place("json_size", row)
        return ByteRange(self._places["names"][self._place("shard", row)], start, stop - start)

    def _unpack(self, row: int, span: ByteRange, data: bytes) -> tuple[bytes, dict[str, Any]] | SampleError:
        jpg = self._place("jpg_offset", row) - span.offset
        try:
            record = json.loads(data[self._place("json_offset", row) - span.offset :])
            key = record["key"]
        except (ValueError, KeyError, TypeError):
            key = None
        if key is None or not data.startswith(f"{key}.jpg\0".encode()):
            detail = f"{self.location}/{span.name} holds no sample at {span.offset}, where its index says one is"
            return SampleError(RejectReason.SHARD_CORRUPT, detail)
        return data[jpg : jpg + self._place("jpg_size", row)], record
