"""Copy the samples of one planned shard from the spools' tars: bytes by offset, no image is decoded.

A shard is finished when its receipt is written: the last of three files, each renamed into place. Everything in them
follows from the plan, so that a shard made again is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.files import sha256_file
from clipmed.records import canonical_json
from shards.caption_join import JoinSettings, joined_captions
from shards.schema import INDEX
from shards.spool import add_member
from shards.tars import BLOCK, RandomAccess, write_tar

PLAN_FILE = "plan.parquet"
PARTS = "parts"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to write: `number` is its row group in the plan file of the folder `partial`."""

    partial: Path
    name: str
    number: int

    @property
    def part(self) -> Path:
        """Where the shard's rows of the index wait."""
        return self.partial / PARTS / f"{self.name}.parquet"

    @property
    def receipt(self) -> Path:
        """What says that the shard is finished."""
        return self.partial / PARTS / f"{self.name}.json"


def copy_shard(task: ShardTask) -> int:
    """Write the shard, its part of the index and its receipt; return the number of samples.

    Raises:
        DataError: a spool's tar does not hold what its columns say.
    """
    plan = pq.ParquetFile(task.partial / PLAN_FILE)
    metadata = plan.schema_arrow.metadata
    tars = [RandomAccess(path, metadata[b"digest"].decode()) for path in json.loads(metadata[b"tars"])]
    entries = plan.read_row_group(task.number).to_pylist()
    join = JoinSettings.parse(metadata[b"captions"].decode())
    with _renamed(task.partial / task.name) as temporary, write_tar(temporary) as (tar, file):
        rows = [_copy_sample(tar, entry, tars[entry["unit"]], task.name, join) for entry in entries]
    with _renamed(task.part) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, INDEX), temporary)
    shard = task.partial / task.name
    receipt = {
        "name": task.name,
        "split": entries[0]["split"],
        "bytes": shard.stat().st_size,
        "samples": len(rows),
        "sha256": file.sha256(),
    }
    with _renamed(task.receipt) as temporary:
        temporary.write_text(json.dumps({**receipt, "part_sha256": sha256_file(task.part)}, sort_keys=True))
    return len(rows)


def is_finished(task: ShardTask) -> bool:
    """Whether the shard has a receipt, and its files are what the receipt says."""
    shard = task.partial / task.name
    if not (task.receipt.exists() and shard.exists() and task.part.exists()):
        return False
    receipt = json.loads(task.receipt.read_text())
    same_part: bool = sha256_file(task.part) == receipt["part_sha256"]
    return same_part and sha256_file(shard) == receipt["sha256"]


def read_receipt(task: ShardTask) -> dict[str, Any]:
    """Return the finished shard's entry for the manifest."""
    receipt: dict[str, Any] = json.loads(task.receipt.read_text())
    del receipt["part_sha256"]
    return receipt


def _copy_sample(
    tar: tarfile.TarFile, entry: dict[str, Any], spool: RandomAccess, shard: str, join: JoinSettings
) -> dict[str, Any]:
    key = entry["key"]
    image = spool.read(entry["jpg_offset"], entry["bytes"])
    row = json.loads(spool.read(entry["json_offset"], entry["json_size"]))
    if hashlib.sha256(image).hexdigest() != entry["sha256"] or (row["key"], row["sha256"]) != (key, entry["sha256"]):
        folder = Path(spool.path).parent
        raise DataError(f"{spool.path}: {key} is not what its row says; remove {folder} and run its builder again")
    row["split"] = entry["split"]
    row["captions"] = joined_captions(row, join)
    members = {"jpg": image, "json": canonical_json(row).encode(), "txt": row["captions"][0]["text"].encode()}
    place: dict[str, Any] = {"shard": shard}
    for suffix, data in members.items():
        place[f"{suffix}_offset"], place[f"{suffix}_size"] = tar.offset + BLOCK, len(data)
        add_member(tar, f"{key}.{suffix}", data)
    return {**row, **place}


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """Yield a temporary path of this process; on success it is synced and renamed to `path`.

    The name holds the process id: a worker that outlives a killed packer may still write the same shard.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
