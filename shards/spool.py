"""Spools: what a builder writes and the packer reads, one folder a work unit, done or absent.

<spool>/spool.json                    source, number of units, task vocabulary, resolved builder config
<spool>/unit-00003/samples.tar        <key>.jpg and <key>.json of every sample, in the builder's order
<spool>/unit-00003/samples.parquet    the samples' rows
<spool>/unit-00003/rejects.parquet    the rejected items
<spool>/unit-00003/unit.json          counts (samples + rejects = seen) and the sha256 of the three files
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.errors import DataError, ItemRejectedError
from clipmed.files import atomic_folder, sha256_file, write_json
from clipmed.records import Sample, canonical_json
from clipmed.rejects import RejectReason, Stage
from shards.schema import REJECTS, SAMPLES, SCHEMA_VERSION
from shards.tars import BLOCK, header_of, padded, write_tar

SPOOL_FILE = "spool.json"
TAR_FILE, TABLES = "samples.tar", ("samples.parquet", "rejects.parquet")
UNIT_FILES = (TAR_FILE, *TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolInfo:
    """What a spool says of itself.

    `tasks` is the label vocabulary: {task: {"modality": …, "classes": {class id: display name}}}. `config` is the
    builder's resolved config: a spool is resumed only by the config that began it.
    """

    source: str
    num_units: int
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def open_spool(path: Path, info: SpoolInfo) -> list[int]:
    """Begin or resume the spool at `path`; return the units that are not done yet.

    Raises:
        DataError: the folder holds a spool of another config or schema.
    """
    wanted = _plain(info)
    if (path / SPOOL_FILE).exists():
        found = json.loads((path / SPOOL_FILE).read_text())
        if found != wanted:
            changed = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
            raise DataError(
                f"{path} holds a spool made with other settings (they differ in: {', '.join(changed)}); "
                "give another folder, or remove this one to build anew"
            )
    else:
        write_json(path / SPOOL_FILE, wanted)
    return [unit for unit in range(info.num_units) if not unit_path(path, unit).is_dir()]


def read_spool(path: Path) -> SpoolInfo:
    """Return the spool's own description, after checking that every unit is there.

    Raises:
        DataError: not a spool, of another schema version, or with units missing.
    """
    try:
        info = SpoolInfo(**json.loads((path / SPOOL_FILE).read_text()))
    except FileNotFoundError as error:
        raise DataError(f"{path} is not a spool: no {SPOOL_FILE}; give a folder that a builder wrote") from error
    if info.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {info.schema_version}; allowed: {SCHEMA_VERSION}; build the spool again"
        )
    missing = [unit for unit in range(info.num_units) if not unit_path(path, unit).is_dir()]
    if missing:
        raise DataError(
            f"{path} is unfinished: {len(missing)} of {info.num_units} units are missing (first: {missing[0]}); "
            "run its builder again to finish it"
        )
    return info


def unit_path(spool: Path, unit: int) -> Path:
    """Return the folder of a unit."""
    return spool / f"unit-{unit:05d}"


class UnitWriter:
    """Takes the samples and rejects of one unit and counts them; made by `write_unit`."""

    def __init__(self, source: str, folder: Path, tar: tarfile.TarFile) -> None:
        self.source = source
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._tar = tar
        self._rows: list[dict[str, Any]] = []
        self._rejects: list[dict[str, str]] = []
        self._keys: set[str] = set()

    def add(self, sample: Sample) -> None:
        """Write one sample."""
        if sample.key in self._keys:
            raise DataError(f"key {sample.key} comes twice in one unit; the builder's source ids are not unique")
        row = sample.row()
        add_member(self._tar, f"{sample.key}.jpg", sample.image)
        add_member(self._tar, f"{sample.key}.json", canonical_json(row).encode())
        self._keys.add(sample.key)
        self._rows.append(row)

    def reject(self, item: str, stage: Stage, reason: RejectReason, detail: str) -> None:
        """Write down that an item is dropped, and why."""
        self._rejects.append(
            {
                "source": self.source,
                "item": item,
                "stage": str(stage),
                "reason": str(reason),
                "detail": detail,
            }
        )

    def reject_error(self, item: str, error: ItemRejectedError) -> None:
        """Write down that an item is dropped by the error that rejected it."""
        self.reject(item, error.stage, error.reason, error.detail)

    def count(self, what: str, number: int = 1) -> None:
        """Add to one of the unit's own counters, such as articles read; shown in reports beside the items."""
        self.counts[what] += number

    def finish(self, tar_sha256: str) -> None:
        """Write the parquet files and unit.json; the tar must be closed by then, and its digest is given."""
        pq.write_table(pa.Table.from_pylist(self._rows, SAMPLES), self._folder / "samples.parquet")
        pq.write_table(pa.Table.from_pylist(self._rejects, REJECTS), self._folder / "rejects.parquet")
        summary = {
            "seen": len(self._rows) + len(self._rejects),
            "samples": len(self._rows),
            "rejects": len(self._rejects),
            "counters": dict(sorted(self.counts.items())),
            "sha256": {TAR_FILE: tar_sha256, **{name: sha256_file(self._folder / name) for name in TABLES}},
        }
        write_json(self._folder / "unit.json", summary)


@contextmanager
def write_unit(spool: Path, unit: int, source: str) -> Iterator[UnitWriter]:
    """Yield a writer for one unit; its folder appears, whole, when the block ends without an error."""
    with atomic_folder(unit_path(spool, unit)) as folder:
        with write_tar(folder / TAR_FILE) as (tar, file):
            writer = UnitWriter(source, folder, tar)
            yield writer
        writer.finish(file.sha256())


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file to a tar with nothing in its header that varies between runs.

    The library's own way takes five times as long. `tar` keeps no list of such members.
    """
    stream = tar.fileobj
    assert stream is not None, "a tar that is open for writing"
    stream.write(header_of(name, len(data)))
    stream.write(data)
    stream.write(bytes(padded(len(data)) - len(data)))
    tar.offset += BLOCK + padded(len(data))


def _plain(info: SpoolInfo) -> dict[str, Any]:
    """The description as JSON gives it back, so that it compares equal to what was read."""
    values = {name: getattr(info, name) for name in SpoolInfo.__dataclass_fields__}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
