"""The k largest inner products, the same whatever the number of queries, blocks or threads.

Legend of shapes: Q queries, B rows of a block, D dimensions, k hits.

A matrix product in float32 sums in an order that depends on its shape, so its last bits do too. Here it only chooses
candidates: all whose score comes within the error bound of the k-th best. Those are scored again in float64, each row
by itself, and sorted by score and then by row.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.errors import ClipmedError

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BLOCK_BYTES = 8 << 20  # of float32 rows that are multiplied at once
STRIP_BYTES = 2 << 20  # of float32 rows that a core scores at once, by few queries
STRIPS_OF_TASK = 8  # that a core takes at a time
FEW_QUERIES = 4  # up to so many, a product of matrices is slower than row by row
RESCORED_BYTES = 32 << 20  # of float64 rows that are scored again at once
SLACK = 4096  # candidates beyond k that may gather before the weakest are dropped


class Candidates:
    """The positions that may be among the k best of one query."""

    def __init__(self, k: int, dimension: int) -> None:
        self._k = k
        # |error of a float32 sum of D products| <= D u |q| |x|, u = 2**-24, in any order (Higham 2002, eq. 3.5). Two
        # such scores are compared, and lengths may be a little above 1.
        self._margin = np.float32(2.2 * dimension * 2.0**-24)
        self._floor = np.float32(-np.inf)
        self._scores: list[Singles] = []
        self._positions: list[Ints] = []
        self._gathered = 0

    def add(self, scores: Singles, first: int) -> None:
        """Take in the scores (B,) of the positions first … first + B - 1."""
        if not self._positions and scores.size > self._k:
            # the k-th of some is at most the k-th of all
            self._floor = _kth(scores[: self._k + SLACK], self._k) - self._margin
        kept = np.flatnonzero(scores >= self._floor)
        if kept.size:
            self.add_chosen(scores[kept], kept + first)

    def add_chosen(self, scores: Singles, positions: Ints) -> None:
        """Take in the scores of some positions."""
        self._scores.append(scores)
        self._positions.append(positions)
        self._gathered += scores.size
        if self._gathered > self._k + SLACK:
            self._drop_weak()

    def best(self, score: Callable[[Ints], Doubles]) -> tuple[Ints, Doubles]:
        """Return the positions and scores of all that can be among the k best; `score` gives exact scores.

        Those that tie with the k-th are among them.
        """
        if self._gathered > 2 * self._k:  # else scoring them all is no more work
            self._drop_weak()
        positions = np.concatenate(self._positions)
        exact = score(positions)
        kept = exact >= _kth(exact, self._k)
        return positions[kept], exact[kept]

    def _drop_weak(self) -> None:
        scores, positions = np.concatenate(self._scores), np.concatenate(self._positions)
        self._floor = _kth(scores, self._k) - self._margin
        kept = scores >= self._floor
        self._scores, self._positions = [scores[kept]], [positions[kept]]
        self._gathered = int(kept.sum())


def _kth(scores: npt.NDArray[Any], k: int) -> Any:
    """Return the k-th largest of the scores."""
    return np.partition(scores, scores.size - k)[scores.size - k]


def add_all(candidates: list[Candidates], queries: Singles, embeddings: npt.NDArray[np.floating]) -> None:
    """Score every embedding (N, D) by every query (Q, D), and give the scores to each query's candidates."""
    if len(queries) <= FEW_QUERIES:
        _add_all_by_few(candidates, queries, embeddings)
        return
    rows = max(1, BLOCK_BYTES // (4 * embeddings.shape[1]))
    for first in range(0, len(embeddings), rows):
        scores = embeddings[first : first + rows].astype(np.float32, copy=False) @ queries.T
        for one, own in zip(candidates, np.ascontiguousarray(scores.T), strict=True):
            one.add(own, first)


def _add_all_by_few(candidates: list[Candidates], queries: Singles, embeddings: npt.NDArray[np.floating]) -> None:
    """Do as `add_all`, row by row on every core: the memory is read once, as fast as it is."""
    scores = np.empty((len(queries), len(embeddings)), dtype=np.float32)
    strip = max(1, STRIP_BYTES // (4 * embeddings.shape[1]))
    task = STRIPS_OF_TASK * strip

    def score(begin: int) -> None:
        for first in range(begin, min(begin + task, len(embeddings)), strip):
            rows = embeddings[first : first + strip].astype(np.float32, copy=False)
            for query, out in zip(queries, scores, strict=True):
                np.vecdot(rows, query, out=out[first : first + strip])

    tasks = range(0, len(embeddings), task)
    if len(tasks) == 1:
        score(0)
    else:
        with concurrent.futures.ThreadPoolExecutor(_num_cores()) as pool:
            list(pool.map(score, tasks))
    for one, some in zip(candidates, scores, strict=True):
        one.add(some, 0)


def _num_cores() -> int:
    """How many cores this process may use; OMP_NUM_THREADS says so too."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def exact_scores(query: Singles, embeddings: npt.NDArray[np.floating], positions: Ints) -> Doubles:
    """Return the inner products of a query (D,) with the embeddings at these positions, each row summed by itself."""
    wide = query.astype(np.float64)
    step = max(1, RESCORED_BYTES // (8 * len(query)))
    parts = [
        (embeddings[positions[start : start + step]].astype(np.float64) * wide).sum(axis=1)
        for start in range(0, len(positions), step)
    ]
    return np.concatenate(parts)


def unit_queries(embeddings: Any, dimension: int) -> Singles:
    """Return queries as float32 of shape (Q, D), scaled to unit length.

    Raises:
        ClipmedError: another number of dimensions, values that are not finite, or a query of length zero.
    """
    detached = embeddings.detach().cpu().float() if hasattr(embeddings, "detach") else embeddings
    queries = np.atleast_2d(np.asarray(detached, dtype=np.float64))
    if queries.ndim != 2 or queries.shape[1] != dimension or not len(queries):
        raise ClipmedError(
            f"queries have the shape {np.shape(detached)}; allowed: (Q, {dimension}), as the index has {dimension} "
            "dimensions; embed them with the checkpoint that the index was built by"
        )
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if bad.size:
        raise ClipmedError(
            f"query {bad[0]} has the length {lengths[bad[0], 0]:g}; allowed: finite numbers that are not all zero"
        )
    return np.asarray(queries / lengths, dtype=np.float32)
