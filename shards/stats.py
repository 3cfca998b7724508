"""What a shard set holds, as tables: counts, captions, licences, and where the items went on the road."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.table import Table

from clipmed.records import Split
from shards.manifest import COUNTED
from shards.reader import ShardSet

_SPLITS = tuple(str(split) for split in Split)
_TITLES = {"modality": "By modality", "license": "By licence"}
_MOST_SOURCE_COLUMNS = 5


def stats_tables(shard_set: ShardSet) -> list[Table]:
    """Return the tables that `python -m shards stats` prints."""
    columns = {name: shard_set.column(name) for name in COUNTED}
    tables = [_split_table(shard_set, columns)]
    tables += [_by_split(title, name, columns) for name, title in _TITLES.items()]
    tables += [_caption_table(shard_set), *_captioner_tables(shard_set.manifest)]
    tables += [source_table(shard_set.manifest), attrition_table(shard_set.manifest)]
    return [*tables, *decontamination_tables(shard_set.manifest)]


def decontamination_tables(manifest: dict[str, Any]) -> list[Table]:
    """Return the table of the evaluation sets that were kept out; none where the set was packed without lists."""
    found = manifest.get("decontamination", {"lists": [], "dropped": []})
    if not found["lists"]:
        return []
    table = _table("Evaluation sets kept out", ["list", "rule", "samples dropped"], num_names=2)
    hit = {row["list"] for row in found["dropped"]}
    for entry in found["lists"]:
        if entry["list"] not in hit:
            table.add_row(entry["list"], "", "0")
    for row in found["dropped"]:
        table.add_row(row["list"], row["rule"], f"{row['samples']:,}")
    return [table]


def attrition_matrix(manifest: dict[str, Any]) -> tuple[list[str], list[tuple[str, str, list[int]]]]:
    """Return the sources, and one row (stage, reason, count for each source) a line of the attrition table.

    Lines come in the road's order: items seen, drops by stage, samples by split.
    """
    rows = manifest["attrition"]
    sources = sorted({row["source"] for row in rows})
    lines: dict[tuple[str, str], Counter[str]] = {}
    stages = ["source", "parse", "caption", "image", "plan", "samples"]
    for row in sorted(rows, key=lambda row: (row["reason"] != "items_seen", stages.index(row["stage"]))):
        lines.setdefault((row["stage"], row["reason"]), Counter())[row["source"]] += row["count"]
    return sources, [(stage, reason, [line[name] for name in sources]) for (stage, reason), line in lines.items()]


def attrition_table(manifest: dict[str, Any]) -> Table:
    """Return the attrition table: items seen, minus drops, are the samples of the splits."""
    sources, lines = attrition_matrix(manifest)
    shown = sources if len(sources) <= _MOST_SOURCE_COLUMNS else []
    table = _table("From items seen to samples", ["stage", "reason", *shown, "all"], num_names=2)
    for stage, reason, counts in lines:
        sign = "-" if stage != "samples" and reason != "items_seen" else ""
        cells = [f"{sign}{count:,}" if count else "" for count in [*counts[: len(shown)], sum(counts)]]
        table.add_row(stage, reason, *cells)
    return table


def source_table(manifest: dict[str, Any]) -> Table:
    """Return items seen, dropped and kept for each source."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in manifest["attrition"]:
        kept_or_seen = row["stage"] == "samples" or row["reason"] == "items_seen"
        counts[row["source"], row["reason"] if kept_or_seen else "dropped"] += row["count"]
    table = _table("By source", ["source", "items seen", "dropped", *_SPLITS], num_names=1)
    sources = sorted({source for source, _ in counts})
    for source in sources:
        table.add_row(source, *(f"{counts[source, what]:,}" for what in ("items_seen", "dropped", *_SPLITS)))
    return table


def _split_table(shard_set: ShardSet, columns: dict[str, list[Any]]) -> Table:
    counts, shards = Counter(columns["split"]), shard_set.manifest["shards"]
    group = shard_set.manifest["license"]["group"]
    title = f"{shard_set.path}: {sum(counts.values()):,} samples, licence group {group}"
    table = _table(title, ["split", "samples", "shards", "MB"], num_names=1)
    for split in _SPLITS:
        mine = [shard for shard in shards if shard["split"] == split]
        table.add_row(split, f"{counts[split]:,}", f"{len(mine):,}", f"{sum(s['bytes'] for s in mine) / 1e6:,.1f}")
    return table


def _by_split(title: str, name: str, columns: dict[str, list[Any]]) -> Table:
    counts = Counter(zip(columns[name], columns["split"], strict=True))
    table = _table(title, [name, *_SPLITS, "all"], num_names=1)
    for value in sorted(set(columns[name])):
        row = [counts[value, split] for split in _SPLITS]
        table.add_row(value, *(f"{count:,}" for count in [*row, sum(row)]))
    return table


def _caption_table(shard_set: ShardSet) -> Table:
    captions = shard_set.arrow_column("captions").combine_chunks()
    texts = captions.flatten()
    origins = np.asarray(texts.field("origin").to_pylist(), dtype=object)
    characters = np.asarray(pc.utf8_length(texts.field("text")))
    table = _table(
        f"Captions: {len(texts):,}, {len(texts) / max(len(captions), 1):.1f} a sample",
        ["origin", "captions", "characters: mean", "median", "95 %", "most"],
        num_names=1,
    )
    for origin in sorted(set(origins)):
        mine = characters[origins == origin]
        values = (mine.mean(), np.median(mine), np.percentile(mine, 95), mine.max())
        table.add_row(origin, f"{len(mine):,}", *(f"{value:,.0f}" for value in values))
    return table


def _captioner_tables(manifest: dict[str, Any]) -> list[Table]:
    found = manifest.get("captions", {})
    if not found.get("by_model"):
        return []
    samples = found["samples"]
    title = (
        f"Made captions: {samples['from_store']:,} samples have some of a store, {samples['from_template']:,} of a bank"
    )
    table = _table(title, ["origin: captioner (prompt)", "captions"], num_names=1)
    for name, count in found["by_model"].items():
        table.add_row(name, f"{count:,}")
    return [table]


def _table(title: str, headings: Sequence[str], num_names: int) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < num_names else "right")
    return table
