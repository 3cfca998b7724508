"""Fingerprints of evaluation sets: what is needed to keep their images and articles out of a training set.

A fingerprint file is a parquet table of the schema `FINGERPRINTS`: ids, digests, perceptual hashes and a small grey
picture of every image, and no image itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import DataError, ItemRejectedError
from clipmed.files import atomic_file
from clipmed.images import ImageConfig, ingest_image
from clipmed.records import Split
from shards.intake import IDS, THREADS
from shards.manifest import MANIFEST
from shards.pictures import encode_grey, grey_image, views_of
from shards.reader import ShardSet
from shards.storage import SampleError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp"})
_BATCH = 256

FINGERPRINTS = pa.schema(
    [
        ("item", pa.string()),  # key of the sample, or path of the file in its folder
        ("sha256_raw", pa.string()),  # of the file as it came; of the stored JPEG in a packed set
        ("sha256", pa.string()),  # of the JPEG that a sample stores
        ("phash", pa.string()),
        ("views", pa.list_(pa.uint64())),  # hashes of the whole picture and of what lies inside its border
        ("grey", pa.binary()),  # a grey JPEG, its long side at most 256 pixels
        ("group", pa.string()),  # these four are empty for a folder of images
        *((name, pa.string()) for name in IDS),
    ]
)


def fingerprint(source: Path, splits: Sequence[str] = (), *, progress: bool = True) -> pa.Table:
    """Return the fingerprints of a folder of images or of a packed set, in the order of their items.

    Args:
        source: folder of images, searched to the bottom, or of a packed set.
        splits: the splits of a packed set to take; all if none is given.
        progress: show a progress bar on standard error.

    Raises:
        DataError: no image there, an unreadable one, or an unknown split.
    """
    is_set = (source / MANIFEST).exists()
    if splits and not is_set:
        raise DataError(f"{source} is a folder of images: it has no splits; leave --splits out")
    rows = _of_set(ShardSet(source), splits, progress) if is_set else _of_folder(source, progress)
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["item"])), FINGERPRINTS)
    if not len(table):
        raise DataError(f"{source} holds no images to take fingerprints of; allowed: {', '.join(sorted(SUFFIXES))}")
    return table


def write_fingerprints(table: pa.Table, path: Path) -> None:
    """Write a table of fingerprints; equal tables give equal bytes."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _of_folder(folder: Path, progress: bool) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a folder of images or a packed set")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    config = ImageConfig(min_side=1, max_aspect=1e9)

    def row(path: Path) -> dict[str, Any]:
        raw = path.read_bytes()
        try:
            stored = ingest_image(raw, config)
            return _row(path.relative_to(folder).as_posix(), raw, stored.jpeg, stored.phash)
        except ItemRejectedError as error:
            raise DataError(f"{path}: {error.reason}: {error.detail}; remove it from the folder") from error

    with ThreadPoolExecutor(THREADS) as pool:
        yield from tqdm(pool.map(row, files), "fingerprints", len(files), disable=not progress)


def _of_set(shard_set: ShardSet, splits: Sequence[str], progress: bool) -> Iterator[dict[str, Any]]:
    names = tuple(splits) or tuple(str(split) for split in Split)
    rows = [int(row) for name in names for row in shard_set.rows(name)]

    def row(found: tuple[bytes, dict[str, Any]] | SampleError) -> dict[str, Any]:
        if isinstance(found, SampleError):
            raise DataError(f"{found.detail}; restore it, or pack the set again")
        jpeg, record = found
        provenance = json.loads(record["provenance"])
        ids = {name: str(provenance.get(name) or "") for name in IDS}
        return {**_row(record["key"], jpeg, jpeg, record["phash"]), "group": record["group"], **ids}

    with tqdm(total=len(rows), desc="fingerprints", disable=not progress) as bar, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            yield from pool.map(row, shard_set.fetch(batch))
            bar.update(len(batch))


def _row(item: str, raw: bytes, jpeg: bytes, phash: str) -> dict[str, Any]:
    grey = grey_image(jpeg)
    return {
        "item": item,
        "sha256_raw": hashlib.sha256(raw).hexdigest(),
        "sha256": hashlib.sha256(jpeg).hexdigest(),
        "phash": phash,
        "views": list(views_of(grey).hashes),
        "grey": encode_grey(grey),
        "group": "",
        **dict.fromkeys(IDS, ""),
    }
