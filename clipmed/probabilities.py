"""Probabilities of cosines, and how far they can be believed. Legend: n images, C classes.

Logits are cosines times a scale: the one that training left, or one fitted by likelihood on images with known labels
(temperature scaling, Guo et al. 2017, arXiv 1706.04599). The temperature is the first over the second.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
SCALES = (1e-2, 1e5)  # where a fitted scale is looked for
_EXACT = 1e-9  # of the logarithm of the scale


def softmax(logits: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def negative_log_likelihoods(targets: Ints, logits: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return -log p of each image's true class, shape (n,), in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    losses: Floats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    return losses


def confidence_bins(confidences: Floats, num_bins: int = CALIBRATION_BINS) -> Ints:
    """Return the bin of each confidence, shape (n,): bin b of N holds (b / N, (b + 1) / N], the first one 0 too."""
    edges = np.linspace(0, 1, num_bins + 1)
    bins: Ints = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1).astype(np.int64)
    return bins


def expected_calibration_error(confidences: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, weighted by their images.

    Args:
        confidences: highest probabilities, shape (n,).
        correct: whether the most probable class is the true one, shape (n,).
    """
    gaps = np.bincount(confidence_bins(confidences), weights=correct - confidences, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def fit_scale(targets: Ints, cosines: npt.NDArray[np.floating[Any]]) -> float:
    """Return the scale of cosines of highest likelihood.

    The likelihood has one peak, or none: where every image is right it rises without end, and the higher of `SCALES` is
    returned; where true classes have no higher cosine than the others on average it only falls, and the lower one is.

    Args:
        targets: true classes, shape (n,).
        cosines: shape (n, C).
    """
    true = cosines[np.arange(len(targets)), targets].astype(np.float64)
    if (true >= cosines.max(axis=1)).all():
        return SCALES[1]
    if true.mean() <= cosines.mean(dtype=np.float64):
        return SCALES[0]
    wide, mean = cosines.astype(np.float64), float(true.mean())
    low, high = (math.log(scale) for scale in SCALES)
    while high - low > _EXACT:  # the slope of the mean likelihood over the scale falls all along
        middle = (low + high) / 2
        expected = (softmax(wide * math.exp(middle)) * wide).sum(axis=1).mean()
        low, high = (middle, high) if expected < mean else (low, middle)
    return math.exp((low + high) / 2)
