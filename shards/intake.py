"""What the packer takes in: the light columns of all spools, their rejects, vocabularies and digests.

Images, captions and provenance stay in the spools' tars until they are copied, so that the memory needed is a few
hundred bytes a sample, ids and hashes of captions included. Nothing here depends on the order in which the spools are
given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import DataError
from clipmed.files import sha256_file
from clipmed.records import canonical_json
from shards.schema import REJECTS, SAMPLES
from shards.spool import SPOOL_FILE, UNIT_FILES, SpoolInfo, read_spool, unit_path
from shards.tars import list_members

_COLUMNS = ("key", "source", "modality", "group", "split", "license", "license_group", "sha256", "phash")
IDS = ("pmcid", "pmid", "doi")

_MEMBER_COLUMNS = ("bytes", "unit", "jpg_offset", "json_offset", "json_size")
THREADS = 4  # hashing releases the interpreter lock

# One row a sample of the spools: `unit` is the number of its tar in `Intake.tars`. Of captions and provenance only what
# the plan reads is kept.
INTAKE = pa.schema(
    [
        *(SAMPLES.field(name) for name in _COLUMNS),
        ("pixels", pa.int64()),  # width times height
        ("figure_kind", pa.string()),  # these four are empty where the builder does not tell
        ("caption_language", pa.string()),
        ("is_panel", pa.bool_()),
        ("num_panels", pa.int32()),
        *((name, pa.string()) for name in IDS),
        ("texts", pa.list_(pa.uint64())),  # hashes of the free texts, null where captions are made from labels
        ("bytes", pa.int64()),
        ("unit", pa.int32()),
        ("jpg_offset", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """All spools together. `seen` and `counters` are by source, `digests` one entry a spool."""

    samples: pa.Table
    rejects: pa.Table
    tars: list[Path]
    digests: list[dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    seen: Counter[str]
    counters: dict[str, Counter[str]]

    @property
    def version(self) -> str:
        """A digest of all that was taken in."""
        return hashlib.sha256(canonical_json(self.digests).encode()).hexdigest()


def read_spools(paths: Sequence[Path], *, progress: bool = True) -> Intake:
    """Read everything that planning needs from finished spools.

    Raises:
        DataError: no spool, an unfinished one, one that does not match its own digests or counts, or two whose
            vocabularies contradict each other.
    """
    if not paths:
        raise DataError("no spools to pack; give one or more folders that a builder wrote")
    spools = sorted(
        ((read_spool(path), _spool_digest(path), path) for path in paths),
        key=lambda spool: (spool[0].source, json.dumps(spool[1], sort_keys=True)),
    )
    units = [(info.source, unit_path(path, unit)) for info, _, path in spools for unit in range(info.num_units)]
    bar = tqdm(total=len(units), desc="reading spools", unit="unit", disable=not progress)
    with bar, ThreadPoolExecutor(THREADS) as pool:
        read = []
        for unit in pool.map(_read_unit, *zip(*units, strict=True), range(len(units))):
            read.append(unit)
            bar.update()
    seen: Counter[str] = Counter()
    counters: dict[str, Counter[str]] = {}
    for (source, _), (_, _, summary) in zip(units, read, strict=True):
        seen[source] += summary["seen"]
        counters.setdefault(source, Counter()).update(summary["counters"])
    return Intake(
        samples=pa.concat_tables([samples for samples, _, _ in read]).combine_chunks(),
        rejects=pa.concat_tables([rejects for _, rejects, _ in read]),
        tars=[folder / "samples.tar" for _, folder in units],
        digests=[{"source": info.source, "sha256": digest} for info, digest, _ in spools],
        tasks=merge_tasks([info for info, _, _ in spools]),
        seen=seen,
        counters=counters,
    )


def merge_tasks(spools: Sequence[SpoolInfo]) -> dict[str, dict[str, Any]]:
    """Merge the label vocabularies of spools; each task names its source.

    Raises:
        DataError: two spools define a task, or a class of it, differently.
    """
    merged: dict[str, dict[str, Any]] = {}
    for info in spools:
        for task, definition in info.tasks.items():
            wanted = {"source": info.source, **definition}
            found = merged.setdefault(task, {**wanted, "classes": {}})
            classes = {**found["classes"], **wanted["classes"]}
            same = all(classes[name] == found["classes"][name] for name in found["classes"])
            if not same or {**found, "classes": {}} != {**wanted, "classes": {}}:
                raise DataError(
                    f"task {task!r} is defined differently by {found['source']} and {info.source}; "
                    "rename the task in one of the sources and build it again"
                )
            found["classes"] = dict(sorted(classes.items()))
    return dict(sorted(merged.items()))


def _spool_digest(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the spool's and its units' own descriptions, which hold those of the data."""
    files = [path / SPOOL_FILE, *sorted(path.glob("unit-*/unit.json"))]
    return {file.relative_to(path).as_posix(): sha256_file(file) for file in files}


