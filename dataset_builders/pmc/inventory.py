"""The bucket's daily inventory: every object's key and ETag, so that nothing has to be listed request by request.

inventory-reports/<bucket>/metadata/2026-09-14T01-00Z/manifest.json     fileSchema, files: key, size, MD5checksum
inventory-reports/<bucket>/metadata/data/<uuid>.csv.gz                  no header, quoted: bucket, key, time, ETag

The format is Amazon S3's (S3 Inventory, CSV). The rows that count are those of metadata/PMC<id>.<v>.json; a version
that only its other objects name is taken without ETag.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from clipmed.errors import DataError
from shards.objects import Fault, ObjectClient, ObjectError

ROOT = "inventory-reports/pmc-oa-opendata/metadata"
VERSIONS = pa.schema(
    [("number", pa.int64()), ("version", pa.int32()), ("etag", pa.string()), ("last_modified", pa.string())]
)
_DATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ")
_COLUMNS = {"bucket": "bucket", "key": "key", "lastmodifieddate": "last_modified", "etag": "etag"}
_DEFAULT_SCHEMA = "Bucket, Key, LastModifiedDate, ETag"
_KEY = r"^(?:metadata/)?PMC(?P<number>\d{1,18})\.(?P<version>\d{1,9})(?:\.json$|/)"
# Objects that are no article's: the bucket's own pages, and the inventory itself.
_OTHER_KEYS = r"^(?:README\.txt|inventory-reports/.*|deprecated/.*|[^/]*)$"
_MOST_UNKNOWN = 0.01
_MAX_MANIFEST_BYTES = 16_000_000
_MAX_FILE_BYTES = 4_000_000_000


def read_inventory(address: str, date: str = "latest") -> tuple[str, pa.Table]:
    """Return the date of an inventory and the article versions in it (schema VERSIONS), each once.

    Raises:
        DataError: no such inventory, one that is not whole, one that lists no article or too much else, or a server
            that cannot be reached.
    """
    client = ObjectClient(address, public=True)
    taken, manifest = _find(client, date)
    names = [name.strip().lower() for name in manifest.get("fileSchema", _DEFAULT_SCHEMA).split(",")]
    if "key" not in names:
        raise DataError(f"{address}/{ROOT}/{taken}/manifest.json: fileSchema is {names}; allowed: one with a Key")
    parts = [_read_file(client, taken, entry, names) for entry in _entries(manifest, client, taken)]
    return taken, _versions(pa.concat_tables(parts), f"{address}, inventory {taken}")


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


def _entries(manifest: dict[str, Any], client: ObjectClient, taken: str) -> list[dict[str, Any]]:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, list) or not files or not all(isinstance(file, dict) and "key" in file for file in files):
        raise DataError(f"{client.url}/{ROOT}/{taken}/manifest.json lists no files; give another --date")
    return files


def _read_file(client: ObjectClient, taken: str, entry: dict[str, Any], names: list[str]) -> pa.Table:
    """Return the rows of one file of the inventory, as text columns key, last_modified, etag."""
    key = str(entry["key"])
    where = f"{client.url}/{key}"
    try:
        data = client.get(key, _MAX_FILE_BYTES).data
    except ObjectError as error:
        raise DataError(f"the inventory {taken} is not whole: {error.detail}; give another --date") from error
    stated = str(entry.get("MD5checksum", "")).lower()
    if stated and hashlib.md5(data, usedforsecurity=False).hexdigest() != stated:
        raise DataError(f"{where} is not what the inventory's manifest says (md5 {stated}); try again")
    columns = [_COLUMNS.get(name, name) for name in names]
    wanted = [name for name in ("key", "last_modified", "etag") if name in columns]
    try:
        table = csv.read_csv(
            io.BytesIO(gzip.decompress(data)),
            read_options=csv.ReadOptions(column_names=columns),
            convert_options=csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
            ),
        )
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise DataError(f"{where} cannot be read as gzipped CSV: {error}; give another --date") from error
    for name in ("last_modified", "etag"):
        if name not in wanted:
            table = table.append_column(name, pa.repeat("", len(table)))
    return table.select(["key", "last_modified", "etag"])


def _versions(rows: pa.Table, where: str) -> pa.Table:
    """Return each article version once, with the ETag of its metadata."""
    found = pc.extract_regex(rows["key"].combine_chunks(), _KEY)
    is_version = np.asarray(pc.is_valid(found))
    unknown = rows["key"].filter(pa.array(~is_version))
    strange = unknown.filter(pc.invert(pc.match_substring_regex(unknown, _OTHER_KEYS)))
    if not is_version.any() or len(strange) > _MOST_UNKNOWN * len(rows):
        example = (strange if len(strange) else unknown)[0].as_py() if len(unknown) else ""
        raise DataError(
            f"{where}: {len(strange)} of {len(rows)} rows name no article (such as {example!r}); "
            "allowed: keys as metadata/PMC123.1.json; is this an inventory of PubMed Central's bucket?"
        )
    mask = pa.array(is_version)
    rows, found = rows.filter(mask), found.filter(mask)
    is_metadata = np.asarray(pc.starts_with(rows["key"], "metadata/"))
    number = np.asarray(found.field("number").cast(pa.int64()))
    version = np.asarray(found.field("version").cast(pa.int32()))
    order = np.lexsort((~is_metadata, version, number))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(number[order]) != 0) | (np.diff(version[order]) != 0)
    kept = order[first]
    etag = pc.if_else(pa.array(is_metadata), pc.utf8_trim(rows["etag"], '"'), "")
    columns = {"number": number[kept], "version": version[kept]}
    texts = {"etag": etag.take(pa.array(kept)), "last_modified": rows["last_modified"].take(pa.array(kept))}
    return pa.table({**columns, **texts}).cast(VERSIONS)
