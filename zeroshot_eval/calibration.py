"""How far a checkpoint's probabilities can be believed: reliability by bin, and what a fitted temperature mends.

Legend: n images, C classes. Logits are cosines times a scale: the learned one, or one fitted on the validation split by
likelihood (temperature scaling, Guo et al. 2017); the temperature is the learned scale over the fitted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from clipmed.probabilities import CALIBRATION_BINS, SCALES, confidence_bins, fit_scale, softmax
from zeroshot_eval.classification import probability_statistic

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images, one or more, whose confidence (highest probability) lies in (low, high]; the first holds 0 too."""

    low: float
    high: float
    confidence: float
    """mean confidence"""
    accuracy: float
    """share of right predictions"""
    count: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Cosines of one split with their truth."""

    targets: Ints = field(repr=False)
    """true classes, shape (n,)"""
    cosines: Singles = field(repr=False)
    """shape (n, C)"""
    groups: Sequence[str] = field(repr=False)
    """the patient or study of each image, shape (n,)"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration at one scale of the cosines."""

    logit_scale: float
    ece: float
    brier: float
    nll: float
    bins: tuple[ReliabilityBin, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FittedCalibration:
    """Calibration on the test split at a scale that was fitted on another one, and says so."""

    calibration: Calibration
    temperature: float
    """the learned scale over the fitted one: above 1 where the checkpoint is too sure"""
    fitted_on: str
    """such as: 120 images of 60 groups of the split val"""
    at_bound: bool
    """the likelihood had no peak, and the scale is an end of those searched: all of the split is right, or chance"""


def calibration(answers: Answers, logit_scale: float) -> Calibration:
    """Return calibration error, Brier score, likelihood and reliability of the softmax of scaled cosines."""
    logits = answers.cosines * logit_scale
    found = probability_statistic(answers.targets, logits)(np.ones((1, len(logits))))
    ece, brier, nll = (float(found[name][0]) for name in ("ece", "brier", "nll"))
    return Calibration(logit_scale, ece, brier, nll, reliability_bins(answers, logit_scale))


def reliability_bins(
    answers: Answers, logit_scale: float, num_bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram, of equal width from 0 to 1, without the empty ones."""
    logits = answers.cosines * logit_scale
    confidences, correct = softmax(logits).max(axis=1), logits.argmax(axis=1) == answers.targets
    bins, found = confidence_bins(confidences, num_bins), []
    for number in np.unique(bins).tolist():
        inside = bins == number
        means = float(confidences[inside].mean()), float(correct[inside].mean())
        found.append(ReliabilityBin(number / num_bins, (number + 1) / num_bins, *means, int(inside.sum())))
    return tuple(found)


def scaled_calibration(
    test: Answers, validation: Answers, logit_scale: float, *, split: str = "val"
) -> FittedCalibration:
    """Fit the scale on the validation split and return the calibration of the test split at it.

    Args:
        test: the answers that are scored.
        validation: the answers that the scale is fitted on.
        logit_scale: the learned scale.
        split: name of the validation split, for the report.

    Raises:
        DataError: no validation images, or a group that both splits have: the fit would have seen the test.
    """
    if not len(validation.targets):
        raise DataError(f"temperature: the split {split} has no images of this task; fit on another one, or do without")
    if shared := sorted(set(test.groups) & set(validation.groups)):
        raise DataError(
            f"temperature: {len(shared)} groups, such as {shared[0]!r}, are in the split {split} and among those "
            "scored; allowed: splits without a common group"
        )
    fitted = fit_scale(validation.targets, validation.cosines)
    return FittedCalibration(
        calibration=calibration(test, fitted),
        temperature=logit_scale / fitted,
        fitted_on=f"{len(validation.targets)} images of {len(set(validation.groups))} groups of the split {split}",
        at_bound=fitted in SCALES,
    )
