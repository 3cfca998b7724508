"""The pack plan: which samples a set keeps, in which split, shard and order, decided over columns alone.

Columns in, columns out, no file is touched. The rules, in this order:

1. Licence gate: samples outside the allowed licence groups are dropped.
2. Splits. A group never straddles splits, and an official split always stands for its own group. Groups that share an
   exact image, or a name in several sources, are linked; a linked family without any official split is drawn whole by
   a hash of the seed and its smallest group name. Where some groups of a family have official splits, the others
   follow the most protected of them (test, then val, then train), so that no linked image leaks out of a test set.
   An image that more than `max_linked_groups` groups share is boilerplate, such as a logo, and links none.
3. Exact duplicates: of the samples with equal bytes the one in the most protected split is kept, then the one with
   the smallest key; the others are dropped, each once.
4. Order: a seeded shuffle over all samples of a split, cut into shards by number of samples and by bytes.

Nothing depends on the order in which samples come.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clipmed.errors import ConfigError, DataError
from clipmed.records import Split
from clipmed.rejects import RejectReason, Stage
from shards.randomness import hash_u64

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SPLITS = tuple(str(split) for split in (Split.TRAIN, Split.VAL, Split.TEST))  # from least to most protected
_NONE = -1
_MAX_NAMED = 5

# The columns that the plan reads; `bytes` is the size of the image.
PLAN_COLUMNS = ("key", "source", "group", "split", "license", "license_group", "sha256", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig:
    """What a shard set keeps of its spools, and how it is split, shuffled and cut."""

    license_groups: tuple[Literal["commercial", "noncommercial", "other"], ...] = ("commercial", "noncommercial")
    """licence groups to keep: commercial, noncommercial, other"""
    val_fraction: float = 0.05
    """share of the groups without an official split that goes to val"""
    test_fraction: float = 0.1
    """share of the groups without an official split that goes to test"""
    dedupe: Literal["exact", "none"] = "exact"
    """exact: of images with equal bytes one is kept. none: all are kept, always in one split where none is official"""
    max_linked_groups: int = 16
    """an image shared by more groups than this links none of them (only a repeat is dropped; not with dedupe none)"""
    seed: int = 0
    """seed of the split and of the shuffle"""
    samples_per_shard: int = 1000
    """most samples in a shard"""
    megabytes_per_shard: int = 512
    """most image bytes in a shard, in MB; a single larger image gets a shard of its own"""

    def __post_init__(self) -> None:
        if not self.license_groups:
            raise ConfigError("license_groups: got none; allowed: one or more of commercial, noncommercial, other")
        fractions = (self.val_fraction, self.test_fraction)
        if not (min(fractions) >= 0 and sum(fractions) < 1):
            raise ConfigError(
                f"val_fraction, test_fraction: got {self.val_fraction}, {self.test_fraction}; "
                "allowed: 0 or more each, below 1 together; lower one of them"
            )
        for name in ("samples_per_shard", "megabytes_per_shard", "max_linked_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write. The arrays run over the kept samples in the set's final order.

    `rows` are row numbers of the planned table, `split` codes index `SPLITS`, `shard` counts from 0 in each split.
    `rejects` are rows of rejects.parquet. `linked` counts what rule 2 above did.
    """

    rows: Ints
    split: Ints
    shard: Ints
    rejects: list[dict[str, str]]
    linked: dict[str, int]

    def shard_names(self) -> list[str]:
        """Return the shards' file names in the set's order."""
        pairs = np.unique(np.stack([self.split, self.shard]), axis=1) if len(self.rows) else np.empty((2, 0), np.int64)
        return [shard_name(int(split), int(number)) for split, number in pairs.T]


def shard_name(split: int, number: int) -> str:
    """Return the file name of a shard."""
    return f"{SPLITS[split]}-{number:06d}.tar"


