"""Linear and few-shot probes: what they choose on, what they never see, and what they cannot fit."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipmed.errors import ConfigError, DataError
from zeroshot_eval.probes import (
    Examples,
    FewShotResult,
    ProbeConfig,
    ProbeResult,
    ProbeSkip,
    carve_groups,
    draw_shots,
    few_shot,
    linear_probe,
    mean_over_draws,
)

DIMS = 6
FAST = ProbeConfig(num_c=4, min_c=1e-3, max_c=1.0)


def blobs(num_each: int, num_classes: int = 3, seed: int = 0, group_size: int = 2, noise: float = 0.6) -> Examples:
    """Classes around random centres; groups of images of one class each."""
    centres = np.random.default_rng(99).normal(size=(num_classes, DIMS))
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(num_classes), num_each)
    features = (centres[targets] + rng.normal(size=(len(targets), DIMS)) * noise).astype(np.float32)
    groups = tuple(f"{seed}-{row // group_size}" for row in range(len(targets)))
    return Examples(features, targets, groups)


def fitted(result: ProbeResult | ProbeSkip) -> ProbeResult:
    assert isinstance(result, ProbeResult), result
    return result


def test_the_probe_is_scikit_learns_on_train_and_val_at_the_chosen_strength():
    train, val, test = blobs(20, noise=1.5), blobs(10, seed=1, noise=1.5), blobs(12, seed=2)
    result = fitted(linear_probe(train, test.features, 3, val, FAST))
    assert len({point.score for point in result.curve}) > 1
    assert [point.c for point in result.curve] == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    best = max(point.score for point in result.curve)
    assert result.c == min((point.loss, point.c) for point in result.curve if point.score == best)[1]
    both = np.concatenate([train.features, val.features])
    scaler = StandardScaler().fit(both)
    reference = LogisticRegression(C=result.c, max_iter=1000).fit(
        scaler.transform(both), np.concatenate([train.targets, val.targets])
    )
    expected = reference.decision_function(scaler.transform(test.features))
    np.testing.assert_allclose(result.scores, expected, atol=2e-3)
    assert (result.num_train, result.num_val, result.carved, result.converged) == (60, 30, False, True)
    again = fitted(linear_probe(train, test.features, 3, val, FAST))
    np.testing.assert_array_equal(result.scores, again.scores)


def test_labels_and_features_of_the_test_do_not_touch_the_choice():
    train, val, test = blobs(20), blobs(10, seed=1), blobs(12, seed=2)
    result = fitted(linear_probe(train, test.features, 3, val, FAST))
    # Test labels are no argument of a probe. Shuffling images (and so their labels) shuffles the scores, no more.
    order = np.random.default_rng(0).permutation(len(test))
    shuffled = fitted(linear_probe(train, test.features[order], 3, val, FAST))
    assert (shuffled.c, shuffled.curve) == (result.c, result.curve)
    np.testing.assert_allclose(shuffled.scores, result.scores[order], atol=1e-6)
    # Nor does it matter what else is scored: the scaling is that of the images fitted.
    strange = np.concatenate([test.features, 1000 * np.ones((5, DIMS), dtype=np.float32)])
    beside = fitted(linear_probe(train, strange, 3, val, FAST))
    assert beside.curve == result.curve
    np.testing.assert_allclose(beside.scores[: len(test)], result.scores, atol=1e-6)


def test_c_follows_validation():
    train, test = blobs(40, noise=2.0), blobs(10, seed=2)
    # Labels of validation that contradict training: the less is learnt the better; so the weakest fit is chosen.
    val = blobs(20, seed=1)
    against = Examples(val.features, (val.targets + 1) % 3, val.groups)
    config = ProbeConfig(num_c=5, min_c=1e-7, max_c=10.0)
    honest = fitted(linear_probe(train, test.features, 3, val, config))
    reversed_ = fitted(linear_probe(train, test.features, 3, against, config))
    assert max(point.score for point in honest.curve) > 0.9
    assert max(point.score for point in reversed_.curve) < 0.4
    assert reversed_.c < honest.c


def test_without_validation_whole_groups_are_held_out():
    train = blobs(20, group_size=4)
    held = carve_groups(train, 3, ProbeConfig())
    groups = np.asarray(train.groups)
    assert not set(groups[held]) & set(groups[~held])
    # A fifth of 20 is 4: one group of each class.
    assert np.bincount(train.targets[held]).tolist() == [4, 4, 4]
    assert (carve_groups(train, 3, ProbeConfig()) == held).all()
    assert (carve_groups(train, 3, ProbeConfig(seed=1)) != held).any()
    result = fitted(linear_probe(train, train.features, 3, None, FAST))
    assert (result.num_train, result.num_val, result.carved) == (48, 12, True)


def test_a_group_that_holds_all_of_a_class_stays_in_training():
    train = blobs(4, group_size=4)
    assert not carve_groups(train, 3, ProbeConfig()).any()
    result = linear_probe(train, train.features, 3, None, FAST)
    assert isinstance(result, ProbeSkip)
    assert "no training group can be held out" in result.reason


def test_two_classes_give_two_columns_whose_softmax_is_the_probability():
    train, val, test = blobs(20, 2), blobs(10, 2, seed=1), blobs(5, 2, seed=2)
    result = fitted(linear_probe(train, test.features, 2, val, FAST))
    np.testing.assert_allclose(result.scores[:, 0], -result.scores[:, 1])
    both = np.concatenate([train.features, val.features])
    scaler = StandardScaler().fit(both)
    model = LogisticRegression(C=result.c, max_iter=1000)
    model.fit(scaler.transform(both), np.concatenate([train.targets, val.targets]))
    shifted = np.exp(result.scores - result.scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, model.predict_proba(scaler.transform(test.features)), atol=2e-3)


def test_multi_label_fits_each_class_on_what_is_known_of_it():
    train, test = blobs(30), blobs(10, seed=2)
    present = (train.targets[:, None] == np.arange(3)).astype(np.int8)
    targets = np.concatenate([present, np.zeros((len(train), 1), dtype=np.int8)], axis=1)  # a fourth without positives
    targets[::3, 0] = -1
    labels = Examples(train.features, targets, train.groups)
    result = fitted(linear_probe(labels, test.features, 4, None, FAST))
    assert result.unfitted == (3,)
    assert np.isnan(result.scores[:, 3]).all()
    assert not np.isnan(result.scores[:, :3]).any()
    for column in range(3):
        own = result.scores[test.targets == column, column]
        assert own.mean() > result.scores[test.targets != column, column].mean() + 1


def test_images_of_unknown_label_are_not_fitted():
    train, val, test = blobs(30), blobs(10, seed=1), blobs(10, seed=2)
    known = train.take(train.targets != 2)
    binary = known.targets[:, None].astype(np.int8)
    unknown = Examples(
        np.concatenate([known.features, known.features * 0 + 3]),
        np.concatenate([binary, np.full_like(binary, -1)]),
        (*known.groups, *known.groups),
    )
    judge = Examples(val.features, (val.targets == 1)[:, None].astype(np.int8), val.groups)
    config = ProbeConfig(features="unit", num_c=1)  # scaling apart, which sees all images of training
    with_unknown = fitted(linear_probe(unknown, test.features, 1, judge, config))
    without = fitted(linear_probe(Examples(known.features, binary, known.groups), test.features, 1, judge, config))
    np.testing.assert_allclose(with_unknown.scores, without.scores, atol=1e-5)


def test_unit_features_do_not_see_the_length_of_embeddings():
    train, test = blobs(20), blobs(10, seed=2)
    config = ProbeConfig(features="unit", num_c=3, min_c=1.0, max_c=100.0)
    scale = np.random.default_rng(0).uniform(1, 9, (len(train), 1)).astype(np.float32)
    stretched = Examples(train.features * scale, train.targets, train.groups)
    plain = fitted(linear_probe(train, test.features, 3, None, config))
    np.testing.assert_allclose(
        fitted(linear_probe(stretched, test.features, 3, None, config)).scores, plain.scores, atol=1e-3
    )


def test_what_cannot_be_fitted_is_marked():
    train = blobs(10)
    skip = linear_probe(train, train.features, 4, None, FAST)
    assert skip == ProbeSkip("class 3 of 4 has no training image")
    with pytest.raises(DataError, match="NaN or infinity"):
        linear_probe(train, np.full((2, DIMS), np.nan, dtype=np.float32), 3)
    with pytest.raises(DataError, match="as many of each"):
        Examples(train.features, train.targets[:-1], train.groups)
    with pytest.raises(ConfigError, match="0 < min_c <= max_c"):
        ProbeConfig(min_c=2.0, max_c=1.0)


def test_a_fit_that_stops_early_says_so():
    train, test = blobs(20, noise=3.0), blobs(5, seed=2)
    assert not fitted(linear_probe(train, test.features, 3, None, ProbeConfig(num_c=1, max_iterations=1))).converged


# Few-shot


def test_shots_come_from_different_groups_first():
    train = blobs(8, group_size=4)  # two groups of four images a class
    groups = np.asarray(train.groups)
    for seed in range(10):
        rows = draw_shots(train, 3, 3, np.random.default_rng(seed))
        assert len(set(rows.tolist())) == 9
        for class_index in range(3):
            own = rows[train.targets[rows] == class_index]
            assert len(own) == 3
            assert len(set(groups[own[:2]])) == 2  # the first two are of both groups


def test_few_shot_draws_differ_and_learn():
    train, val, test = blobs(20), blobs(10, seed=1), blobs(30, seed=2)
    result = few_shot(train, test.features, 3, 4, val, FAST)
    assert isinstance(result, FewShotResult)
    assert result.scores.shape == (5, 90, 3)
    assert not np.allclose(result.scores[0], result.scores[1])
    accuracies = (result.scores.argmax(axis=2) == test.targets).mean(axis=1)
    assert accuracies.mean() > 0.7
    again = few_shot(train, test.features, 3, 4, val, FAST)
    assert isinstance(again, FewShotResult)
    np.testing.assert_array_equal(again.scores, result.scores)
    mean, bounds = mean_over_draws(accuracies.tolist())
    assert bounds is not None
    assert mean == pytest.approx(accuracies.mean())
    assert bounds[0] < mean < bounds[1]


def test_more_shots_than_images_are_skipped():
    train, val = blobs(6), blobs(6, seed=1)
    skip = few_shot(train, val.features, 3, 7, val, FAST)
    assert isinstance(skip, ProbeSkip)
    assert skip.reason.startswith("7 shots a class asked; class 0 has 6 to draw from")
    # Without validation, images to choose on are taken from training: 4 of 6 a class are left.
    assert isinstance(few_shot(train, val.features, 3, 4, None, FAST), FewShotResult)
    assert isinstance(few_shot(train, val.features, 3, 5, None, FAST), ProbeSkip)


def test_interval_over_draws_by_hand():
    # Mean .5, deviation .1, three draws: t(.975; 2) = 4.3027, half width 4.3027 * .1 / sqrt(3) = .2484.
    mean, bounds = mean_over_draws([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5)
    assert bounds == pytest.approx((0.5 - 0.24841, 0.5 + 0.24841), abs=1e-4)
    assert mean_over_draws([0.4]) == (0.4, None)
