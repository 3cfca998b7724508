"""Calibration against hand-computed bins, torchmetrics and scales that are known."""

import numpy as np
import pytest

from clipmed.errors import DataError
from clipmed.probabilities import softmax
from zeroshot_eval.calibration import SCALES, Answers, calibration, fit_scale, reliability_bins, scaled_calibration
from zeroshot_eval.classification import classification_metrics

THIRD = np.log(3.0) / 10  # two cosines so far apart give probabilities 3/4 and 1/4 at scale 10


def drawn(scale: float, n: int, seed: int, groups: str) -> Answers:
    """Cosines whose truth is drawn from their softmax at `scale`: calibrated at that scale alone."""
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-0.3, 0.5, (n, 4))
    cumulated = softmax(cosines * scale).cumsum(axis=1)
    targets = (rng.random((n, 1)) > cumulated[:, :-1]).sum(axis=1)
    return Answers(targets, cosines.astype(np.float32), [f"{groups}{number // 2}" for number in range(n)])


def test_hand_computed_bins():
    cosines = np.array([[THIRD, 0], [0, THIRD], [THIRD, 0], [0.2, 0.2]])
    bins = reliability_bins(Answers(np.array([0, 0, 0, 0]), cosines, "abcd"), 10.0, num_bins=4)
    # 3/4 belongs to (1/2, 3/4], of three images two right; 1/2 to (1/4, 1/2], the first of equals is right
    assert [(each.low, each.high, each.count) for each in bins] == [(0.25, 0.5, 1), (0.5, 0.75, 3)]
    assert [each.confidence for each in bins] == pytest.approx([1 / 2, 3 / 4])
    assert [each.accuracy for each in bins] == pytest.approx([1, 2 / 3])


def test_bins_give_the_calibration_error_that_is_scored():
    answers = drawn(12.0, 400, 0, "t")
    found = calibration(answers, 30.0)
    assert sum(each.count for each in found.bins) == 400
    gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in found.bins) / 400
    assert found.ece == pytest.approx(gaps)
    scored = classification_metrics(answers.targets, answers.cosines, np.ones((1, 400)), 30.0)
    assert (found.ece, found.brier, found.nll) == tuple(scored[name][0] for name in ("ece", "brier", "nll"))


def test_the_fitted_scale_is_the_one_that_drew_the_truth():
    validation, test = drawn(12.0, 20_000, 1, "v"), drawn(12.0, 4000, 2, "t")
    fitted = scaled_calibration(test, validation, 48.0)
    assert fitted.calibration.logit_scale == pytest.approx(12.0, rel=0.05)
    assert fitted.temperature == pytest.approx(4.0, rel=0.05)
    assert not fitted.at_bound
    assert fitted.fitted_on == "20000 images of 10000 groups of the split val"
    learned = calibration(test, 48.0)
    assert fitted.calibration.ece < 0.03 < 0.15 < learned.ece
    assert fitted.calibration.nll < learned.nll


def test_the_fit_is_the_best_of_a_fine_grid():
    answers = drawn(7.0, 60, 3, "v")
    at = calibration(answers, fit_scale(answers.targets, answers.cosines)).nll
    assert all(at <= calibration(answers, scale).nll + 1e-9 for scale in np.geomspace(0.5, 100, 200))


def test_a_split_without_a_peak_is_marked():
    cosines = np.eye(4, dtype=np.float32)
    test = drawn(12.0, 20, 4, "t")
    right = scaled_calibration(test, Answers(np.arange(4), cosines, "abcd"), 10.0)
    assert right.at_bound
    assert right.calibration.logit_scale == SCALES[1]
    wrong = scaled_calibration(test, Answers(np.array([1, 2, 3, 0]), cosines, "abcd"), 10.0, split="train")
    assert wrong.at_bound
    assert wrong.calibration.logit_scale == SCALES[0]
    assert wrong.fitted_on.endswith("of the split train")


def test_fitting_on_what_is_scored_is_refused():
    answers = drawn(12.0, 20, 0, "t")
    with pytest.raises(DataError, match="10 groups, such as 't0', are in the split val and among those scored"):
        scaled_calibration(answers, answers, 10.0)
    nothing = Answers(np.array([], dtype=int), np.empty((0, 4), dtype=np.float32), [])
    with pytest.raises(DataError, match="the split val has no images of this task"):
        scaled_calibration(answers, nothing, 10.0)
