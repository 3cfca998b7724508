"""The pinned list of an archive's article versions: what is there, which version stands, and in which unit it is built.

A table has one row a version, sorted by number, newest version first; packages, whose version is 0, come last. Paths
are the bytes of the file system's names, since those need not be text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipmed.errors import ConfigError, DataError
from clipmed.files import atomic_file
from clipmed.records import unit_of_group
from dataset_builders.pmc.archive import is_remote
from dataset_builders.pmc.config import Layout
from dataset_builders.pmc.inventory import read_inventory
from dataset_builders.pmc.metadata import printable
from dataset_builders.pmc.packages import package_pmcid
from dataset_builders.pmc.sources import ArticleRef

SNAPSHOT = pa.schema(
    [
        ("number", pa.int64()),  # of the PMC id; 0 in a package that names none
        ("version", pa.int32()),  # 0 in a package, which does not say
        ("path", pa.binary()),  # the version's folder, or the package's file, below the archive's root
        ("layout", pa.string()),
        ("etag", pa.string()),  # of the metadata; empty where only names were listed
        ("last_modified", pa.string()),
        ("superseded_by", pa.binary()),  # the path that stands for the article instead; empty if none does
    ]
)
SCHEMA_VERSION = 1
_META = b"clipmed"
_VERSION_FOLDER = re.compile(r"PMC(?P<number>\d{1,18})\.(?P<version>\d{1,9})", re.ASCII)
_BATCH_ROWS = 65536
_IDENTITY = ("path", "layout", "etag", "superseded_by")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A list of article versions (schema SNAPSHOT), where it is from, and the date of its inventory ("" if none)."""

    address: str
    taken: str
    table: pa.Table

    @property
    def digest(self) -> str:
        """The SHA-256 of what is listed, wherever it lies and whenever it was listed."""
        digest = hashlib.sha256()
        for name in ("number", "version"):
            digest.update(np.asarray(self.table[name]).astype("<i8").tobytes())
        for name in _IDENTITY:
            values = self.table[name].cast(pa.large_binary())
            digest.update(np.asarray(pc.binary_length(values)).astype("<i8").tobytes())
            for part in values.chunks:
                digest.update(_bytes_of(part))
        return digest.hexdigest()


def take_snapshot(root: str, layout: Layout, date: str = "latest") -> Snapshot:
    """List the article versions of an archive.

    Args:
        root: a folder, whose names are read, or an address, whose daily inventory is.
        layout: which articles of a folder count.
        date: which inventory of a server: the latest, or one whose name begins so (2026-09-14).

    Raises:
        ConfigError: the folder does not exist or holds no article of the layout.
        DataError: the server has no whole inventory of that date, or cannot be reached.
    """
    if not is_remote(root):
        return Snapshot(address=root, taken="", table=list_folder(Path(root), layout))
    if layout == "packages":
        raise ConfigError(
            f"layout: got 'packages' with the address {root}; allowed: auto or bucket, or a folder as root"
        )
    taken, versions = read_inventory(root, date)
    number, version = (versions[name].cast(pa.string()) for name in ("number", "version"))
    paths = pc.binary_join_element_wise("PMC", pc.binary_join_element_wise(number, version, "."), "")
    return Snapshot(address=root, taken=taken, table=mark_superseded(_rows(versions, paths, "bucket")))


def list_folder(root: Path, layout: Layout) -> pa.Table:
    """List the article versions in a folder by names alone; packages without a PMC number in theirs are looked into.

    Raises:
        ConfigError: the folder does not exist or holds no article of the layout.
    """
    if not root.is_dir():
        raise ConfigError(
            f"root: no such folder: {root}; give a folder of PMC<id>.<version>/ folders or *.tar.gz packages, "
            "or an address such as s3://pmc-oa-opendata"
        )
    parts = []
    if layout in {"auto", "bucket"}:
        parts.append(_version_folders(root))
    if layout in {"auto", "packages"}:
        parts.append(_packages(root))
    table = pa.concat_tables(parts)
    if not len(table):
        raise ConfigError(
            f"root: {root} holds no article in the layout {layout!r}; "
            "allowed: PMC<id>.<version>/ folders (bucket) or *.tar.gz files (packages)"
        )
    return mark_superseded(table)


def mark_superseded(table: pa.Table) -> pa.Table:
    """Sort the versions, let the first of each article stand, and mark the others with its path."""
    newest_first = table.append_column("rank", pc.negate(table["version"]))
    order = pc.sort_indices(newest_first, [("number", "ascending"), ("rank", "ascending"), ("path", "ascending")])
    table = table.take(order)
    number = np.asarray(table["number"])
    rows = np.arange(len(number))
    # Packages of unknown number are articles of their own.
    stands = (number == 0) | np.concatenate([[True], number[1:] != number[:-1]])[: len(number)]
    standing = np.maximum.accumulate(np.where(stands, rows, 0)) if len(rows) else rows
    paths = table["path"].combine_chunks().take(pa.array(standing))
    empty = pa.array([b""], pa.binary()).take(pa.array(np.zeros(len(rows), np.int64)))
    marks = pc.if_else(pa.array(stands), empty, paths)
    return table.set_column(table.schema.get_field_index("superseded_by"), SNAPSHOT.field("superseded_by"), marks)