def make_plan(samples: pa.Table, config: PackConfig) -> Plan:
    """Plan a set over the columns `PLAN_COLUMNS` of all spools; the module's docstring has the rules.

    Raises:
        DataError: nothing is left to pack, a key comes twice, a split has an unknown name, or samples of one group and
            source have different official splits.
    """
    _check_keys(samples)
    allowed = np.asarray(pc.is_in(samples["license_group"], value_set=pa.array(config.license_groups)))
    rows = np.flatnonzero(allowed)
    if not len(rows):
        raise DataError(
            f"nothing to pack: none of {len(samples)} samples has a licence of {', '.join(config.license_groups)}; "
            "allow more licence groups, or look at the builder's rejects"
        )
    kept = samples.take(rows)
    split, linked = _splits(kept, config)
    keeper = _keepers(kept, split) if config.dedupe == "exact" else np.arange(len(kept))
    is_kept = keeper == np.arange(len(kept))
    order = _order(kept, split, config.seed)
    order = order[is_kept[order]]
    shard = _shard_numbers(split[order], np.asarray(kept["bytes"])[order], config)
    rejects = [
        *_license_rejects(samples.filter(pa.array(~allowed)), config),
        *_duplicate_rejects(kept, keeper, np.flatnonzero(~is_kept)),
    ]
    rejects.sort(key=lambda row: (row["source"], row["reason"], row["item"]))
    return Plan(rows=rows[order], split=split[order], shard=shard, rejects=rejects, linked=linked)


def _check_keys(samples: pa.Table) -> None:
    counts = pc.value_counts(samples["key"])
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise DataError(
            f"{len(twice)} keys come more than once over the spools (first: {min(twice)}); "
            "give every spool once, and every source a name of its own"
        )


