"""Which samples are in an evaluation set: by bytes, by picture, by id, or because their article or group is hit.

Such samples are dropped from every split: a set must not be trained on what it will be scored on, and an evaluation
set of others is not ours to score on as if it were our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmed.rejects import RejectReason
from shards.evalsets import EvaluationSet
from shards.evidence import HITS

# The rules by the column that they compare, the strongest first; `picture` and `same_group` have none.
RULES = {"sha256": "bytes", "": "picture", "key": "key", "pmcid": "article", "pmid": "article", "doi": "article",
         "group": "group", "phash": "phash"}  # fmt: skip
SAME_GROUP = "same_group"


def find_hits(samples: pa.Table, lists: Sequence[EvaluationSet], pictures: pa.Table, *, groups: bool) -> pa.Table:
    """Return the samples that are in evaluation sets, each once by its strongest rule, in the order of keys.

    Args:
        samples: the columns of `shards.intake.INTAKE`.
        lists: the evaluation sets; of equal rules the first in the order of names counts.
        pictures: confirmed pairs (sha256, list, item, bits, correlation) of a sample's image and a list's.
        groups: whether the group of a hit goes with it.

    Returns:
        A table of the schema `shards.evidence.HITS`.
    """
    hits: dict[int, dict[str, Any]] = {}
    ordered = sorted(lists, key=lambda entry: entry.name)
    for column, rule in RULES.items():
        if rule == "picture":
            _add_pictures(hits, samples, pictures)
            continue
        values = samples[column] if column != "doi" else pc.utf8_lower(samples[column])
        for entry in ordered:
            wanted = entry.ids[column]
            found = np.flatnonzero(np.asarray(pc.is_in(values, value_set=pa.array(sorted(wanted), pa.string()))))
            items = values.take(found).to_pylist()
            for row, item in zip(found.tolist(), items, strict=True):
                hits.setdefault(row, {"match": _named(entry, column, item), "list": entry.name, "rule": rule})
    if groups:
        _add_groups(hits, samples)
    return _table(hits, samples)


def summarise(removed: pa.Table) -> list[dict[str, Any]]:
    """Return how many samples each list and rule dropped, from a table of the schema `shards.evidence.REMOVED`."""
    hits = removed.filter(pc.equal(removed["reason"], str(RejectReason.CONTAMINATED)))
    counts = Counter(zip(hits["list"].to_pylist(), hits["rule"].to_pylist(), strict=True))
    return [{"list": name, "rule": rule, "samples": count} for (name, rule), count in sorted(counts.items())]


def _named(entry: EvaluationSet, column: str, value: str) -> str:
    """Return what the list calls the thing that a sample's value was found in."""
    if column != "sha256" or not len(entry.pictures):
        return value
    same = pc.or_(pc.equal(entry.pictures["sha256"], value), pc.equal(entry.pictures["sha256_raw"], value))
    return str(entry.pictures["item"].filter(same)[0])


def _add_pictures(hits: dict[int, dict[str, Any]], samples: pa.Table, pictures: pa.Table) -> None:
    rows_of: dict[str, list[int]] = {}
    found = np.flatnonzero(np.asarray(pc.is_in(samples["sha256"], value_set=pictures["sha256"].combine_chunks())))
    for row, image in zip(found.tolist(), samples["sha256"].take(found).to_pylist(), strict=True):
        rows_of.setdefault(image, []).append(row)
    for pair in pictures.sort_by(
        [("correlation", "descending"), ("list", "ascending"), ("item", "ascending")]
    ).to_pylist():
        fact = {
            "match": pair["item"],
            "rule": "picture",
            **{name: pair[name] for name in ("list", "bits", "correlation")},
        }
        for row in rows_of.get(pair["sha256"], ()):
            hits.setdefault(row, fact)


def _add_groups(hits: dict[int, dict[str, Any]], samples: pa.Table) -> None:
    """Add all other samples of the groups that are hit; the first hit of a group, by key, is the one named."""
    keys, groups = samples["key"], samples["group"]
    first: dict[str, tuple[str, int]] = {}
    for row in hits:
        place = (keys[row].as_py(), row)
        group = groups[row].as_py()
        first[group] = min(first.get(group, place), place)
    found = np.flatnonzero(np.asarray(pc.is_in(groups, value_set=pa.array(sorted(first), pa.string()))))
    for row, group in zip(found.tolist(), groups.take(found).to_pylist(), strict=True):
        key, hit = first[group]
        hits.setdefault(row, {"match": key, "list": hits[hit]["list"], "rule": SAME_GROUP})


def _table(hits: dict[int, dict[str, Any]], samples: pa.Table) -> pa.Table:
    rows = np.array(sorted(hits), np.int64)
    known = samples.select(["key", "source"]).take(rows).to_pylist()
    empty = {"bits": None, "correlation": None, "reason": str(RejectReason.CONTAMINATED)}
    full = [{**empty, **own, **hits[row]} for row, own in zip(rows.tolist(), known, strict=True)]
    return pa.Table.from_pylist([{**row, "detail": _detail(row)} for row in full], HITS).sort_by("key")


def _detail(row: dict[str, Any]) -> str:
    where = f"{row['list']}: {row['rule']}"
    if row["rule"] == SAME_GROUP:
        return f"{where}: in one group with {row['match']}"
    if row["rule"] == "picture":
        return f"{where}: {row['bits']} bits from {row['match']}, correlation {row['correlation']:.2f}"
    return f"{where}: {row['match']}"
