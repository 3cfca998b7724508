"""The pack plan: which samples a set keeps, in which split, shard and order, decided over columns alone.

Columns in, columns out, no file is touched; what was seen in pixels comes in as pairs of images. The rules, in order:

1. Gates: samples outside the allowed licence groups, of evaluation sets, of parts, kinds and languages that are not
   wanted are dropped (`shards.gates`).
2. Splits, by families of groups that share an image, a picture or a name (`shards.splits`).
3. Duplicates: by bytes, by picture, by captions, each dropped once (`shards.duplicates`).
4. Order: a seeded shuffle over all samples of a split, cut into shards by number of samples and by bytes.

Nothing depends on the order in which samples come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmed.errors import DataError
from clipmed.rejects import RejectReason
from shards.config import PackConfig
from shards.duplicates import caption_keepers, exact_keepers, key_ranks, near_keepers
from shards.evidence import NO_EVIDENCE, REMOVED, Evidence
from shards.gates import Rejects, apply_gates, reject
from shards.randomness import hash_u64
from shards.splits import SPLITS, Ints, draw_splits

# The columns that the plan reads; `bytes` is the size of the image, `pixels` its width times its height.
PLAN_COLUMNS = (
    "key", "source", "group", "split", "license", "license_group", "sha256", "bytes", "pixels",
    "figure_kind", "caption_language", "is_panel", "num_panels", "texts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write. The arrays run over the kept samples in the set's final order.

    `rows` are row numbers of the planned table, `split` codes index `SPLITS`, `shard` counts from 0 in each split.
    `rejects` are rows of rejects.parquet. `linked` counts what linking the groups did. `removed` tells of the samples
    that show a picture which is kept or is in an evaluation set (schema `shards.evidence.REMOVED`).
    """

    rows: Ints
    split: Ints
    shard: Ints
    rejects: list[dict[str, str]]
    linked: dict[str, int]
    removed: pa.Table

    def shard_names(self) -> list[str]:
        """Return the shards' file names in the set's order."""
        pairs = np.unique(np.stack([self.split, self.shard]), axis=1) if len(self.rows) else np.empty((2, 0), np.int64)
        return [shard_name(int(split), int(number)) for split, number in pairs.T]


def shard_name(split: int, number: int) -> str:
    """Return the file name of a shard."""
    return f"{SPLITS[split]}-{number:06d}.tar"


def make_plan(samples: pa.Table, config: PackConfig, evidence: Evidence = NO_EVIDENCE) -> Plan:
    """Plan a set over the columns `PLAN_COLUMNS` of all spools; the module's docstring has the rules.

    Args:
        samples: one row a sample.
        config: what to keep, and how to split and cut it.
        evidence: pairs of the same picture, and samples of evaluation sets.

    Raises:
        DataError: nothing is left to pack, a key comes twice, a split has an unknown name, or samples of one group and
            source have different official splits.
    """
    _check_keys(samples)
    passes, rejects = apply_gates(samples, evidence.hits, config)
    rows = np.flatnonzero(passes)
    if not len(rows):
        raise DataError(
            f"nothing to pack: none of {len(samples)} samples passes the gates (licences allowed: "
            f"{', '.join(config.license_groups)}); allow more, or look at the builder's rejects"
        )
    kept = samples.take(rows)
    split, linked = draw_splits(kept, evidence.near, config)
    is_kept, repeats, removed = _repeats(kept, split, evidence, config)
    rejects += repeats
    rejects.sort(key=lambda row: (row["source"], row["reason"], row["item"]))
    order = _order(kept, split, config.seed)
    order = order[is_kept[order]]
    shard = _shard_numbers(split[order], np.asarray(kept["bytes"])[order], config)
    contaminated = pa.array([row["item"] for row in rejects if row["reason"] == RejectReason.CONTAMINATED], pa.string())
    hits = evidence.hits.filter(pc.is_in(evidence.hits["key"], value_set=contaminated))
    removed = pa.concat_tables([removed, hits.select(REMOVED.names)]).sort_by("key")
    return Plan(rows=rows[order], split=split[order], shard=shard, rejects=rejects, linked=linked, removed=removed)


