"""Arithmetic of zero-shot classification on cosines. Legend: n images, C classes, B sets of weights, P prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def prompt_ensemble(embeddings: Singles, counts: Sequence[int]) -> Singles:
    """Return unit-length classifier rows, shape (C, D): the mean of each class's unit-length prompts, normalised.

    Args:
        embeddings: unit-length prompt embeddings, shape (P, D), class after class.
        counts: prompts of each class; they sum to P.
    """
    starts = np.cumsum([0, *counts[:-1]])
    means = np.add.reduceat(embeddings, starts, axis=0) / np.asarray(counts, dtype=np.float32)[:, None]
    rows: Singles = means / np.linalg.norm(means, axis=1, keepdims=True)
    return rows


def confusion_matrix(targets: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Return counts, shape (C, C): a row a true class, a column a predicted one."""
    flat = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def recalls(targets: Ints, predicted: Ints, weights: Floats, num_classes: int) -> Floats:
    """Return the recall of each class, shape (B, C); NaN where a class has no weight."""
    member = (targets[:, None] == np.arange(num_classes)).astype(np.float64)
    hits = member * (predicted == targets)[:, None]
    return _divide(weights @ hits, weights @ member)


def aurocs(targets: Ints, scores: npt.NDArray[np.floating], weights: Floats) -> Floats:
    """Return the one-vs-rest area under the ROC curve of each class, shape (B, C).

    A tie between a positive and a negative counts one half. NaN where a class has no positives or no negatives.

    Args:
        targets: true classes, shape (n,).
        scores: one column a class, shape (n, C).
        weights: weights of the images, shape (B, n).
    """
    columns = [_binary_auroc(targets == index, scores[:, index], weights) for index in range(scores.shape[1])]
    return np.stack(columns, axis=1)


def classification_metrics(targets: Ints, cosines: Singles, weights: Floats, logit_scale: float) -> dict[str, Floats]:
    """Return accuracy, balanced accuracy and macro one-vs-rest AUROC, each of shape (B,).

    The prediction is the class of the highest cosine, the first of equals. `auroc` ranks images by the class's
    probability, the softmax of the scaled cosines. `auroc_cosine` ranks them by the cosine alone, as some other suites
    do: it cannot see that an image is near to all classes, and stays near one half where that varies most. Macro
    metrics average over the classes that the weights leave with samples.
    """
    predicted = cosines.argmax(axis=1)
    correct = (predicted == targets).astype(np.float64)
    return {
        "accuracy": (weights @ correct) / weights.sum(axis=1),
        "balanced_accuracy": mean_defined(recalls(targets, predicted, weights, cosines.shape[1])),
        "auroc": mean_defined(aurocs(targets, log_odds(cosines * logit_scale), weights)),
        "auroc_cosine": mean_defined(aurocs(targets, cosines, weights)),
    }


def mean_defined(values: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is defined."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def log_odds(logits: npt.NDArray[np.floating]) -> Floats:
    """Return log(p / (1 - p)) of the softmax probabilities p, shape (n, C): their order, without saturating at 1."""
    columns = []
    for index in range(logits.shape[1]):
        others = np.delete(logits, index, axis=1).astype(np.float64)
        highest = others.max(axis=1)
        columns.append(logits[:, index] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1)))
    return np.stack(columns, axis=1)


def softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def _binary_auroc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating], weights: Floats) -> Floats:
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # the first of each run of equal scores
    sorted_weights, is_positive = weights[:, order], positive[order]
    positives = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
    negatives = np.add.reduceat(sorted_weights * ~is_positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    wins = (positives * (below + 0.5 * negatives)).sum(axis=1)
    return _divide(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    result: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
