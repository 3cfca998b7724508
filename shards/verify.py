"""Check a shard set against itself: every byte of every shard, every row, every count.

The manifest carries its own checksum and the digests of all other files. Where a digest differs, the members and rows
tell which one: each is compared with what the other files say of it, header, data and padding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import DataError
from clipmed.files import sha256_file
from clipmed.records import canonical_json
from shards.card import card_text
from shards.manifest import (
    CARD_FILE,
    COUNTED,
    INDEX_FILE,
    MANIFEST,
    REJECTS_FILE,
    checksum,
    count_attrition,
    count_samples,
    read_manifest,
    unbalanced,
)
from shards.schema import INDEX, MEMBERS, REJECTS, SAMPLES
from shards.tars import BLOCK, header_of, padded, parse_header


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be: in which file of the set, at which member or row, and what."""

    shard: str
    member: str
    reason: str


def verify(path: Path, *, progress: bool = True) -> list[Problem]:
    """Return everything that is wrong with the set at `path`; an empty list means that it is whole.

    Raises:
        DataError: there is no shard set to check.
    """
    manifest = read_manifest(path)
    if missing := sorted({"files", "shards", "counts", "attrition", "license", "decontamination"} - manifest.keys()):
        return [
            Problem(
                MANIFEST, "", f"without {', '.join(missing)}: it was edited, damaged or packed by an earlier version"
            )
        ]
    problems = list(_check_manifest(path, manifest))
    index = _read(path, INDEX_FILE, INDEX, problems)
    rejects = _read(path, REJECTS_FILE, REJECTS, problems)
    if index is not None:
        light = index.to_table(columns=[*COUNTED, "key", "group", "shard"])
        problems += _check_rows(light, manifest)
        if rejects is not None:
            problems += _check_counts(light, rejects.to_table(), manifest)
    for shard in tqdm(manifest["shards"], desc="verifying", unit="shard", disable=not progress):
        problems += _check_shard(path, shard, index)
    return problems


def _check_manifest(path: Path, manifest: dict[str, Any]) -> Iterator[Problem]:
    if checksum(manifest) != manifest.get("checksum"):
        yield Problem(MANIFEST, "", "its content does not match its own checksum: it was edited or damaged")
    for name, entry in manifest["files"].items():
        if not (path / name).exists():
            yield Problem(name, "", "missing")
        elif sha256_file(path / name) != entry["sha256"]:
            yield Problem(name, "", "sha256 differs from the manifest's")
    if wrong := unbalanced(manifest["attrition"]):
        yield Problem(MANIFEST, "attrition", f"rejects and samples of {', '.join(wrong)} do not add up to items seen")
    yield from _check_card(path, manifest)
    expected = {MANIFEST, CARD_FILE, *manifest["files"], *(shard["name"] for shard in manifest["shards"])}
    for entry in sorted(path.iterdir()):
        if entry.name not in expected:
            yield Problem(entry.name, "", "not a file of this set")


def _check_card(path: Path, manifest: dict[str, Any]) -> Iterator[Problem]:
    if not (path / CARD_FILE).exists():
        yield Problem(CARD_FILE, "", "missing")
    elif (path / CARD_FILE).read_bytes() != card_text(manifest).encode():
        yield Problem(CARD_FILE, "", "differs from the card that the manifest makes")


def _read(path: Path, name: str, schema: pa.Schema, problems: list[Problem]) -> ds.Dataset | None:
    """Open a parquet file, or add the problem that prevents it."""
    if not (path / name).exists():
        return None
    try:
        found = pq.read_schema(path / name)
        if not found.equals(schema):
            problems.append(Problem(name, "", "its columns are not those of the schema"))
            return None
        table = ds.dataset(path / name, format="parquet")
        for batch in table.to_batches():
            batch.validate()
    except (pa.ArrowException, OSError) as error:
        problems.append(Problem(name, "", f"not readable: {error}"))
        return None
    return table


def _check_rows(light: pa.Table, manifest: dict[str, Any]) -> Iterator[Problem]:
    names = {shard["name"] for shard in manifest["shards"]}
    splits = {shard["name"]: shard["split"] for shard in manifest["shards"]}
    for key, count in Counter(light["key"].to_pylist()).items():
        if count > 1:
            yield Problem(INDEX_FILE, str(key), f"{count} rows with this key")
    split_of: dict[tuple[str, str], str] = {}
    columns = (light[name].to_pylist() for name in ("key", "source", "group", "split", "shard"))
    for key, source, group, split, shard in zip(*columns, strict=True):
        if shard not in names:
            yield Problem(INDEX_FILE, str(key), f"names the shard {shard!r}, which the set does not have")
        elif splits[shard] != split:
            yield Problem(INDEX_FILE, str(key), f"split {split!r} in a shard of {splits[shard]!r}")
        if split_of.setdefault((source, group), split) != split:
            yield Problem(INDEX_FILE, str(key), f"group {group!r} is in {split_of[source, group]!r} and {split!r}")