def _check_keys(samples: pa.Table) -> None:
    counts = pc.value_counts(samples["key"])
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise DataError(
            f"{len(twice)} keys come more than once over the spools (first: {min(twice)}); "
            "give every spool once, and every source a name of its own"
        )


def _repeats(
    samples: pa.Table, split: Ints, evidence: Evidence, config: PackConfig
) -> tuple[npt.NDArray[np.bool_], Rejects, pa.Table]:
    """Return which samples are no duplicates, the rejects of those that are, and the rows of the same picture."""
    rejects: Rejects = []
    is_kept = np.ones(len(samples), np.bool_)
    sources, keys = samples["source"], samples["key"]

    def drop(dropped: Ints, keepers: Ints, reason: RejectReason, texts: list[str]) -> None:
        is_kept[dropped] = False
        columns = (sources.take(dropped).to_pylist(), keys.take(dropped).to_pylist(), keys.take(keepers).to_pylist())
        for source, key, other, text in zip(*columns, texts, strict=True):
            rejects.append(reject(source, key, reason, text.format(other)))

    removed = REMOVED.empty_table()
    if config.dedupe != "none":
        exact = exact_keepers(samples, split)
        dropped = np.flatnonzero(exact != np.arange(len(samples)))
        drop(dropped, exact[dropped], RejectReason.DUPLICATE_EXACT, ["same bytes as {}"] * len(dropped))
        dropped, keepers = near_keepers(samples, split, exact, evidence.near)
        removed = _removed(samples, dropped, keepers, evidence.near)
        measures = zip(removed["bits"].to_pylist(), removed["correlation"].to_pylist(), strict=True)
        texts = [f"{bits} bits from {{}}, correlation {value:.2f}" for bits, value in measures]
        drop(dropped, keepers, RejectReason.DUPLICATE_NEAR, texts)
    if config.caption_duplicates == "drop":
        dropped, keepers = caption_keepers(samples, split, np.flatnonzero(is_kept))
        drop(dropped, keepers, RejectReason.DUPLICATE_CAPTION, ["only texts of {}"] * len(dropped))
    return is_kept, rejects, removed


def _removed(samples: pa.Table, dropped: Ints, keepers: Ints, near: pa.Table) -> pa.Table:
    """Return the rows of the near duplicates, with what was measured between each and the sample kept for it."""
    measured = dict(
        zip(
            map(frozenset, zip(near["first"].to_pylist(), near["second"].to_pylist(), strict=True)),
            zip(near["bits"].to_pylist(), near["correlation"].to_pylist(), strict=True),
            strict=True,
        )
    )
    ends = (samples["sha256"].take(rows).to_pylist() for rows in (dropped, keepers))
    found = [measured[frozenset(pair)] for pair in zip(*ends, strict=True)]
    columns = {
        "key": samples["key"].take(dropped),
        "source": samples["source"].take(dropped),
        "reason": pa.repeat(str(RejectReason.DUPLICATE_NEAR), len(dropped)),
        "match": samples["key"].take(keepers),
        "list": pa.repeat("", len(dropped)),
        "rule": pa.repeat("picture", len(dropped)),
        "bits": [bits for bits, _ in found],
        "correlation": [value for _, value in found],
    }
    return pa.table(columns, schema=REMOVED)


def _order(samples: pa.Table, split: Ints, seed: int) -> Ints:
    """Return the rows by split, shuffled inside each: by a hash of the seed and of the key's rank."""
    ticket = hash_u64("pack-order", seed, key_ranks(samples))
    return np.lexsort((ticket, split)).astype(np.int64)


def _shard_numbers(split: Ints, sizes: npt.NDArray[Any], config: PackConfig) -> Ints:
    limit = config.megabytes_per_shard * 1_000_000
    numbers = np.empty(len(split), np.int64)
    number, samples, total, current = -1, 0, 0, -1
    for position, (code, size) in enumerate(zip(split.tolist(), sizes.tolist(), strict=True)):
        if code != current:
            current, number, samples, total = code, 0, 0, 0
        elif samples == config.samples_per_shard or total + size > limit:
            number, samples, total = number + 1, 0, 0
        numbers[position] = number
        samples, total = samples + 1, total + size
    return numbers
