"""Clustered indexes: similar embeddings lie together on the disk, and a query looks only into the nearest clusters.

An inverted file (Sivic and Zisserman 2003; Jégou, Douze and Schmid 2011) without compression, in plain arrays. Faiss
finds the centroids when the index is built, and is not needed to search. Its own index files are not used: reading one
that somebody else has made is not safe, and it would hold every embedding a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError
from clipmed.search.nearest import Candidates, Ints, Singles


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """C clusters of N embeddings."""

    centroids: Singles
    """(C, D)"""
    offsets: Ints
    """(C + 1,): where each begins and ends among the stored embeddings"""
    rows: Ints
    """(N,): the row of each stored embedding; rising within a cluster"""

    @cached_property
    def positions(self) -> Ints:
        """Where the embedding of each row is stored, shape (N,)."""
        positions = np.empty_like(self.rows)
        positions[self.rows] = np.arange(len(self.rows))
        return positions

    def ranked(self, query: Singles) -> Ints:
        """Return all clusters (C,), that with the largest inner product of centroid and query (D,) first."""
        return np.argsort(-(self.centroids @ query), kind="stable")

    def probed(self, query: Singles, probes: int, k: int) -> Ints:
        """Return the clusters to look into: `probes`, or more where those hold fewer than k embeddings."""
        order = self.ranked(query)
        held = np.cumsum(np.diff(self.offsets)[order])
        return order[: max(probes, int(np.searchsorted(held, k)) + 1)]


def add_probed(
    candidates: list[Candidates],
    queries: Singles,
    embeddings: npt.NDArray[np.floating],
    clusters: Clusters,
    probes_k: tuple[int, int],
) -> None:
    """Score the embeddings of each query's clusters and give them to its candidates.

    Args:
        candidates: of each query.
        queries: (Q, D).
        embeddings: (N, D), cluster by cluster.
        clusters: of the embeddings.
        probes_k: clusters to look into, and how many embeddings they must hold at least.
    """
    probes, k = probes_k
    if not 1 <= probes <= len(clusters.centroids):
        raise ConfigError(f"probes: got {probes}; allowed: 1 to {len(clusters.centroids)}, the number of clusters")
    asked_by: dict[int, list[int]] = {}
    for number, query in enumerate(queries):
        for cluster in clusters.probed(query, probes, k).tolist():
            asked_by.setdefault(cluster, []).append(number)
    found: list[list[tuple[Ints, Singles]]] = [[] for _ in queries]
    for cluster, numbers in asked_by.items():
        first, last = clusters.offsets[cluster : cluster + 2].tolist()
        block, positions = embeddings[first:last].astype(np.float32, copy=False), np.arange(first, last)
        for number in numbers:  # the block is read once; more queries find it in the processor's cache
            found[number].append((positions, np.vecdot(block, queries[number])))
    for one, pieces in zip(candidates, found, strict=True):
        every = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        one.add_chosen(every[1], every[0])
