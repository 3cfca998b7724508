"""Random access to a packed shard set: any sample's image, captions and labels by row number, without untarring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.records import Split
from shards.manifest import INDEX_FILE, MANIFEST, read_manifest
from shards.tars import RandomAccess

_PLACES = ("shard", "split", "jpg_offset", "jpg_size", "json_offset", "json_size")


class SampleError(NamedTuple):
    """Why a sample could not be read: a reason code, and what was seen."""

    reason: str
    detail: str


class ShardSet:
    """An open shard set.

    Only the places of the members are held in memory; captions and labels are read beside the image, from the shard.
    Safe in threads and after a fork; pickled as its path, for workers that are spawned.

    Raises:
        DataError: the folder is not a shard set of this schema version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.digest = hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()

    def __len__(self) -> int:
        """Return the number of samples over all splits."""
        return len(self._places["shard"])

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self.path,)

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {self.manifest['counts']['samples']} samples)"

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

    @property
    def location(self) -> str:
        """Where the set lies."""
        return str(self.path)

    def fetch(self, rows: Sequence[int]) -> list[tuple[bytes, dict[str, Any]] | SampleError]:
        """Return image bytes and record of each row, or why that row cannot be read."""
        return [self._fetch_one(row) for row in rows]

    def _fetch_one(self, row: int) -> tuple[bytes, dict[str, Any]] | SampleError:
        try:
            return self.image_bytes(row), self.record(row)
        except DataError as error:
            return SampleError("shard_missing" if "missing" in str(error) else "shard_short", str(error))

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
        files = [RandomAccess(str(self.path / name), self.digest) for name in names]
        return {**places, "shard": shard.indices.to_numpy(), "split": split.to_numpy(), "files": files}

    def _member(self, row: int, kind: str) -> bytes:
        places = self._places
        if not 0 <= row < len(places["shard"]):
            raise DataError(f"{self.path}: no row {row}; allowed: 0 to {len(places['shard']) - 1}")
        file: RandomAccess = places["files"][places["shard"][row]]
        return file.read(int(places[f"{kind}_offset"][row]), int(places[f"{kind}_size"][row]))
