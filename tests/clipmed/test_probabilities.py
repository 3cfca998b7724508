"""Calibration's arithmetic against scales that are known, hand-computed bins, and an optimiser of scipy's."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from clipmed.probabilities import (
    SCALES,
    confidence_bins,
    expected_calibration_error,
    fit_scale,
    negative_log_likelihoods,
    softmax,
)


def drawn(scale: float, count: int, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Truths that are drawn from the softmax of cosines at `scale`: calibrated at that scale alone."""
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-0.3, 0.5, (count, classes)).astype(np.float32)
    cumulated = softmax(cosines * scale).cumsum(axis=1)
    return (rng.random((count, 1)) > cumulated[:, :-1]).sum(axis=1), cosines


@pytest.mark.parametrize("scale", [0.5, 8.0, 60.0])
def test_a_known_scale_is_found(scale):
    targets, cosines = drawn(scale, 40_000)
    assert fit_scale(targets, cosines) == pytest.approx(scale, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_scipy(seed):
    targets, cosines = drawn(12.0, 150, seed)
    found = minimize_scalar(
        lambda exponent: negative_log_likelihoods(targets, cosines * np.exp(exponent)).mean(),
        bounds=np.log(SCALES),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_scale(targets, cosines) == pytest.approx(float(np.exp(found.x)), rel=1e-5)


def test_a_likelihood_without_a_peak_gives_an_end():
    cosines = np.array([[0.5, 0.1], [0.1, 0.5]])
    assert fit_scale(np.array([0, 1]), cosines) == SCALES[1]
    assert fit_scale(np.array([1, 0]), cosines) == SCALES[0]


def test_hand_computed_error():
    confidences = np.array([0.9, 0.9, 0.9, 0.6])
    correct = np.array([True, True, False, True])
    # the bin of 0.9 holds three, two of them right: a gap of 0.9 - 2/3; that of 0.6 one, right: a gap of 0.4
    assert expected_calibration_error(confidences, correct) == pytest.approx((3 * (0.9 - 2 / 3) + 0.4) / 4)


def test_bins_hold_their_upper_end():
    assert confidence_bins(np.array([0.0, 0.25, 0.26, 1.0]), 4).tolist() == [0, 0, 1, 3]


def test_likelihoods_and_probabilities_agree():
    targets, cosines = drawn(12.0, 50)
    expected = -np.log(softmax(cosines * 30)[np.arange(50), targets])
    np.testing.assert_allclose(negative_log_likelihoods(targets, cosines * 30), expected)
    assert np.isfinite(negative_log_likelihoods(targets, cosines * 1e6)).all()