def unit_numbers(table: pa.Table, num_units: int) -> npt.NDArray[np.int64]:
    """Return the work unit of every row: that of `clipmed.records.unit_of_group` for the article's name."""

    def units() -> Iterator[int]:
        for batch in table.select(["number", "path"]).to_batches(max_chunksize=_BATCH_ROWS):
            for number, path in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield unit_of_group(f"PMC{number}" if number else printable(os.fsdecode(path)), num_units)

    return np.fromiter(units(), np.int64, len(table))


def write_units(snapshot: Snapshot, path: Path, num_units: int) -> None:
    """Write the versions with a row group a unit, in unit order; the same versions give the same bytes."""
    units = unit_numbers(snapshot.table, num_units)
    order = np.argsort(units, kind="stable")
    ends = np.cumsum(np.bincount(units, minlength=num_units)).tolist()
    table = snapshot.table.drop_columns(["last_modified"]).take(pa.array(order))
    table = table.replace_schema_metadata(_metadata({"digest": snapshot.digest}))
    with atomic_file(path) as partial, pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=max(end - start, 1))


def read_unit(path: Path, unit: int) -> list[ArticleRef]:
    """Return the versions of one unit, in the order of the listing."""
    rows = pq.ParquetFile(path).read_row_group(unit).to_pylist()
    return [
        ArticleRef(
            number=row["number"],
            version=row["version"] or None,
            path=os.fsdecode(row["path"]),
            layout=row["layout"],
            etag=row["etag"],
            superseded_by=os.fsdecode(row["superseded_by"]),
        )
        for row in rows
    ]


def read_units_digest(path: Path) -> str:
    """Return the digest of the listing that `write_units` wrote."""
    return str(_read_metadata(path)["digest"])


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot as one parquet file, whole or not at all."""
    about = {"address": snapshot.address, "taken": snapshot.taken, "digest": snapshot.digest}
    with atomic_file(path) as partial:
        pq.write_table(snapshot.table.replace_schema_metadata(_metadata(about)), partial, compression="zstd")


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        DataError: no such file, not a snapshot, or one whose rows are not what it says.
    """
    about = _read_metadata(path)
    try:
        table = pq.ParquetFile(path).read().replace_schema_metadata(None)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged: {error}; take the snapshot again") from error
    if table.schema != SNAPSHOT or "address" not in about:
        raise DataError(f"{path} is not a snapshot; give a file that `pmc snapshot` wrote")
    snapshot = Snapshot(address=about["address"], taken=about["taken"], table=table)
    if snapshot.digest != about["digest"]:
        raise DataError(f"{path} is damaged: its rows are not those that it was written with; take the snapshot again")
    return snapshot


def _metadata(values: dict[str, str]) -> dict[bytes, bytes]:
    return {_META: json.dumps({"schema_version": SCHEMA_VERSION, **values}, sort_keys=True).encode()}


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[_META])
    except FileNotFoundError as error:
        raise DataError(f"no such snapshot: {path}; `python -m dataset_builders pmc snapshot` writes one") from error
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a snapshot; give a file that `pmc snapshot` wrote") from error
    if found.get("schema_version") != SCHEMA_VERSION:
        version = found.get("schema_version")
        raise DataError(f"{path} has schema version {version!r}; allowed: {SCHEMA_VERSION}; take the snapshot again")
    return found


def _rows(ids: pa.Table, paths: Any, layout: str) -> pa.Table:
    """Return rows of SNAPSHOT from numbers and versions (and ETags and times, if listed), with nothing superseded."""
    unknown = pa.repeat("", len(ids))
    columns = {name: ids[name] if name in ids.column_names else unknown for name in SNAPSHOT.names}
    columns |= {"path": paths, "layout": pa.repeat(layout, len(ids))}
    return pa.table(columns).cast(SNAPSHOT)


def _version_folders(root: Path) -> pa.Table:
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if _VERSION_FOLDER.fullmatch(entry.name) and entry.is_dir()]
    paths = pa.array(names, pa.string())
    found = pc.extract_regex(paths, _VERSION_FOLDER.pattern)
    numbers, versions = (found.field(name).cast(pa.int64()) for name in ("number", "version"))
    return _rows(pa.table({"number": numbers, "version": versions}), paths, "bucket")


def _packages(root: Path) -> pa.Table:
    """List the packages in any folder but those of article versions, whose tars are supplements."""
    numbers: list[int] = []
    paths: list[bytes] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = (name for name in subfolders if not _VERSION_FOLDER.fullmatch(name))
        for path in (Path(folder, name) for name in names if name.endswith(".tar.gz")):
            numbers.append(package_pmcid(path))
            paths.append(os.fsencode(path.relative_to(root).as_posix()))
    ids = pa.table({"number": pa.array(numbers, pa.int64()), "version": pa.array(np.zeros(len(numbers), np.int32))})
    return _rows(ids, pa.array(paths, pa.binary()), "packages")


def _bytes_of(values: pa.LargeBinaryArray) -> memoryview | bytes:
    """Return the values one after the other, without copying them."""
    _, offsets, data = values.buffers()
    if data is None or not len(values):
        return b""
    ends = np.frombuffer(offsets, np.int64)
    return memoryview(data)[ends[values.offset] : ends[values.offset + len(values)]]
