"""Evaluation sets to keep out: files of fingerprints, packed sets, and plain lists of ids."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.errors import DataError
from clipmed.files import sha256_file
from shards.fingerprints import FINGERPRINTS, fingerprint
from shards.intake import IDS
from shards.manifest import MANIFEST

# How an id of a plain list is told from others; what matches none may be a key or the name of a group.
_KINDS = (
    ("pmcid", re.compile(r"(PMC\d+)(?:\.\d+)?", re.IGNORECASE)),
    ("doi", re.compile(r"(?:(?:https?://)?(?:dx\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)", re.IGNORECASE)),
    ("sha256", re.compile(r"([0-9a-f]{64})", re.IGNORECASE)),
    ("phash", re.compile(r"([0-9a-f]{16})", re.IGNORECASE)),
    ("pmid", re.compile(r"(?:pmid:?\s*)?(\d{1,9})", re.IGNORECASE)),
)
# Columns of a table that hold ids; of a table without any of them the first column is taken.
_HEADINGS = frozenset({"id", "key", "item", "group", "pmcid", "pmc", "pmid", "doi", "sha256", "phash"})
ID_COLUMNS = ("key", "group", *IDS, "sha256", "phash")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One list: `ids` by the column of the samples that they are compared with, `pictures` of schema `FINGERPRINTS`."""

    name: str
    sha256: str
    ids: dict[str, frozenset[str]]
    pictures: pa.Table


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a list's file, or of the manifest of a packed set.

    Raises:
        DataError: neither.
    """
    file = path / MANIFEST if path.is_dir() else path
    if not file.exists():
        raise DataError(
            f"{path} is no list to decontaminate with; give a file of `python -m shards fingerprint`, a packed set, "
            "or a text file of ids"
        )
    return sha256_file(file)


def read_evaluation_set(path: Path, *, progress: bool = True) -> EvaluationSet:
    """Read a list; of a packed set the fingerprints are taken now.

    Raises:
        DataError: not a list, or one that holds nothing.
    """
    digest = digest_of(path)
    if path.is_dir():
        return _with_pictures(path.name, digest, fingerprint(path, progress=progress))
    if path.suffix == ".parquet":
        return _with_pictures(path.name, digest, _read_fingerprints(path))
    ids: dict[str, set[str]] = {name: set() for name in ID_COLUMNS}
    for text in _cells(path):
        kind, value = _recognise(text)
        for name in (kind,) if kind else ("key", "group"):
            ids[name].add(value)
        if kind == "pmcid":
            ids["group"].add(value)  # articles are the groups of their figures
    if not any(ids.values()):
        raise DataError(f"{path} holds no ids; write one a line, or a table with a column such as pmcid or doi")
    return EvaluationSet(
        name=path.name,
        sha256=digest,
        ids={name: frozenset(values) for name, values in ids.items()},
        pictures=FINGERPRINTS.empty_table(),
    )


def _with_pictures(name: str, digest: str, pictures: pa.Table) -> EvaluationSet:
    columns = {column: set(pictures[column].to_pylist()) for column in ("group", *IDS, "sha256")}
    columns["key"] = set(pictures["item"].to_pylist())
    columns["sha256"] |= set(pictures["sha256_raw"].to_pylist())
    columns["doi"] = {doi.lower() for doi in columns["doi"]}
    ids = {column: frozenset(columns.get(column, ())) - {""} for column in ID_COLUMNS}
    return EvaluationSet(name=name, sha256=digest, ids=ids, pictures=pictures)


def _read_fingerprints(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not readable as parquet: {error}") from error
    if not table.schema.equals(FINGERPRINTS):
        raise DataError(f"{path} is not a file of fingerprints; make one with `python -m shards fingerprint`")
    return table


def _cells(path: Path) -> Iterator[str]:
    """Yield the ids of a text file: its lines, or the id columns of a table in CSV or TSV."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if delimiter is None:
        yield from (line.strip() for line in lines if line.strip() and not line.startswith("#"))
        return
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    chosen = [number for number, name in enumerate(rows[0]) if name.strip().lower() in _HEADINGS] if rows else []
    for row in rows[1:] if chosen else rows:
        yield from (row[number].strip() for number in chosen or [0] if number < len(row) and row[number].strip())


def _recognise(text: str) -> tuple[str, str]:
    """Return the kind of an id, "" for a key or a group, and the id as the samples' columns hold it."""
    for kind, pattern in _KINDS:
        if match := pattern.fullmatch(text):
            value = match.group(1)
            return kind, value.upper() if kind == "pmcid" else value.lower()
    return "", text


def lists_digest(paths: tuple[Path, ...]) -> list[dict[str, str]]:
    """Return the lists' names and digests, in the order of names: part of what a set's bytes follow from."""
    return [{"list": path.name, "sha256": digest_of(path)} for path in sorted(paths, key=lambda path: path.name)]