def _check_counts(light: pa.Table, rejects: pa.Table, manifest: dict[str, Any]) -> Iterator[Problem]:
    counts = {"samples": len(light), "rejects": len(rejects), **count_samples(light)}
    for name in sorted(counts.keys() | manifest["counts"].keys()):
        if counts.get(name) != manifest["counts"].get(name):
            found, stated = counts.get(name), manifest["counts"].get(name)
            yield Problem(MANIFEST, f"counts.{name}", f"says {stated}, but the tables hold {found}")
    stated_rows = Counter({(row["source"], row["stage"], row["reason"]): row["count"] for row in manifest["attrition"]})
    found_rows = count_attrition(rejects, light)
    for key in sorted(stated_rows.keys() | found_rows.keys()):
        if key[2] != "items_seen" and stated_rows[key] != found_rows[key]:
            reason = f"says {stated_rows[key]}, but the tables hold {found_rows[key]}"
            yield Problem(MANIFEST, f"attrition {'/'.join(key)}", reason)


def _check_shard(path: Path, shard: dict[str, Any], index: ds.Dataset | None) -> list[Problem]:
    name, file = shard["name"], path / shard["name"]
    if not file.exists():
        return [Problem(name, "", f"missing: {shard['samples']} samples of {shard['split']} are lost")]
    problems = []
    if file.stat().st_size != shard["bytes"]:
        problems.append(Problem(name, "", f"{file.stat().st_size} bytes; the manifest says {shard['bytes']}"))
    is_same = sha256_file(file) == shard["sha256"]
    if not is_same:
        problems.append(Problem(name, "", "sha256 differs from the manifest's"))
    if index is None:
        return problems
    rows = index.to_table(filter=pc.field("shard") == name).to_pylist()
    if len(rows) != shard["samples"]:
        problems.append(Problem(name, "", f"{len(rows)} rows in {INDEX_FILE}; the manifest says {shard['samples']}"))
    data = file.read_bytes()
    members = [_Member(row, suffix) for row in rows for suffix in MEMBERS]
    found = [(member.name, _member_problem(data, member, is_same=is_same)) for member in members]
    problems += [Problem(name, member, reason) for member, reason in found if reason]
    return problems + [Problem(name, member, reason) for member, reason in _unaccounted(data, members)]


class _Member:
    """Where a row says that one of its members lies."""

    def __init__(self, row: dict[str, Any], suffix: str) -> None:
        self.row, self.suffix = row, suffix
        self.name = f"{row['key']}.{suffix}"
        self.offset: int = row[f"{suffix}_offset"]
        self.size: int = row[f"{suffix}_size"]
        self.end = self.offset + padded(self.size)


def _member_problem(data: bytes, member: _Member, *, is_same: bool) -> str | None:
    """Return what is wrong with one member: its header, its content or its padding."""
    place = f"at offset {member.offset}, {member.size} bytes"
    if member.offset < BLOCK or member.size < 0 or member.offset + member.size > len(data):
        return f"its row says {place}, which is outside the shard"
    if data[member.offset - BLOCK : member.offset] != header_of(member.name, member.size):
        return f"its row says {place}, but the tar header before that is another"
    content = data[member.offset : member.offset + member.size]
    if reason := _content_problem(content, member, is_same=is_same):
        return reason
    if data[member.offset + member.size : member.end].strip(b"\0"):
        return "the padding after it is not zero"
    return None


def _content_problem(content: bytes, member: _Member, *, is_same: bool) -> str | None:
    row = member.row
    if member.suffix == "jpg":
        return None if hashlib.sha256(content).hexdigest() == row["sha256"] else "sha256 is not the one of its row"
    if member.suffix == "txt":
        same = content == row["captions"][0]["text"].encode()
        return None if same else "the text is not the first caption of its row"
    wanted = {name: row[name] for name in SAMPLES.names}
    if content == canonical_json(wanted).encode():
        return None
    try:
        found = json.loads(content)
    except ValueError as error:
        return f"not JSON: {error}"
    differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    whose = f"; the shard is whole, so the row in {INDEX_FILE} was changed" if is_same else ""
    return f"differs from its row in: {', '.join(differing) or 'layout'}{whose}"


def _unaccounted(data: bytes, members: list[_Member]) -> Iterator[tuple[str, str]]:
    """Yield (member, reason) for all bytes of a shard that no row accounts for."""
    position = 0
    for member in sorted(members, key=lambda member: member.offset):
        yield from _strangers(data, position, member.offset - BLOCK)
        position = max(position, member.end)
    yield from _strangers(data, position, len(data))


def _strangers(data: bytes, start: int, end: int) -> Iterator[tuple[str, str]]:
    """Yield the members between two offsets, or that there are other bytes than zeros."""
    while start < end:
        try:
            member = parse_header(data[start : start + BLOCK], start)
        except DataError as error:
            yield "", str(error)
            return
        if member is None:
            if data[start:end].strip(b"\0"):
                yield "", f"bytes other than zero after the tar's end mark at {start}"
            return
        yield member.name, f"no row of {INDEX_FILE} points at this member"
        start = member.offset + padded(member.size)
