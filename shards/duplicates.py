"""Which of the samples with the same bytes, picture or captions is kept.

Of equal bytes the sample in the most protected split is kept, then one whose split is official, then the smallest key.
Of the same picture likewise, but before the smallest key comes the one with more pixels; every dropped one was itself
compared with the one it is dropped for. Captions come last, in the same order of preference.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.splits import codes_of, image_pairs

Ints = npt.NDArray[np.int64]

_KEPT, _OPEN, _DROPPED = 1, 0, -1


def key_ranks(samples: pa.Table) -> Ints:
    """Return each sample's place in the order of keys."""
    by_key = np.asarray(pc.array_sort_indices(samples["key"].combine_chunks())).astype(np.int64)
    ranks = np.empty(len(by_key), np.int64)
    ranks[by_key] = np.arange(len(by_key))
    return ranks


def exact_keepers(samples: pa.Table, split: Ints) -> Ints:
    """Return, for every sample, the row of the sample that is kept of those with its bytes."""
    images, _ = codes_of(samples["sha256"])
    order = np.lexsort((key_ranks(samples), ~_is_official(samples), -split, images))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = images[order][1:] != images[order][:-1]
    firsts = order[is_first]
    keeper = np.empty(len(order), np.int64)
    keeper[order] = firsts[np.cumsum(is_first) - 1]
    return keeper


def _is_official(samples: pa.Table) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_valid(samples["split"]))


def near_keepers(samples: pa.Table, split: Ints, exact: Ints, near: pa.Table) -> tuple[Ints, Ints]:
    """Return what is dropped as the same picture as another sample.

    Args:
        samples: the planned samples.
        split: (N,), their splits' codes.
        exact: (N,), what `exact_keepers` gave.
        near: the confirmed pairs, columns `first` and `second` of sha256.

    Returns:
        (K,) the dropped rows, and (K,) the rows that they are dropped for.
    """
    images, names = codes_of(samples["sha256"])
    row_of = np.empty(len(names), np.int64)
    row_of[images] = exact
    pairs = image_pairs(near, names)
    if not pairs.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.lexsort((key_ranks(samples), -np.asarray(samples["pixels"]), ~_is_official(samples), -split))
    rank = np.empty(len(samples), np.int64)
    rank[order] = np.arange(len(order))
    keeper = _greedy(pairs, rank[row_of])
    dropped = np.flatnonzero(keeper != np.arange(len(names)))
    return row_of[dropped], row_of[keeper[dropped]]


def _greedy(pairs: Ints, rank: Ints) -> Ints:
    """Take items in the order of their rank and drop the neighbours of each one taken.

    All items that come before their undecided neighbours are taken at once, which gives the same.

    Returns:
        (N,), for a dropped item the first of the taken ones beside it, else the item itself.
    """
    ends = np.concatenate([pairs, pairs[::-1]], axis=1)
    state = np.full(len(rank), _KEPT, np.int64)
    state[ends[0]] = _OPEN
    while (state == _OPEN).any():
        is_open = (state[ends[0]] == _OPEN) & (state[ends[1]] == _OPEN)
        taken = (state == _OPEN) & (rank < _least_rank(ends[:, is_open], rank))
        state[taken] = _KEPT
        state[ends[1][taken[ends[0]]]] = _DROPPED
    by_rank = np.argsort(rank)
    kept_beside = _least_rank(ends[:, state[ends[1]] == _KEPT], rank)
    dropped = np.flatnonzero(state == _DROPPED)
    keeper = np.arange(len(rank))
    keeper[dropped] = by_rank[np.searchsorted(rank[by_rank], kept_beside[dropped])]
    return keeper


def _least_rank(ends: Ints, rank: Ints) -> Ints:
    """Return, for every item, the least rank of the items that edges lead to from it."""
    least = np.full(len(rank), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(least, ends[0], rank[ends[1]])
    return least


def caption_keepers(samples: pa.Table, split: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Return which of the given rows hold only free texts that another of them, of another image, holds too.

    Args:
        samples: the planned samples; `texts` are hashes of their free texts, null where captions are made from labels.
        split: (N,), their splits' codes.
        rows: (M,), the rows that other rules keep, one an image.

    Returns:
        (K,) the dropped rows, and (K,) the kept rows that hold all their texts.
    """
    texts = samples["texts"].take(pa.array(rows)).to_pylist()
    counts = Counter(text for own in texts for text in set(own or ()))
    pixels, ranks = np.asarray(samples["pixels"])[rows], key_ranks(samples)[rows]
    holders: dict[int, set[int]] = {}
    dropped, keepers = [], []
    for position in np.lexsort((ranks, -pixels, -split[rows])).tolist():
        own = set(texts[position] or ())
        if not own or any(counts[text] < 2 for text in own):
            shared: set[int] = set()
        else:
            shared = set.intersection(*(holders.get(text, set()) for text in own))
        if shared:
            dropped.append(rows[position])
            keepers.append(rows[min(shared, key=lambda other: ranks[other])])
            continue
        for text in own:
            holders.setdefault(text, set()).add(position)
    return np.array(dropped, np.int64), np.array(keepers, np.int64)
