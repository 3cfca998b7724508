"""Finding the clusters of a large index, and how many of them a query must look into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipmed.extras import require
from clipmed.search.choices import KindChoice
from clipmed.search.clusters import Clusters
from clipmed.search.layout import ClusterFacts
from clipmed.search.nearest import Candidates, Ints, Singles, add_all, exact_scores, unit_queries

if TYPE_CHECKING:
    import torch

LARGE_BYTES = 1 << 28  # of float32 embeddings: above, comparing a query with all of them takes some 10 ms
SEED = 7
TRAINING_ROWS = 64  # sampled for each cluster
ITERATIONS = 10
NEIGHBOURS = 10  # that recall is measured on
QUERIES = 200  # images, and texts, that recall is measured with
BLOCK_ROWS = 8192
USEFUL_SHARE = 0.25  # of the clusters: a search that must look into more gains little

_PLACES = ("chest", "brain", "abdomen", "knee", "breast", "spine", "heart", "liver", "skin", "retina")
_KINDS = ("X-ray", "CT", "MRI", "ultrasound image", "histology slide", "photograph")
_FINDINGS = ("without abnormality", "with a tumour", "with inflammation", "after surgery")
COMMON_TEXTS = tuple(
    f"a {kind} of the {place} {finding}" for kind in _KINDS for place in _PLACES for finding in _FINDINGS
)


@dataclass(frozen=True, slots=True)
class Clustering:
    """Whether to cluster, and what recall to reach."""

    kind: KindChoice
    recall: float


def is_large(rows: int, dimension: int) -> bool:
    """Whether an index of that size is worth clustering."""
    return 4 * rows * dimension > LARGE_BYTES


def choose_clusters(
    embeddings: npt.NDArray[np.floating],
    captions: Sequence[str],
    embed_texts: Callable[[Sequence[str]], torch.Tensor],
    wanted: Clustering,
) -> tuple[Clusters, ClusterFacts] | None:
    """Return clusters and how to search them, or None where comparing with everything is better.

    The number of clusters to look into is the smallest that reaches the recall for sampled images and for sampled
    texts: captions of the index, or common phrases where it has none. Texts lie apart from images, and need more.

    Args:
        embeddings: (N, D), in row order.
        captions: of the rows, distinct and sorted.
        embed_texts: the checkpoint's.
        wanted: whether to cluster; `auto` does if the index is large and few clusters reach the recall.
    """
    rows, dimension = embeddings.shape
    if wanted.kind == "exact" or (wanted.kind == "auto" and not is_large(rows, dimension)):
        return None
    clusters = cluster(embeddings)
    count = len(clusters.centroids)
    generator = np.random.default_rng(SEED)
    texts = _sample(captions or COMMON_TEXTS, generator)
    rows_asked = np.sort(generator.choice(rows, size=min(rows, QUERIES), replace=False))
    image_ranks = ranks_of_neighbours(
        clusters, embeddings, unit_queries(embeddings[rows_asked], dimension), themselves=True
    )
    text_ranks = ranks_of_neighbours(
        clusters, embeddings, unit_queries(embed_texts(texts), dimension), themselves=False
    )
    probes = max(_probes(ranks, wanted.recall) for ranks in (image_ranks, text_ranks))
    if wanted.kind == "auto" and probes > USEFUL_SHARE * count:
        return None
    return clusters, ClusterFacts(
        count=count,
        probes=probes,
        recall_images=round(float((image_ranks < probes).mean()), 4),
        recall_texts=round(float((text_ranks < probes).mean()), 4),
        sampled_images=len(rows_asked),
        sampled_texts=len(texts),
    )


def cluster(embeddings: npt.NDArray[np.floating]) -> Clusters:
    """Cluster embeddings (N, D) in row order by spherical k-means; the number of clusters is near 2 √N.

    Raises:
        ConfigError: Faiss is not installed.
    """
    faiss = require("faiss", "search")
    rows, dimension = embeddings.shape
    count = max(1, min(rows // 2, 1 << round(np.log2(2 * np.sqrt(rows)))))
    generator = np.random.default_rng(SEED)
    sample = np.sort(generator.choice(rows, size=min(rows, TRAINING_ROWS * count), replace=False))
    means = faiss.Kmeans(
        dimension, count, niter=ITERATIONS, spherical=True, seed=SEED, min_points_per_centroid=1,
        max_points_per_centroid=TRAINING_ROWS,
    )  # fmt: skip
    means.train(embeddings[sample].astype(np.float32))
    centroids = np.ascontiguousarray(means.centroids, dtype=np.float32)
    nearest = np.concatenate(
        [
            (embeddings[start : start + BLOCK_ROWS].astype(np.float32, copy=False) @ centroids.T).argmax(axis=1)
            for start in range(0, rows, BLOCK_ROWS)
        ]
    )
    sizes = np.bincount(nearest, minlength=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Clusters(centroids=centroids, offsets=offsets, rows=np.argsort(nearest, kind="stable").astype(np.int64))


def ranks_of_neighbours(
    clusters: Clusters, embeddings: npt.NDArray[np.floating], queries: Singles, *, themselves: bool
) -> Ints:
    """Return how many clusters come before those that hold each query's ten nearest neighbours, shape (Q, 10).

    The share of values below p is the recall of p probes.

    Args:
        clusters: of the embeddings.
        embeddings: (N, D), in row order.
        queries: (Q, D), of unit length.
        themselves: the queries are of the index; each is not counted as its own neighbour.
    """
    cluster_of = np.empty(len(embeddings), dtype=np.int64)
    cluster_of[clusters.rows] = np.repeat(np.arange(len(clusters.centroids)), np.diff(clusters.offsets))
    skipped = int(themselves)
    k = min(NEIGHBOURS + skipped, len(embeddings))
    candidates = [Candidates(k, embeddings.shape[1]) for _ in queries]
    add_all(candidates, queries, embeddings)
    ranks = []
    for one, query in zip(candidates, queries, strict=True):
        positions, scores = one.best(lambda at, query=query: exact_scores(query, embeddings, at))  # type: ignore[misc]
        found = positions[np.lexsort((positions, -scores))][skipped:k]
        rank_of = np.empty(len(clusters.centroids), dtype=np.int64)
        rank_of[clusters.ranked(query)] = np.arange(len(rank_of))
        ranks.append(rank_of[cluster_of[found]])
    return np.stack(ranks)


def _probes(ranks: Ints, recall: float) -> int:
    """Return the fewest probes that find this share of the neighbours."""
    in_order = np.sort(ranks.ravel())
    return int(in_order[max(0, int(np.ceil(recall * in_order.size)) - 1)]) + 1


def _sample(texts: Sequence[str], generator: np.random.Generator) -> list[str]:
    return [texts[place] for place in np.sort(generator.choice(len(texts), min(len(texts), QUERIES), replace=False))]
