"""Arithmetic of choices. Legend: n questions, O most options, S sets, m statements, B sets of weights.

Scores are padded to shape (n, O) with NaN where a question has fewer options. A choice is the option of the strictly
highest score: where the best two tie, nothing is chosen (-1) and nothing is right, so that ties never flatter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def chosen(scores: Floats) -> Ints:
    """Return the index of the strictly highest score of each row, shape (n,); -1 where the highest two tie."""
    filled = np.where(np.isnan(scores), -np.inf, scores)
    best = filled.argmax(axis=1)
    tied = (filled == filled.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(tied, -1, best).astype(np.int64)


def set_index(set_ids: Sequence[str]) -> tuple[Ints, Ints]:
    """Return the set of each question, shape (n,), sets numbered as they come, and each set's first question, (S,)."""
    _, first, inverse = np.unique(np.asarray(set_ids), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse].astype(np.int64), first[order].astype(np.int64)


def all_of_set(correct: Bools, sets: Ints) -> Bools:
    """Return whether every question of a set is right, shape (S,)."""
    wrong = np.bincount(sets, weights=~correct)
    return np.asarray(wrong == 0)


def same_choice(choices: Ints, sets: Ints) -> Floats:
    """Return 1 where all questions of a set get the same option, else 0, shape (S,); NaN where one of them ties.

    Meant for sets whose questions have the same options and different answers: the rate is the confusion of
    MediConfusion.
    """
    num_sets = int(sets.max()) + 1
    lowest = np.full(num_sets, np.iinfo(np.int64).max)
    highest = np.full(num_sets, -1)
    np.minimum.at(lowest, sets, choices)
    np.maximum.at(highest, sets, choices)
    return np.where(lowest < 0, np.nan, (lowest == highest).astype(np.float64))


def pairs_matched(scores: Floats, answers: Ints, sets: Ints) -> Floats:
    """Return 1 where the right assignment of a pair's two options to its two images scores higher, shape (S,).

    s(image 1, its option) + s(image 2, its option) > s(image 1, other's) + s(image 2, other's), strictly: a preference
    for one option, whatever the image, cannot win. NaN for sets that are no pair of two options with different answers.
    """
    counts = np.bincount(sets)
    matched = np.full(len(counts), np.nan)
    order = np.argsort(sets, kind="stable")
    starts = np.cumsum(counts) - counts
    for number in np.flatnonzero(counts == 2):
        one, two = order[starts[number] : starts[number] + 2]
        two_options = (~np.isnan(scores[[one, two]])).sum(axis=1).tolist() == [2, 2]
        if two_options and answers[one] != answers[two]:
            right = scores[one, answers[one]] + scores[two, answers[two]]
            crossed = scores[one, answers[two]] + scores[two, answers[one]]
            matched[number] = float(right > crossed)
    return matched


def halves(groups: Sequence[str], seed: int) -> Ints:
    """Return 0 or 1 for each row, shape (m,): groups dealt at random to two halves, whole groups each."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    side = np.random.default_rng(seed).permutation(len(names)) % 2
    return side[index].astype(np.int64)


def judged(scores: Floats, truths: Bools, categories: Sequence[str], half: Ints) -> Floats:
    """Return 1 where a statement is judged rightly, 0 where wrongly, shape (m,); NaN where it cannot be judged.

    A statement is called true where its score is above a threshold: that of its category, fitted on the half that it
    is not in for the highest balanced accuracy. A category whose other half has not both kinds gives NaN.
    """
    right = np.full(len(scores), np.nan)
    names = np.asarray(categories)
    for name in np.unique(names):
        for side in (0, 1):
            fit, asked = (names == name) & (half != side), (names == name) & (half == side)
            if truths[fit].any() and not truths[fit].all():
                threshold = best_threshold(scores[fit], truths[fit])
                right[asked] = (scores[asked] > threshold) == truths[asked]
    return right


def best_threshold(scores: Floats, truths: Bools) -> float:
    """Return the threshold of the highest balanced accuracy: midway between two scores, the lowest of equals."""
    order = np.argsort(scores, kind="stable")
    ranked, positive = scores[order], truths[order]
    above = positive[::-1].cumsum()[::-1] / positive.sum()  # share of the true ones at or above each place
    below = np.concatenate([[0], (~positive).cumsum()[:-1]]) / (~positive).sum()  # of the false ones below it
    cuts = np.concatenate([[True], np.diff(ranked) > 0])
    place = int(np.where(cuts, above + below, -1.0).argmax())
    return -np.inf if place == 0 else float((ranked[place - 1] + ranked[place]) / 2)


def weighted_means(values: Floats, weights: Floats) -> Floats:
    """Return the mean of each column over the rows where it is not NaN, shape (B, K); NaN without weight.

    Args:
        values: shape (n, K).
        weights: shape (B, n).
    """
    defined = ~np.isnan(values)
    totals = weights @ defined
    sums = weights @ np.where(defined, values, 0.0)
    means: Floats = np.full(totals.shape, np.nan)
    np.divide(sums, totals, out=means, where=totals > 0)
    return means


def require_unit_length(embeddings: npt.NDArray[np.floating], what: str) -> Floats:
    """Return embeddings as float64, shape (N, D).

    Raises:
        DataError: one is not finite or not of length one.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    bad = ~(np.abs(lengths - 1) < 1e-2)  # true for NaN too
    if bad.any():
        place = int(bad.argmax())
        raise DataError(
            f"{what}: embedding {place} of {len(rows)} has length {lengths[place]}; finite ones of length 1 are needed"
        )
    return rows
