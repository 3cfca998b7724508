"""Arithmetic of retrieval with one caption an image, where several images may share one caption.

Legend: n images, each with one caption; U distinct captions; `text_of_image` (n,) says which caption an image has.
A caption whose text equals the image's own is correct, whichever image it came with. Rank 1 is best; a wrong candidate
that ties with the best correct one counts as ahead of it (pessimistic), so that ties never flatter. The n x n matrix
is never held: chunks of queries are ranked one after the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RECALLS = (1, 5, 10)
CHUNK_QUERIES = 1024


def image_to_text_ranks(images: Singles, texts: Singles, text_of_image: Ints) -> Ints:
    """Return the rank of the best correct caption for each image, shape (n,), among n captions.

    Args:
        images: unit-length image embeddings, shape (n, D).
        texts: unit-length embeddings of the distinct captions, shape (U, D).
        text_of_image: caption of each image, shape (n,).
    """
    copies = np.bincount(text_of_image, minlength=len(texts)).astype(np.int64)
    ranks = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), CHUNK_QUERIES):
        chunk = slice(start, start + CHUNK_QUERIES)
        scores = images[chunk] @ texts.T
        own = text_of_image[chunk]
        best = np.take_along_axis(scores, own[:, None], axis=1)
        ranks[chunk] = 1 + (scores >= best) @ copies - copies[own]
    return ranks


def text_to_image_ranks(images: Singles, texts: Singles, text_of_image: Ints) -> Ints:
    """Return the rank of the best correct image for each image's caption, shape (n,), among n images."""
    ranks = np.empty(len(texts), dtype=np.int64)
    for start in range(0, len(texts), CHUNK_QUERIES):
        scores = texts[start : start + CHUNK_QUERIES] @ images.T
        correct = text_of_image[None, :] == np.arange(start, start + len(scores))[:, None]
        best = np.where(correct, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[start : start + len(scores)] = 1 + ((scores >= best) & ~correct).sum(axis=1)
    return ranks[text_of_image]


def retrieval_metrics(ranks: Ints, weights: Floats) -> dict[str, Floats]:
    """Return recall at 1, 5 and 10 (as far as the gallery reaches), MRR and median rank, each of shape (B,).

    Args:
        ranks: rank of the best correct candidate of each of the n queries, in a gallery of n, shape (n,).
        weights: weights of the queries, shape (B, n).
    """
    total = weights.sum(axis=1)
    metrics = {f"recall@{k}": weights @ (ranks <= k) / total for k in RECALLS if k < len(ranks)}
    metrics["mrr"] = weights @ (1.0 / ranks) / total
    metrics["median_rank"] = weighted_median(ranks.astype(np.float64), weights)
    return metrics


def chance_metrics(text_of_image: Ints) -> dict[str, float]:
    """Return what a random order of the gallery scores in expectation, identical captions counted as correct.

    A query with m correct candidates among n finds its first one beyond rank r with probability
    (n-m choose r) / (n choose r). The median is that of the ranks of all queries together.
    """
    n = len(text_of_image)
    copies = np.bincount(text_of_image)[text_of_image]
    kinds, counts = np.unique(copies, return_counts=True)
    share = counts / n
    beyond = share @ np.stack([_beyond(n, int(m)) for m in kinds])  # beyond[r] = P(rank > r), r = 0 … n
    at = beyond[:-1] - beyond[1:]  # at[r-1] = P(rank = r)
    metrics = {f"recall@{k}": float(1 - beyond[k]) for k in RECALLS if k < n}
    metrics["mrr"] = float(at @ (1.0 / np.arange(1, n + 1)))
    metrics["median_rank"] = float(np.argmax(beyond <= 0.5 + 1e-12))
    return metrics


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """Return the weighted median, shape (B,): the midpoint where half of the weight lies exactly between two values."""
    order = np.argsort(values, kind="stable")
    ordered, running = values[order], np.cumsum(weights[:, order], axis=1)
    half = running[:, -1:] / 2
    lower = np.argmax(running >= half, axis=1)
    upper = np.argmax(running > half, axis=1)
    median: Floats = (ordered[lower] + ordered[upper]) / 2
    return median


def _beyond(n: int, m: int) -> Floats:
    """P(first of m correct among n lies beyond rank r) for r = 0 … n."""
    drawn = np.arange(n)
    factors = np.clip((n - m - drawn) / (n - drawn), 0.0, 1.0)
    return np.concatenate([[1.0], np.cumprod(factors)])
