"""Areas under the ROC and the precision-recall curve for many sets of weights at once.

Legend: n images, B sets of weights, C rankings. A ranking is sorted once; each set of weights then costs running sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]

BLOCK_NUMBERS = 250_000  # weights summed at once: 2 MB stay in the processor's cache
TINY = 1e-300
WIDE = 300  # columns from which adding row to row is faster than numpy's cumsum, up to three times


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images sorted by rising score. A run is a stretch of equal scores; m of the images are positive."""

    order: Ints
    """the ranked images, lowest score first"""
    places: Ints
    """the places of the positives in `order`, shape (m,)"""
    starts: Ints
    """where the run of each positive starts, shape (m,)"""
    ends: Ints
    """one past the end of the run of each positive, shape (m,)"""


def rank(positive: Bools, scores: Scores, known: Bools | None = None) -> Ranking:
    """Sort images by score.

    Args:
        positive: the positives, shape (n,).
        scores: shape (n,); finite.
        known: the images that are ranked at all, shape (n,); all of them if not given.
    """
    images = np.arange(len(scores)) if known is None else np.flatnonzero(known)
    order = images[np.argsort(scores[images], kind="stable")]
    places = np.flatnonzero(positive[order])
    first = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    bounds = np.append(first, len(order))
    run = np.searchsorted(first, places, side="right") - 1
    return Ranking(order, places, bounds[run], bounds[run + 1])


def rank_by_position(positive: Bools, scores: Scores) -> Ranking:
    """Sort images by score, equal ones by their position: the earlier image counts as the higher one."""
    order = np.argsort(-scores, kind="stable")[::-1]
    places = np.flatnonzero(positive[order])
    return Ranking(order, places, places, places + 1)


def rank_areas(rankings: Sequence[Ranking], weights: Floats) -> tuple[Floats, Floats]:
    """Return the area under the ROC curve and the average precision of each ranking, each of shape (B, C).

    A tie between a positive and a negative counts one half in the ROC area. Average precision is the mean precision at
    the thresholds of the positives, equal scores together and nothing interpolated, as in scikit-learn. Both are NaN
    where the weights leave a ranking without positives or without negatives: nothing is ranked there.

    Args:
        rankings: C rankings of the same n images.
        weights: weights of the images, shape (B, n).
    """
    rocs, precisions = np.full((2, len(weights), len(rankings)), np.nan)
    num_images = weights.shape[1]
    step = max(1, BLOCK_NUMBERS // max(num_images, 1))
    held = np.empty((2, (num_images + 1) * min(step, len(weights))))  # memory that is new costs more than the sums
    for start in range(0, len(weights), step):
        block = np.ascontiguousarray(weights[start : start + step].T)
        for index, ranking in enumerate(rankings):
            roc, precision = _areas(ranking, block, held)
            rocs[start : start + step, index], precisions[start : start + step, index] = roc, precision
    return rocs, precisions


def expected_average_precision(num_positives: int, num_images: int) -> float:
    """Return the mean average precision of all orders of the images, the value of scores that know nothing.

    It exceeds the share of positives, and approaches it as images grow: with m positives among n it is
    (H(n) + (m - 1) / (n - 1) (n - H(n))) / n, H(n) = 1 + 1/2 + … + 1/n.
    """
    if num_images == num_positives:
        return 1.0
    harmonic = float(np.sum(1.0 / np.arange(1, num_images + 1)))
    return (harmonic + (num_positives - 1) / (num_images - 1) * (num_images - harmonic)) / num_images


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotient; NaN where the denominator is not positive."""
    result: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def mean_defined(values: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def _areas(ranking: Ranking, columns: Floats, held: Floats) -> tuple[Floats, Floats]:
    """Return both areas, each of shape (B,), for weights of shape (n, B); `held` is memory for twice (n + 1) B."""
    size, width = len(ranking.order), columns.shape[1]
    ordered = held[0, : size * width].reshape(size, width)
    np.take(columns, ranking.order, axis=0, out=ordered, mode="clip")  # other modes copy once more
    own = ordered[ranking.places]
    everything = _running(ordered, held[1, : (size + 1) * width].reshape(size + 1, width))
    positives = _running(own, np.empty((len(own) + 1, width)))
    below, upto = everything[ranking.starts], everything[ranking.ends]
    own_below = positives[np.searchsorted(ranking.places, ranking.starts)]
    own_upto = positives[np.searchsorted(ranking.places, ranking.ends)]
    num_positives, num_images = positives[-1], everything[-1]
    num_negatives = num_images - num_positives
    upto += below
    upto -= own_below
    upto -= own_upto  # twice the negatives below a positive, and half of those level with it
    wins = np.einsum("mb,mb->b", own, upto) / 2
    selected = np.subtract(num_images, below, out=below)
    np.maximum(selected, TINY, out=selected)  # where nothing is selected, no positive has weight
    precisions = np.divide(num_positives - own_below, selected, out=selected)
    roc = divide(wins, num_positives * num_negatives)
    precision = divide(np.einsum("mb,mb->b", own, precisions), num_positives)
    precision[num_negatives <= 0] = np.nan
    return roc, precision


def _running(columns: Floats, sums: Floats) -> Floats:
    """Return sums of the first 0, 1, … rows, shape (rows + 1, B), in the given memory."""
    sums[0] = 0.0
    if columns.shape[1] < WIDE:
        np.cumsum(columns, axis=0, out=sums[1:])
    else:
        for row, below, upto in zip(columns, sums, sums[1:], strict=False):
            np.add(below, row, out=upto)
    return sums
