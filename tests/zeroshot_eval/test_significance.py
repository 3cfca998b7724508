"""Tests between two checkpoints, held to hand computation, scipy, jackknife and simulation."""

import numpy as np
import pytest
from scipy import stats

from clipmed.errors import DataError
from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.significance import (
    auroc_covariance,
    bootstrap_p_value,
    delong,
    difference_of,
    holm,
    mcnemar,
    paired_differences,
    verdict,
)

# Two readers, 3 positives and 3 negatives. Reader A: positives 5 3 2, negatives 4 2 1; of 9 pairs A orders
# 3 + 2 + 1.5 = 6.5 rightly (the tie 2 : 2 counts one half); B orders all but (2, 3) and (2, 4).
POSITIVE = np.array([True, True, True, False, False, False])
READER_A = np.array([5.0, 3.0, 2.0, 4.0, 2.0, 1.0])
READER_B = np.array([6.0, 5.0, 2.0, 4.0, 3.0, 1.0])


def areas_by_pairs(positive, scores, weights=None):
    weights = np.ones(len(positive)) if weights is None else weights
    ahead = (scores[positive][:, None] > scores[~positive]) + 0.5 * (scores[positive][:, None] == scores[~positive])
    pairs = weights[positive][:, None] * weights[~positive]
    return (ahead * pairs).sum() / pairs.sum()


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 2**5),  # all five in one direction: two of 32 outcomes
        (1, 5, 2 * (1 + 6) / 2**6),
        (3, 3, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar_is_the_exact_sign_test(only_first, only_second, p_value):
    both = np.array([True] * 4 + [False] * 3)
    first = np.concatenate([both, np.ones(only_first, bool), np.zeros(only_second, bool)])
    second = np.concatenate([both, np.zeros(only_first, bool), np.ones(only_second, bool)])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value)


def test_delong_of_six_images_by_hand():
    """A: components of positives (1, 2/3, 1/2), of negatives (1/3, 5/6, 1). B: (1, 1, 1/3) and (2/3, 2/3, 1)."""
    areas, covariance = auroc_covariance(POSITIVE, np.stack([READER_A, READER_B]))
    assert areas == pytest.approx([6.5 / 9, 7 / 9])
    positives = np.array([[1, 2 / 3, 1 / 2], [1, 1, 1 / 3]])
    negatives = np.array([[1 / 3, 5 / 6, 1], [2 / 3, 2 / 3, 1]])
    assert covariance == pytest.approx(np.cov(positives) / 3 + np.cov(negatives) / 3)
    found = delong(POSITIVE, READER_A, READER_B)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.standard_error == pytest.approx(variance**0.5)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.5 / 9 / variance**0.5))


def test_delong_agrees_with_pairs_and_with_the_jackknife():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=(2, 300)) + positive + rng.normal(size=300), 1)  # with ties, correlated
    areas, covariance = auroc_covariance(positive, scores)
    assert areas == pytest.approx([areas_by_pairs(positive, row) for row in scores])
    left_out = np.array(
        [[areas_by_pairs(np.delete(positive, i), np.delete(row, i)) for i in range(300)] for row in scores]
    )
    jackknife = np.cov(left_out, bias=True) * 299
    assert covariance == pytest.approx(jackknife, rel=0.03)


def test_groups_widen_delong_as_the_group_jackknife_does():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(80), 5)
    positive = np.repeat(rng.random(80) < 0.5, 5)
    positive[::7] ^= True  # groups of both kinds
    shared = np.repeat(rng.normal(size=(2, 80)), 5, axis=1)
    scores = shared + 0.3 * rng.normal(size=(2, 400)) + positive
    names = [f"patient {number}" for number in group]
    _, single = auroc_covariance(positive, scores)
    _, grouped = auroc_covariance(positive, scores, names)
    left_out = [[areas_by_pairs(positive[group != g], row[group != g]) for g in range(80)] for row in scores]
    jackknife = np.cov(left_out, bias=True) * 79
    assert grouped == pytest.approx(jackknife, rel=0.08, abs=2e-5)
    assert grouped[0, 0] > 2 * single[0, 0]
    _, alone = auroc_covariance(positive, scores, [str(number) for number in range(400)])
    assert alone == pytest.approx(single)


def test_delong_of_equal_scores_is_no_difference_and_needs_two_of_each():
    assert delong(POSITIVE, READER_A, READER_A).p_value == 1.0
    with pytest.raises(DataError, match="got 1 positives of 1 groups and 5 negatives of 5; allowed: two groups"):
        delong(np.array([True] + [False] * 5), READER_A, READER_B)


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .06, never falling."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def accuracy_of(right):
    return lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)}


def test_paired_differences_use_the_same_draws():
    """Two checkpoints that differ by the same on every image differ by that in every replicate."""
    values = np.random.default_rng(0).normal(size=60)
    groups = [str(number // 3) for number in range(60)]
    found = paired_differences(accuracy_of(values), accuracy_of(values + 0.25), groups, BootstrapConfig(samples=200))
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((0.25, 0.25))
    assert found["accuracy"].difference == pytest.approx(0.25)
    assert found["accuracy"].p_value == pytest.approx(2 / 201)
    only = paired_differences(accuracy_of(values), accuracy_of(values), ["one"] * 60, BootstrapConfig())["accuracy"]
    assert (only.low, only.high, only.p_value) == (None, None, None)


def test_p_values_are_uniform_where_nothing_differs():
    """400 pairs of checkpoints equally right: one in twenty p-values falls below 0.05, within Monte-Carlo error."""
    below = 0
    for study in range(400):
        rng = np.random.default_rng(study)
        chance = np.repeat(rng.random(60), 3)  # a group's images are alike in difficulty
        first, second = (rng.random((2, 180)) < chance).astype(float)
        groups = [f"{study}-{number // 3}" for number in range(180)]
        found = paired_differences(accuracy_of(first), accuracy_of(second), groups, BootstrapConfig(samples=300))
        below += (found["accuracy"].p_value or 1.0) < 0.05
    assert 0.02 <= below / 400 <= 0.085


def test_p_value_counts_the_thinner_side():
    assert bootstrap_p_value(np.array([-1.0] * 9 + [1.0] * 90)) == pytest.approx(2 * 10 / 100)
    assert bootstrap_p_value(np.zeros(99)) == 1.0
    assert bootstrap_p_value(np.array([1.0] * 99), null=2.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("replicates", "adjusted", "lower_is_better", "expected"),
    [
        (np.linspace(0.1, 0.3, 100), 0.01, False, "win"),
        (np.linspace(0.1, 0.3, 100), 0.01, True, "loss"),
        (np.linspace(-0.3, -0.1, 100), 0.01, False, "loss"),
        (np.linspace(0.1, 0.3, 100), 0.2, False, "tie"),  # not after Holm
        (np.linspace(-0.1, 0.3, 100), 0.01, False, "tie"),  # the interval holds 0
        (np.empty(0), None, False, "tie"),
    ],
)
def test_verdict_needs_the_p_value_and_the_interval(replicates, adjusted, lower_is_better, expected):
    middle = float(replicates.mean()) if len(replicates) else 0.3
    difference = difference_of(0.5, 0.5 + middle, replicates, 0.95)
    assert verdict(difference, adjusted, 0.05, lower_is_better=lower_is_better) == expected
