"""Pack spools into a shard set: plan over columns, copy shard by shard, write the index and the manifest.

The set grows in `.<name>.partial/` beside its final place and is renamed when it is whole. After a kill, a rerun with
the same spools and config keeps the finished shards; the result is the same to the byte, manifest included.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clipmed.errors import DataError
from clipmed.files import replace_folder, sha256_file, write_json, write_text
from clipmed.jobs import JobsConfig, run_units
from clipmed.records import canonical_json
from shards.caption_join import JoinSettings, count_captions, describe_stores, require_matches
from shards.card import card_text
from shards.comparing import gather
from shards.config import PackConfig
from shards.contamination import summarise
from shards.copying import PARTS, PLAN_FILE, ShardTask, copy_shard, is_finished, read_receipt
from shards.evalsets import lists_digest, read_evaluation_set
from shards.intake import Intake, read_spools
from shards.manifest import (
    CARD_FILE,
    INDEX_FILE,
    MANIFEST,
    REJECTS_FILE,
    REMOVED_FILE,
    attrition,
    checksum,
    count_samples,
    license_of_set,
)
from shards.plan import Plan, make_plan
from shards.schema import INDEX, REJECTS, SCHEMA_VERSION
from shards.splits import SPLITS

_DIGEST_FILE = "digest"
_HASHES = "hashes"
_COPIED = ("key", "sha256", "unit", "jpg_offset", "bytes", "json_offset", "json_size")


def pack(
    spools: Sequence[Path],
    out: Path,
    config: PackConfig | None = None,
    jobs: JobsConfig | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Pack finished spools into the shard set `out` and return its manifest.

    A set that stands at `out` is replaced once the new one is whole; another folder there is never touched.

    Args:
        spools: folders that builders wrote, in any order.
        out: folder of the set.
        config: what to keep, and how to split and cut it.
        jobs: where shards are copied, and how many at once.
        progress: show progress bars on standard error.

    Raises:
        DataError: a spool is unfinished, damaged or contradicts another; a list of `config.decontaminate` is none; or
            `out` is not a shard set.
    """
    config, jobs = config or PackConfig(), jobs or JobsConfig()
    _refuse_other_folder(out)
    intake = read_spools(spools, progress=progress)
    lists = lists_digest(config.decontaminate)
    stores = describe_stores(config.captions)
    digest = _plan_digest(intake, config, lists, stores)
    partial = out.with_name(f".{out.name}.partial")
    _open_partial(partial, digest)
    sets = [read_evaluation_set(path, progress=progress) for path in config.decontaminate]
    evidence = gather(intake, config, sets, partial / _HASHES, jobs, progress=progress)
    plan = make_plan(intake.samples, config, evidence)
    join = JoinSettings.of(config, stores)
    tasks = _write_plan(partial, intake, plan, {"digest": digest, "captions": json.dumps(asdict(join))})
    _copy_shards(tasks, jobs, progress=progress)
    manifest = _write_tables(partial, tasks, intake, plan)
    require_matches(manifest["captions"], stores)
    manifest["captions"]["stores"] = stores
    manifest |= {
        "config": config.portable(),
        "plan_sha256": digest,
        "pictures": evidence.counts,
        "decontamination": {"lists": lists, "dropped": summarise(plan.removed)},
    }
    manifest["checksum"] = checksum(manifest)
    write_json(partial / MANIFEST, manifest)
    write_text(partial / CARD_FILE, card_text(manifest))
    _remove_all_but(partial, {MANIFEST, CARD_FILE, *manifest["files"], *(task.name for task in tasks)})
    replace_folder(partial, out)
    return manifest


def _refuse_other_folder(out: Path) -> None:
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not a shard set; give another --out, or remove it yourself")


def _plan_digest(intake: Intake, config: PackConfig, lists: list[dict[str, str]], stores: list[dict[str, str]]) -> str:
    """Return the digest of all that a set's bytes follow from."""
    inputs = {
        "schema_version": SCHEMA_VERSION,
        "config": config.portable(),
        "spools": intake.digests,
        "lists": lists,
        "stores": stores,
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def _open_partial(partial: Path, digest: str) -> None:
    """Begin the partial folder, or keep the one that a killed packer of the same plan left."""
    marker = partial / _DIGEST_FILE
    if not marker.exists() or marker.read_text() != digest:
        shutil.rmtree(partial, ignore_errors=True)
        write_text(marker, digest)
    (partial / PARTS).mkdir(exist_ok=True)


def _write_plan(partial: Path, intake: Intake, plan: Plan, settings: dict[str, str]) -> list[ShardTask]:
    """Write the plan with a row group a shard, so that a worker reads only its own rows, and what workers need."""
    names = plan.shard_names()
    table = intake.samples.select(list(_COPIED)).take(plan.rows)
    table = table.append_column("split", pa.array(SPLITS).take(pa.array(plan.split)))
    tars = [str(tar.resolve()) for tar in intake.tars]
    table = table.replace_schema_metadata({"tars": json.dumps(tars), **settings})
    places = np.stack([plan.split, plan.shard])
    starts = np.flatnonzero(np.any(np.diff(places, axis=1, prepend=-1) != 0, axis=0))
    ends = [*starts[1:].tolist(), len(table)]
    with pq.ParquetWriter(partial / PLAN_FILE, table.schema) as writer:
        for start, end in zip(starts.tolist(), ends, strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
    return [ShardTask(partial.resolve(), name, number) for number, name in enumerate(names)]


def _copy_shards(tasks: list[ShardTask], jobs: JobsConfig, *, progress: bool) -> None:
    waiting = [
        task for task in tqdm(tasks, "checking finished shards", disable=not progress, delay=2) if not is_finished(task)
    ]
    with tqdm(total=len(waiting), desc="copying shards", unit="shard", disable=not progress) as bar:
        num_samples = 0
        for _, copied in run_units(copy_shard, waiting, jobs, "shards-pack"):
            num_samples += copied
            bar.set_postfix(samples=num_samples, refresh=False)
            bar.update()


def _write_tables(partial: Path, tasks: list[ShardTask], intake: Intake, plan: Plan) -> dict[str, Any]:
    """Write the set's tables and return the manifest's facts about the data."""
    with pq.ParquetWriter(partial / INDEX_FILE, INDEX) as writer:
        for task in tasks:
            part = pq.read_table(task.part)
            writer.write_table(part, row_group_size=len(part))
    rejects = pa.concat_tables([intake.rejects, pa.Table.from_pylist(plan.rejects, REJECTS)])
    pq.write_table(rejects, partial / REJECTS_FILE)
    pq.write_table(plan.removed, partial / REMOVED_FILE)
    columns = ["split", "modality", "source", "license", "license_group", "captions"]
    samples = pq.read_table(partial / INDEX_FILE, columns=columns)
    counts = count_samples(samples)
    return {
        "schema_version": SCHEMA_VERSION,
        "spools": intake.digests,
        "tasks": intake.tasks,
        "counts": {"samples": len(samples), "rejects": len(rejects), **counts},
        "captions": count_captions(samples["captions"]),
        "license": license_of_set(counts),
        "attrition": attrition(intake.seen, rejects, samples),
        "counters": {source: dict(sorted(counter.items())) for source, counter in sorted(intake.counters.items())},
        "linked": plan.linked,
        "files": {name: _file_entry(partial / name) for name in (INDEX_FILE, REJECTS_FILE, REMOVED_FILE)},
        "shards": [read_receipt(task) for task in tasks],
    }


def _file_entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _remove_all_but(folder: Path, names: set[str]) -> None:
    for entry in folder.iterdir():
        if entry.name not in names:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
