"""The bucket's daily inventory: every object's key and ETag, so that nothing has to be listed request by request.

inventory-reports/<bucket>/metadata/2026-09-14T01-00Z/manifest.json     fileSchema, files: key, size, MD5checksum
inventory-reports/<bucket>/metadata/data/<uuid>.csv.gz                  no header, quoted: bucket, key, time, ETag

The format is Amazon S3's (S3 Inventory, CSV). The rows that count are those of metadata/PMC<id>.<v>.json; a version
that only its other objects name is taken without ETag.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clipmed.errors import DataError
from dataset_builders.pmc.metadata import md5_hex
from shards.objects import Fault, ObjectClient, ObjectError, Patience

ROOT = "inventory-reports/pmc-oa-opendata/metadata"
VERSIONS = pa.schema(
    [("number", pa.int64()), ("version", pa.int32()), ("etag", pa.string()), ("last_modified", pa.string())]
)
_ROWS = VERSIONS.append(pa.field("rank", pa.int8()))  # 0 in rows of metadata, which come first, and 1 in others
_DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ")
_COLUMNS = {"bucket": "bucket", "key": "key", "lastmodifieddate": "last_modified", "etag": "etag"}
_DEFAULT_SCHEMA = "Bucket, Key, LastModifiedDate, ETag"
_KEY = r"^(?:metadata/)?PMC(?P<number>\d{1,18})\.(?P<version>\d{1,9})(?:\.json$|/)"
# Objects that are no article's: the bucket's own pages, and the inventory itself.
_OTHER_KEYS = r"^(?:README\.txt|inventory-reports/.*|deprecated/.*|[^/]*)$"
_MOST_UNKNOWN = 0.01
_MAX_MANIFEST_BYTES = 16_000_000
_MAX_FILE_BYTES = 4_000_000_000
_BLOCK_BYTES = 1 << 24
# A file of the inventory has 50 MB, where an article's have one.
_PATIENCE = Patience(whole_s=900.0)


def read_inventory(address: str, date: str = "latest") -> tuple[str, pa.Table]:
    """Return the date of an inventory and the article versions in it (schema VERSIONS), each once.

    Raises:
        DataError: no such inventory, one that is not whole, one that lists no article or too much else, or a server
            that cannot be reached.
    """
    client = ObjectClient(address, _PATIENCE, public=True)
    taken, manifest = _find(client, date)
    where = f"{client.url}/{ROOT}/{taken}/manifest.json"
    entries = _entries(manifest, where)
    names = [name.strip().lower() for name in str(manifest.get("fileSchema", _DEFAULT_SCHEMA)).split(",")]
    if "key" not in names:
        raise DataError(f"{where}: fileSchema is {names}; allowed: one with a Key")
    listed = _Listed()
    for entry in entries:
        _read_file(client, taken, entry, names, listed)
    return taken, listed.versions(f"{address}, inventory {taken}")


@dataclass(slots=True)
class _Listed:
    """The versions that rows name, as (number, version, etag, last_modified, rank), and what the other rows were."""

    parts: list[pa.Table] = field(default_factory=list)
    num_rows: int = 0
    num_strange: int = 0
    example: str = ""

    def add(self, block: pa.RecordBatch) -> None:
        """Take a block of text columns key, and last_modified and etag where the inventory has them."""
        keys = block["key"]
        found = pc.extract_regex(keys, _KEY)
        unknown = keys.filter(pc.is_null(found))
        strange = unknown.filter(pc.invert(pc.match_substring_regex(unknown, _OTHER_KEYS)))
        self.num_rows += len(keys)
        self.num_strange += len(strange)
        self.example = self.example or "".join(strange.slice(0, 1).to_pylist())
        blank = pa.repeat("", len(keys))
        texts = [block[name] if name in block.schema.names else blank for name in ("etag", "last_modified")]
        is_metadata = pc.starts_with(keys, "metadata/")
        columns = {
            "number": found.field("number"),
            "version": found.field("version"),
            "etag": pc.if_else(is_metadata, pc.utf8_trim(texts[0], '"'), ""),
            "last_modified": texts[1],
            "rank": pc.invert(is_metadata).cast(pa.int8()),
        }
        rows = pa.table(columns).filter(pc.is_valid(found)).cast(_ROWS)
        self.parts.append(_once(rows))

    def versions(self, where: str) -> pa.Table:
        """Return each version once (schema VERSIONS); raises DataError where too little is named."""
        versions = _once(pa.concat_tables([_ROWS.empty_table(), *self.parts])).drop_columns(["rank"])
        if not len(versions) or self.num_strange > _MOST_UNKNOWN * self.num_rows:
            raise DataError(
                f"{where}: {self.num_strange} of {self.num_rows} rows name no article (such as {self.example!r}); "
                "allowed: keys as metadata/PMC123.1.json; is this an inventory of PubMed Central's bucket?"
            )
        return versions


def _find(client: ObjectClient, date: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the manifest of the newest whole inventory whose name begins with the date."""
    if _DATED.fullmatch(date):
        names = [date]
    else:
        try:
            names = [name for name in client.list_folders(ROOT) if _DATED.fullmatch(name)]
        except ObjectError as error:
            raise DataError(
                f"{client.url} does not list its inventories ({error.detail}); give the whole name of one with --date, "
                "such as 2026-09-14T01-00Z"
            ) from error
        names = [name for name in names if date == "latest" or name.startswith(date)]
    for name in sorted(names, reverse=True):  # today's folder may be there before its manifest is
        try:
            return name, json.loads(client.get(f"{ROOT}/{name}/manifest.json", _MAX_MANIFEST_BYTES).data)
        except ObjectError as error:
            if error.fault is not Fault.MISSING:
                raise
        except ValueError as error:
            raise DataError(f"{client.url}/{ROOT}/{name}/manifest.json is not JSON: {error}; try again") from error
    raise DataError(f"{client.url}/{ROOT} holds no inventory of {date!r}; give another --date, or `latest`")


