"""Random access to a packed shard set: any sample's image, captions and labels by row number, without untarring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

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


class _Place(NamedTuple):
    """Where a sample lies: its shard, and the data of its image and of its record, which come one after the other."""

    shard: str
    jpg_offset: int
    jpg_size: int
    json_offset: int
    json_size: int

    @property
    def jpg(self) -> ByteRange:
        return ByteRange(self.shard, self.jpg_offset, self.jpg_size)

    @property
    def json(self) -> ByteRange:
        return ByteRange(self.shard, self.json_offset, self.json_size)

    @property
    def span(self) -> ByteRange:
        """From the header of the image to the end of the record."""
        start = self.jpg_offset - BLOCK
        return ByteRange(self.shard, start, self.json_offset + self.json_size - start)


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
        places = self._places_of(rows)
        found = self._shards.read_many([place.span for place in places])
        return [
            part if isinstance(part, SampleError) else self._unpack(place, part)
            for place, part in zip(places, found, strict=True)
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
        if unsafe := [name for name in names if not _is_file_name(name)]:
            raise DataError(f"{self.location}: {INDEX_FILE} names shards outside the set, such as {unsafe[0]!r}")
        return {**places, "shard": shard.indices.to_numpy(), "split": split.to_numpy(), "names": names}

    def _places_of(self, rows: Sequence[int]) -> list[_Place]:
        places, wanted = self._places, np.asarray(rows, np.int64)
        count = len(places["shard"])
        if (beyond := wanted[(wanted < 0) | (wanted >= count)]).size:
            raise DataError(f"{self.location}: no row {beyond[0]}; allowed: 0 to {count - 1}")
        names = [places["names"][shard] for shard in places["shard"][wanted].tolist()]
        return list(map(_Place, names, *(places[column][wanted].tolist() for column in _PLACES[2:])))

    def _member(self, row: int, kind: Literal["jpg", "json"]) -> bytes:
        (place,) = self._places_of([row])
        (found,) = self._shards.read_many([place.jpg if kind == "jpg" else place.json])
        if isinstance(found, SampleError):
            raise DataError(f"{found.detail}; restore it, or pack the set again")
        return found

    def _unpack(self, place: _Place, data: bytes) -> tuple[bytes, dict[str, Any]] | SampleError:
        try:
            record = json.loads(data[-place.json_size :])
            key = record["key"]
        except (ValueError, KeyError, TypeError):
            key = None
        if key is None or not data.startswith(f"{key}.jpg\0".encode()):
            detail = f"{self.location}/{place.shard} holds no sample at {place.span.offset}, where its index has one"
            return SampleError(RejectReason.SHARD_CORRUPT, detail)
        return data[BLOCK : BLOCK + place.jpg_size], record


def _is_file_name(name: str) -> bool:
    """Whether a shard's name leads to a file in the set's folder and nowhere else."""
    return name == PurePosixPath(name).name and name not in {"", ".."} and "\0" not in name