def _read_unit(source: str, folder: Path, unit: int) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Return a unit's samples (schema `INTAKE`), its rejects and its summary, after checking all its digests."""
    summary = json.loads((folder / "unit.json").read_text())
    for name in UNIT_FILES:
        if sha256_file(folder / name) != summary["sha256"][name]:
            raise DataError(
                f"{folder / name} is not what its unit.json says; remove {folder} and run the builder again"
            )
    read = ("width", "height", "facts", "provenance", "captions")
    table = _with_facts(pq.read_table(folder / "samples.parquet", columns=[*_COLUMNS, *read]))
    dropped = pq.read_table(folder / "rejects.parquet", schema=REJECTS)
    if summary["seen"] != len(table) + len(dropped):
        raise DataError(
            f"{folder}: {summary['seen']} items seen, but {len(table)} samples and {len(dropped)} rejects; "
            f"remove {folder} and run the builder again"
        )
    for what in (table, dropped):
        if others := set(what["source"].unique().to_pylist()) - {source}:
            raise DataError(
                f"{folder} holds rows of {min(others)!r} in a spool of {source!r}; build one spool a source"
            )
    return _with_members(table, folder / "samples.tar", unit), dropped, summary


def _with_members(table: pa.Table, tar: Path, unit: int) -> pa.Table:
    members = {member.name: member for member in list_members(tar)}
    keys = table["key"].to_pylist()
    missing = [name for key in keys for name in (f"{key}.jpg", f"{key}.json") if name not in members]
    if missing or len(members) != 2 * len(keys):
        raise DataError(
            f"{tar} has {len(members)} members for {len(keys)} samples{f', without {missing[0]}' if missing else ''}; "
            f"remove {tar.parent} and run the builder again"
        )
    images = [members[f"{key}.jpg"] for key in keys]
    rows = [members[f"{key}.json"] for key in keys]
    columns = {
        "bytes": [member.size for member in images],
        "unit": [unit] * len(keys),
        "jpg_offset": [member.offset for member in images],
        "json_offset": [member.offset for member in rows],
        "json_size": [member.size for member in rows],
    }
    return pa.table({**{name: table[name] for name in table.column_names}, **columns}, schema=INTAKE)


def _with_facts(table: pa.Table) -> pa.Table:
    """Replace captions, provenance and sides by the small columns that the plan reads."""
    columns: dict[str, list[Any]] = {name: [] for name in INTAKE.names if name not in {*_COLUMNS, *_MEMBER_COLUMNS}}
    for row in table.select(["width", "height", "facts", "provenance", "captions"]).to_pylist():
        provenance = json.loads(row["provenance"])
        columns["pixels"].append(row["width"] * row["height"])
        columns["is_panel"].append(bool(provenance.get("parent")))
        columns["num_panels"].append(int(provenance.get("num_panels") or 0))
        for name in ("figure_kind", "caption_language", *IDS):
            columns[name].append(str(provenance.get(name) or ""))
        free = row["facts"] is None
        columns["texts"].append(sorted({_text_hash(text["text"]) for text in row["captions"]}) if free else None)
    typed = {name: pa.array(values, INTAKE.field(name).type) for name, values in columns.items()}
    return pa.table({**{name: table[name] for name in _COLUMNS}, **typed})


def _text_hash(text: str) -> int:
    """Return 64 bits of a caption's text, blind to case and spaces."""
    words = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little")