def _entries(manifest: Any, where: str) -> list[dict[str, Any]]:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, list) or not files or not all(isinstance(file, dict) and "key" in file for file in files):
        raise DataError(f"{where} lists no files; give another --date")
    return files


def _read_file(client: ObjectClient, taken: str, entry: dict[str, Any], names: list[str], listed: _Listed) -> None:
    """Add the rows of one file of the inventory, block by block: it is never unpacked as a whole."""
    where = f"{client.url}/{entry['key']}"
    data = _fetch(client, taken, entry)
    columns = [_COLUMNS.get(name, name) for name in names]
    wanted = [name for name in ("key", "last_modified", "etag") if name in columns]
    try:
        blocks = csv.open_csv(
            pa.CompressedInputStream(pa.BufferReader(data), "gzip"),
            read_options=csv.ReadOptions(column_names=columns, block_size=_BLOCK_BYTES),
            convert_options=csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
            ),
        )
        for block in blocks:
            listed.add(block)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{where} cannot be read as gzipped CSV: {error}; give another --date") from error


def _fetch(client: ObjectClient, taken: str, entry: dict[str, Any]) -> bytes:
    """Return a file of the inventory as the manifest says that it is."""
    try:
        data = client.get(str(entry["key"]), _MAX_FILE_BYTES).data
    except ObjectError as error:
        raise DataError(f"the inventory {taken} is not whole: {error.detail}; give another --date") from error
    stated = {"size": entry.get("size"), "md5": str(entry.get("MD5checksum", "")).lower() or None}
    for name, got in (("size", len(data)), ("md5", md5_hex(data))):
        if stated[name] not in {None, got}:
            raise DataError(
                f"{client.url}/{entry['key']} is not what the inventory's manifest says "
                f"({name} {stated[name]}, got {got}); try again"
            )
    return data


def _once(rows: pa.Table) -> pa.Table:
    """Return the first row of each version by rank, sorted by number and version."""
    number, version, rank = (np.asarray(rows[name]) for name in ("number", "version", "rank"))
    order = np.lexsort((rank, version, number))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(number[order]) != 0) | (np.diff(version[order]) != 0)
    return rows.take(pa.array(order[first]))