def _codes(column: pa.ChunkedArray) -> tuple[Ints, list[Any]]:
    """Return integer codes of a column's values, and the values."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    return np.asarray(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()


def _splits(samples: pa.Table, config: PackConfig) -> tuple[Ints, dict[str, int]]:
    """Return the split code of every sample, and counts of what linking did."""
    official = _official_codes(samples)
    names, group_names = _codes(samples["group"])
    sources, _ = _codes(samples["source"])
    pairs, node = np.unique(sources * max(len(group_names), 1) + names, return_inverse=True)
    node_name = pairs % max(len(group_names), 1)
    own = _official_of_groups(node, official, len(pairs), [group_names[name] for name in node_name])
    images, image_names = _codes(samples["sha256"])
    shared = np.unique(np.stack([node, images]), axis=1)
    num_sharing = np.bincount(shared[1], minlength=len(image_names))
    is_boilerplate = (num_sharing > config.max_linked_groups) & (config.dedupe == "exact")
    shared = shared[:, ~is_boilerplate[shared[1]]]
    family = _families(shared, node_name, (len(pairs), len(image_names), len(group_names)))
    num_families = int(family.max()) + 1 if len(family) else 0
    strictest = np.full(num_families, _NONE, np.int64)
    np.maximum.at(strictest, family, own)
    drawn = _drawn_splits(family, [group_names[name] for name in node_name], strictest, config)
    of_node = np.where(own != _NONE, own, np.where(strictest != _NONE, strictest, drawn)[family])
    across = _families_across(family, of_node)
    linked = {
        "groups": len(pairs),
        "families": num_families,
        "families_across_official_splits": across,
        "boilerplate_images": int(is_boilerplate.sum()),
    }
    return of_node[node], linked


def _official_codes(samples: pa.Table) -> Ints:
    known = pa.array(SPLITS)
    codes = pc.index_in(samples["split"], value_set=known)
    unknown = pc.unique(samples["split"].filter(pc.and_(pc.is_null(codes), pc.is_valid(samples["split"])))).to_pylist()
    if unknown:
        raise DataError(f"unknown official split {unknown[0]!r}; allowed: {', '.join(SPLITS)}, or none")
    return np.asarray(pc.fill_null(codes, _NONE)).astype(np.int64)


def _official_of_groups(node: Ints, official: Ints, num_nodes: int, names: list[str]) -> Ints:
    """Return the official split of every group (-1 for none); refuse groups that have two."""
    high = np.full(num_nodes, _NONE, np.int64)
    low = np.full(num_nodes, len(SPLITS), np.int64)
    stated = official != _NONE
    np.maximum.at(high, node[stated], official[stated])
    np.minimum.at(low, node[stated], official[stated])
    torn = np.flatnonzero((high != _NONE) & (high != low))
    if len(torn):
        shown = ", ".join(sorted(names[number] for number in torn)[:_MAX_NAMED])
        raise DataError(
            f"{len(torn)} groups have samples in several official splits ({shown}{', …' * (len(torn) > _MAX_NAMED)}); "
            "allowed: one split a group; give the source a group column that its official split respects, "
            "or build it without an official split"
        )
    return high


def _families(shared: Ints, node_name: Ints, sizes: tuple[int, int, int]) -> Ints:
    """Return the linked family of every group: connected through equal images and through equal names.

    Args:
        shared: (2, P), the pairs of group and image.
        node_name: (G,), the name code of every group.
        sizes: how many groups, images and names there are.
    """
    num_nodes, num_images, num_names = sizes
    left = np.concatenate([shared[0], np.arange(num_nodes)])
    right = np.concatenate([num_nodes + shared[1], num_nodes + num_images + node_name])
    total = num_nodes + num_images + num_names
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    _, family = np.unique(component[:num_nodes], return_inverse=True)
    return family.astype(np.int64)


def _drawn_splits(family: Ints, names: list[str], strictest: Ints, config: PackConfig) -> Ints:
    """Draw a split for every family that has no official one, from a hash of its smallest group name."""
    smallest: dict[int, str] = {}
    for number, name in zip(family.tolist(), names, strict=True):
        if strictest[number] == _NONE and (number not in smallest or name < smallest[number]):
            smallest[number] = name
    drawn = np.zeros(len(strictest), np.int64)
    for number, name in smallest.items():
        digest = hashlib.sha256(f"{config.seed}:{name}".encode()).digest()
        share = int.from_bytes(digest[:7], "big") / 2**56
        in_test, in_val = share < config.test_fraction, share < config.test_fraction + config.val_fraction
        drawn[number] = 2 if in_test else 1 if in_val else 0
    return drawn


def _families_across(family: Ints, of_node: Ints) -> int:
    pairs = np.unique(np.stack([family, of_node]), axis=1)
    return int(pairs.shape[1] - len(np.unique(family)))


def _keepers(samples: pa.Table, split: Ints) -> Ints:
    """Return, for every sample, the row of the sample that is kept of those with its bytes."""
    images, _ = _codes(samples["sha256"])
    by_key = np.asarray(pc.array_sort_indices(samples["key"].combine_chunks())).astype(np.int64)
    key_rank = np.empty(len(by_key), np.int64)
    key_rank[by_key] = np.arange(len(by_key))
    order = np.lexsort((key_rank, -split, images))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = images[order][1:] != images[order][:-1]
    firsts = order[is_first]
    keeper = np.empty(len(order), np.int64)
    keeper[order] = firsts[np.cumsum(is_first) - 1]
    return keeper


def _order(samples: pa.Table, split: Ints, seed: int) -> Ints:
    """Return the rows by split, shuffled inside each: by a hash of the seed and of the key's rank."""
    by_key = np.asarray(pc.array_sort_indices(samples["key"].combine_chunks())).astype(np.int64)
    ticket = np.empty(len(by_key), np.uint64)
    ticket[by_key] = hash_u64("pack-order", seed, np.arange(len(by_key)))
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


def _license_rejects(dropped: pa.Table, config: PackConfig) -> list[dict[str, str]]:
    allowed = ", ".join(config.license_groups)
    columns = (dropped[name].to_pylist() for name in ("source", "key", "license", "license_group"))
    return [
        _reject(source, key, RejectReason.LICENSE_NOT_ALLOWED, f"{name} is {group}; allowed: {allowed}")
        for source, key, name, group in zip(*columns, strict=True)
    ]


def _duplicate_rejects(samples: pa.Table, keeper: Ints, dropped: Ints) -> list[dict[str, str]]:
    columns = samples.select(["source", "key"])
    sources, keys = (columns[name].take(dropped).to_pylist() for name in ("source", "key"))
    kept = columns["key"].take(keeper[dropped]).to_pylist()
    return [
        _reject(source, key, RejectReason.DUPLICATE_EXACT, f"same bytes as {other}")
        for source, key, other in zip(sources, keys, kept, strict=True)
    ]


def _reject(source: str, key: str, reason: RejectReason, detail: str) -> dict[str, str]:
    return {"source": source, "item": key, "stage": str(Stage.PLAN), "reason": str(reason), "detail": detail}
