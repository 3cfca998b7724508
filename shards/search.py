"""All pairs of 64-bit hashes within a few bits of each other, without comparing all pairs.

Multi-index hashing after Manku, Jain and Sarma (Detecting near-duplicates for web crawling, WWW 2007): the bits are cut
into `bits + KEY_BLOCKS` blocks. Two hashes that differ in at most `bits` bits agree in at least `KEY_BLOCKS` blocks, so
that one table for each choice of as many blocks brings every such pair side by side. A table is one sort of one
column; its runs of equal keys are compared column by column. At any time one table is held: 24 bytes a hash beside
the hashes themselves, and 8 bytes a pair found.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

from shards.randomness import U64

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KEY_BLOCKS = 3
MAX_RUN = 4096  # a hash is compared with so many neighbours of its run: crowds of like hashes stay affordable
_HASH_BITS = 64


def near_pairs(hashes: U64, bits: int, side: Mask | None = None) -> Ints:
    """Return the pairs of rows whose hashes differ in at most `bits` bits, each once, in order.

    Args:
        hashes: (N,), in any order; equal ones are pairs too.
        bits: from 0.
        side: (N,); where given, only pairs of a row that has it and one that has not.

    Returns:
        (2, P) row numbers, the smaller one first.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    sided = None if side is None else side[order]
    found, num_known = [np.empty(0, np.int64)], 0
    for mask in _masks(bits):
        found.append(_pairs_of_table(ordered, mask, bits, sided))
        if sum(map(len, found)) > 2 * num_known + 1_000_000:
            found = [np.unique(np.concatenate(found))]
            num_known = len(found[0])
    first, second = np.divmod(np.unique(np.concatenate(found)), max(len(hashes), 1))
    ends = np.sort(np.stack([order[first], order[second]]), axis=0)
    return ends[:, np.lexsort((ends[1], ends[0]))].astype(np.int64)


def num_tables(bits: int) -> int:
    """Return how many tables a search within so many bits sorts."""
    return 1 if bits == 0 else comb(bits + KEY_BLOCKS, KEY_BLOCKS)


def _masks(bits: int) -> list[np.uint64]:
    if bits == 0:
        return [np.uint64(2**_HASH_BITS - 1)]
    edges = np.linspace(0, _HASH_BITS, bits + KEY_BLOCKS + 1).round().astype(int).tolist()
    blocks = [((1 << end) - (1 << start)) for start, end in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(blocks, KEY_BLOCKS)]


def _pairs_of_table(hashes: U64, mask: np.uint64, bits: int, side: Mask | None) -> Ints:
    """Return the pairs of one table as codes: row * N + row, the smaller row first."""
    keys = hashes & mask
    order = np.argsort(keys, kind="stable")
    keys, ordered = keys[order], hashes[order]
    found, active = [np.empty(0, np.int64)], np.arange(len(keys) - 1)
    for step in range(1, min(MAX_RUN, len(keys) - 1) + 1):
        active = active[active < len(keys) - step]
        active = active[keys[active] == keys[active + step]]
        if not len(active):
            break
        close = active[np.bitwise_count(ordered[active] ^ ordered[active + step]) <= bits]
        if side is not None:
            close = close[side[order[close]] != side[order[close + step]]]
        ends = np.sort(np.stack([order[close], order[close + step]]), axis=0)
        found.append(ends[0] * len(keys) + ends[1])
    return np.unique(np.concatenate(found))
