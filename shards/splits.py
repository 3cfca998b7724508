"""Splits: which groups belong together, and which split each family of them goes to.

A group never straddles splits, and an official split always stands for its own group. Groups that share an exact image,
images of the same picture, or a name in several sources, are linked; a linked family without any official split is
drawn whole by a hash of the seed and its smallest group name. Where some groups of a family have official splits, the
others follow the most protected of them (test, then val, then train), so that no linked image leaks out of a test set.
An image or a picture that more than `max_linked_groups` groups share is boilerplate, such as a logo, and links none.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clipmed.errors import DataError
from clipmed.records import Split
from shards.config import PackConfig

Ints = npt.NDArray[np.int64]

SPLITS = tuple(str(split) for split in (Split.TRAIN, Split.VAL, Split.TEST))  # from least to most protected
_NONE = -1
_MAX_NAMED = 5


def draw_splits(samples: pa.Table, near: pa.Table, config: PackConfig) -> tuple[Ints, dict[str, int]]:
    """Return the split code of every sample, and counts of what linking did."""
    official = _official_codes(samples)
    names, group_names = codes_of(samples["group"])
    sources, _ = codes_of(samples["source"])
    pairs, node = np.unique(sources * max(len(group_names), 1) + names, return_inverse=True)
    node_name = pairs % max(len(group_names), 1)
    own = _official_of_groups(node, official, len(pairs), [group_names[name] for name in node_name])
    images, image_names = codes_of(samples["sha256"])
    pictures = picture_codes(near, image_names)
    shared, num_exact = _links(node, images, config)
    alike, num_near = _links(node, pictures[images], config)
    family = _families(shared, alike, node_name)
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
        "boilerplate_images": num_exact,
        "boilerplate_pictures": num_near,
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


def picture_codes(near: pa.Table, images: list[str]) -> Ints:
    """Return a code for each image, equal for the images that pairs of the same picture connect.

    Args:
        near: the pairs of images, columns `first` and `second`; ones of other images are passed over.
        images: the images' sha256, each once.
    """
    ends = image_pairs(near, images)
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(len(images), len(images)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def image_pairs(near: pa.Table, images: list[str]) -> Ints:
    """Return the pairs of the same picture as (2, P) positions in `images`."""
    known = pa.array(images, pa.string())
    ends = [pc.index_in(near[name], value_set=known) for name in ("first", "second")]
    positions = np.stack([np.asarray(pc.fill_null(end, _NONE)).astype(np.int64) for end in ends])
    return positions[:, (positions != _NONE).all(axis=0)]


def _links(node: Ints, item: Ints, config: PackConfig) -> tuple[Ints, int]:
    """Return the pairs (2, P) of group and image, or picture, that link, and how many are boilerplate."""
    pairs = np.unique(np.stack([node, item]), axis=1)
    num_sharing = np.bincount(pairs[1], minlength=1)
    is_boilerplate = (num_sharing > config.max_linked_groups) & (config.dedupe != "none")
    return pairs[:, ~is_boilerplate[pairs[1]]], int(is_boilerplate.sum())


def _families(images: Ints, pictures: Ints, node_name: Ints) -> Ints:
    """Return the linked family of every group: connected through equal images, pictures and names.

    Args:
        images: (2, P), the pairs of group and image.
        pictures: (2, Q), the pairs of group and picture.
        node_name: (G,), the name code of every group.
    """
    num_nodes = len(node_name)
    names = np.stack([np.arange(num_nodes), node_name])
    left, right, total = [], [], num_nodes
    for pairs in (images, pictures, names):
        left.append(pairs[0])
        right.append(total + pairs[1])
        total += int(pairs[1].max(initial=-1)) + 1
    ends = (np.concatenate(left), np.concatenate(right))
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(total, total))
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


def codes_of(column: pa.ChunkedArray) -> tuple[Ints, list[Any]]:
    """Return integer codes of a column's values, and the values."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    return np.asarray(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()
