"""Zero-shot arithmetic against hand-computed tables, scikit-learn, torchmetrics and the library's own ensemble."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import ConfigError, DataError
from clipmed.probabilities import softmax
from zeroshot_eval import ranking
from zeroshot_eval.classification import (
    aurocs,
    average_precisions,
    chance_levels,
    classification_metrics,
    classification_statistic,
    confusion_matrix,
    f1_scores,
    log_odds,
    majority_rate,
    prompt_ensemble,
    quadratic_kappa,
    recalls,
)
from zeroshot_eval.ranking import expected_average_precision

BENCH = Path(__file__).parents[3] / "shared" / "bench_clipbench"

ONES = np.ones((1, 5))


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_hand_computed_table():
    targets = np.array([0, 0, 0, 1, 2])
    cosines = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.5, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.0], [0.3, 0.1, 0.2]], dtype=np.float32
    )
    predicted = cosines.argmax(axis=1)  # 0 1 0 1 0
    assert confusion_matrix(targets, predicted, 3).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert recalls(targets, predicted, ONES, 3)[0] == pytest.approx([2 / 3, 1, 0])
    metrics = classification_metrics(targets, cosines, ONES, 10.0)
    assert metrics["accuracy"][0] == pytest.approx(3 / 5)
    assert metrics["balanced_accuracy"][0] == pytest.approx((2 / 3 + 1 + 0) / 3)
    # class 0: positives .9 .2 .6 beat negatives .1 .3 in 5 of 6 pairs; class 1: .2 beats .1 and .1, loses to .5 and .3;
    # class 2: .2 beats all four
    assert aurocs(targets, cosines, ONES)[0] == pytest.approx([5 / 6, 2 / 4, 1])
    assert metrics["auroc_cosine"][0] == pytest.approx((5 / 6 + 1 / 2 + 1) / 3)


def test_average_precision_by_hand_with_ties():
    targets = np.array([1, 1, 0, 1, 0])
    scores = np.array([[0, 0.9], [0, 0.5], [0, 0.5], [0, 0.1], [0, 0.7]])
    # thresholds .9 (1 of 1), .5 (2 of 4; the tied negative counts), .1 (3 of 5); each brings a third of the positives
    assert average_precisions(targets, scores, ONES)[0, 1] == pytest.approx((1 / 1 + 2 / 4 + 3 / 5) / 3)


def test_f1_by_hand_leaves_out_classes_that_are_neither_true_nor_predicted():
    targets, predicted = np.array([0, 0, 0, 1, 3]), np.array([0, 1, 0, 1, 0])
    found = f1_scores(targets, predicted, ONES, 4)[0]
    assert found[[0, 1, 3]] == pytest.approx([2 * 2 / (3 + 3), 2 * 1 / (1 + 2), 0])
    assert np.isnan(found[2])
    weighted = f1_scores(targets, predicted, np.array([[1.0, 0, 1, 1, 0]]), 4)[0]
    assert weighted[:2].tolist() == [1, 1]
    assert np.isnan(weighted[2:]).all()


def test_quadratic_kappa_by_hand():
    # squared distances 0 1 4 1, mean 6/4; margins: true 2 1 1, predicted 1 1 2; all 16 pairs of draws from them have
    # the sum 2*(0 + 1 + 2*4) + (1 + 0 + 2*1) + (4 + 1 + 0) = 26
    found = quadratic_kappa(np.array([0, 1, 0, 2]), np.array([0, 2, 2, 1]), np.ones((1, 4)))
    assert found[0] == pytest.approx(1 - (6 / 4) / (26 / 16))
    assert np.isnan(quadratic_kappa(np.array([1, 1]), np.array([1, 1]), np.ones((1, 2)))).all()


def test_top5_counts_the_first_of_equals_and_is_given_for_more_than_five_classes_only():
    targets = np.array([5, 4, 0])
    cosines = np.array([[0.5, 0.4, 0.3, 0.2, 0.1, 0.1], [0.5, 0.4, 0.3, 0.2, 0.1, 0.1], [0, 1, 2, 3, 4, 5]])
    found = classification_metrics(targets, cosines.astype(np.float32), np.ones((1, 3)), 1.0)
    assert found["top5_accuracy"][0] == pytest.approx(1 / 3)
    five = classification_metrics(targets[1:], cosines[1:, :5].astype(np.float32), np.ones((1, 2)), 1.0)
    assert "top5_accuracy" not in five
    assert "quadratic_kappa" not in five


def test_probability_metrics_by_hand():
    # probabilities (3/4, 1/4), (1/4, 3/4), (1/2, 1/2): logits log 3 apart, or equal
    third = np.log(3.0) / 10
    cosines = np.array([[third, 0], [0, third], [0.2, 0.2]])
    found = classification_metrics(np.array([0, 0, 1]), cosines, np.ones((1, 3)), 10.0)
    # the bin of 3/4 holds one right and one wrong: |1/2 - 3/4| of 2 images; the bin of 1/2: |0 - 1/2| of 1 image
    assert found["ece"][0] == pytest.approx((2 * 0.25 + 0.5) / 3)
    assert found["brier"][0] == pytest.approx((2 * (1 / 4) ** 2 + 2 * (3 / 4) ** 2 + 2 * (1 / 2) ** 2) / 3)
    assert found["nll"][0] == pytest.approx(-(np.log(3 / 4) + np.log(1 / 4) + np.log(1 / 2)) / 3)


def test_equal_scores_count_one_half_and_absent_classes_are_left_out():
    targets = np.array([0, 1, 0, 1, 0])
    constant = np.zeros((5, 3), dtype=np.float32)
    found = aurocs(targets, constant, ONES)[0]
    assert found[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(found[2])
    metrics = classification_metrics(targets, constant, ONES, 10.0)
    assert metrics["balanced_accuracy"][0] == pytest.approx((1 + 0) / 2)
    assert metrics["auroc"][0] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_learn_on_random_weights_with_ties(seed: int):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, 200)
    cosines = np.round(rng.normal(size=(200, 4)) + np.eye(4)[targets], 1).astype(np.float32)
    weights = rng.integers(0, 4, (3, 200)).astype(float)
    metrics = classification_metrics(targets, cosines, weights, 3.0)
    predicted = cosines.argmax(axis=1)
    for number, sample_weight in enumerate(weights):
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(targets, predicted, sample_weight=sample_weight),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(
                targets, predicted, sample_weight=sample_weight
            ),
            "auroc_cosine": np.mean(
                [
                    sklearn.metrics.roc_auc_score(targets == index, cosines[:, index], sample_weight=sample_weight)
                    for index in range(4)
                ]
            ),
        }
        assert {name: metrics[name][number] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_is_scikit_learns_with_ties_and_absent_classes(seed: int):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, 150) * 2  # classes 1, 3, 5 and 6 have no image
    cosines = np.round(rng.normal(size=(150, 7)) + np.eye(7)[targets], 1).astype(np.float32)
    found = {
        name: value[0]
        for name, value in classification_metrics(targets, cosines, np.ones((1, 150)), 3.0, ordinal=True).items()
    }
    predicted, probabilities, odds = cosines.argmax(axis=1), softmax(cosines * 3.0), log_odds(cosines * 3.0)
    truth, present = np.eye(7)[targets], [0, 2, 4]
    of_scores = sklearn.metrics.average_precision_score
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(targets, predicted),
        "top5_accuracy": sklearn.metrics.top_k_accuracy_score(
            targets, cosines - 1e-4 * np.arange(7), k=5, labels=range(7)
        ),
        "balanced_accuracy": np.mean([np.mean(predicted[targets == index] == index) for index in present]),
        "macro_f1": sklearn.metrics.f1_score(targets, predicted, average="macro", zero_division=0),
        "quadratic_kappa": sklearn.metrics.cohen_kappa_score(targets, predicted, weights="quadratic"),
        "auroc": np.mean([sklearn.metrics.roc_auc_score(targets == index, odds[:, index]) for index in present]),
        "average_precision": np.mean([of_scores(targets == index, odds[:, index]) for index in present]),
        "average_precision_cosine": np.mean([of_scores(targets == index, cosines[:, index]) for index in present]),
        "brier": np.mean(np.sum((truth - probabilities) ** 2, axis=1)),
        "nll": sklearn.metrics.log_loss(targets, probabilities, labels=range(7)),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_brier_is_scikit_learns():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 50)
    cosines = rng.normal(size=(50, 3)).astype(np.float32)
    found = classification_metrics(targets, cosines, np.ones((1, 50)), 2.0)["brier"][0]
    probabilities = softmax(cosines * 2.0)
    assert found == pytest.approx(sklearn.metrics.brier_score_loss(targets, probabilities, scale_by_half=False))


def test_calibration_error_is_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.classification import MulticlassCalibrationError

    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 500)
    cosines = (rng.normal(size=(500, 4)) + np.eye(4)[targets]).astype(np.float32)
    found = classification_metrics(targets, cosines, np.ones((1, 500)), 2.0)["ece"][0]
    metric = MulticlassCalibrationError(num_classes=4, n_bins=15, norm="l1")
    expected = metric(torch.from_numpy(softmax(cosines * 2.0)), torch.from_numpy(targets)).item()
    assert found == pytest.approx(expected, abs=1e-6)


@st.composite
def scored_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, cosines on a coarse grid (ties) and whole weights, of which some are positive."""
    n, num_classes = draw(st.integers(2, 12)), draw(st.integers(2, 7))
    targets = draw(st.lists(st.integers(0, num_classes - 1), min_size=n, max_size=n))
    grid = st.lists(st.integers(-3, 3), min_size=n * num_classes, max_size=n * num_classes)
    weights = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    cosines = np.array(draw(grid), dtype=np.float32).reshape(n, num_classes) / 4
    return np.array(targets), cosines, np.array(weights)


@settings(deadline=None, max_examples=150)
@given(scored_images())
def test_whole_weights_are_repeated_images(scored: tuple[np.ndarray, np.ndarray, np.ndarray]):
    targets, cosines, weights = scored
    both = np.stack([weights, np.ones(len(weights))]).astype(float)  # a second row must not change the first
    weighted = classification_metrics(targets, cosines, both, 5.0, ordinal=True)
    repeated = classification_metrics(
        np.repeat(targets, weights), np.repeat(cosines, weights, axis=0), np.ones((1, weights.sum())), 5.0, ordinal=True
    )
    assert weighted.keys() == repeated.keys()
    for name in weighted:
        assert weighted[name][0] == pytest.approx(repeated[name][0], abs=1e-9, nan_ok=True), name


def test_blocks_of_weights_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    targets, cosines = rng.integers(0, 3, 40), rng.normal(size=(40, 3))
    weights = rng.integers(0, 3, (11, 40)).astype(float)
    whole = aurocs(targets, cosines, weights), average_precisions(targets, cosines, weights)
    monkeypatch.setattr(ranking, "BLOCK_NUMBERS", 160)
    np.testing.assert_array_equal(aurocs(targets, cosines, weights), whole[0])
    np.testing.assert_array_equal(average_precisions(targets, cosines, weights), whole[1])


def test_only_the_metrics_asked_for():
    targets, cosines = np.array([0, 1, 1]), np.eye(3, 2, dtype=np.float32)
    asked = classification_statistic(targets, cosines, 1.0, only=("auroc", "accuracy"))
    assert set(asked(np.ones((1, 3)))) == {"auroc", "accuracy"}
    with pytest.raises(
        ConfigError, match="metric 'quadratic_kappa': allowed for this task: accuracy, balanced_accuracy"
    ):
        classification_statistic(targets, cosines, 1.0, only=("quadratic_kappa",))


def test_one_class_alone_gives_no_area():
    metrics = classification_metrics(np.zeros(4, dtype=int), np.eye(4, 2, dtype=np.float32), np.ones((1, 4)), 1.0)
    assert np.isnan(metrics["auroc"][0])
    assert np.isnan(metrics["average_precision"][0])


def test_what_is_no_number_is_refused():
    cosines = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(DataError, match="targets: got 0 to 2; allowed: 0 to 1"):
        classification_statistic(np.array([0, 1, 2]), cosines, 1.0)
    with pytest.raises(DataError, match=r"targets of shape \(2,\) and cosines of shape \(3, 2\)"):
        classification_statistic(np.array([0, 1]), cosines, 1.0)
    cosines[1, 0] = np.nan
    with pytest.raises(DataError, match="cosines of 1 of 3 images are not finite"):
        classification_statistic(np.array([0, 1, 1]), cosines, 1.0)


def test_chance_is_what_guessing_scores():
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(6), [30, 5, 5, 10, 4, 6])
    guesses = rng.random((400, 60, 6)).astype(np.float32)
    found = [classification_metrics(targets, guess, np.ones((1, 60)), 1.0, ordinal=True) for guess in guesses]
    chance = chance_levels(targets, 6)
    for name in ("accuracy", "top5_accuracy", "balanced_accuracy", "auroc", "average_precision", "quadratic_kappa"):
        assert np.mean([one[name][0] for one in found]) == pytest.approx(chance[name], abs=0.01), name
    assert np.mean([one["macro_f1"][0] for one in found]) == pytest.approx(chance["macro_f1"], abs=0.02)
    flat = classification_metrics(targets, np.zeros((60, 6), dtype=np.float32), np.ones((1, 60)), 1.0)
    assert flat["brier"][0] == pytest.approx(chance["brier"])
    assert flat["nll"][0] == pytest.approx(chance["nll"])
    assert set(found[0]) == set(chance)
    assert majority_rate(targets) == 0.5


def test_expected_average_precision_is_the_mean_over_all_orders():
    from itertools import permutations

    orders = set(permutations([True, True, False, False, False]))
    of_orders = [sklearn.metrics.average_precision_score(order, np.arange(5, 0, -1)) for order in orders]
    assert expected_average_precision(2, 5) == pytest.approx(np.mean(of_orders))
    assert expected_average_precision(30, 100_000) == pytest.approx(30 / 100_000, abs=2e-4)
    assert expected_average_precision(3, 3) == 1


@pytest.mark.skipif(not (BENCH / "embeddings").is_dir(), reason="bench_clipbench is not at hand")
@pytest.mark.parametrize("weights", ["random", "trained"])
@pytest.mark.parametrize("dataset", ["finding4", "modality6"])
def test_numbers_of_clip_benchmark(dataset: str, weights: str):
    stored = np.load(BENCH / "embeddings" / f"{dataset}_{weights}.npz")
    golden = json.loads((BENCH / "golden" / "golden.json").read_text())["results"]
    expected = {row["metric"]: row["value"] for row in golden if (row["dataset"], row["weights"]) == (dataset, weights)}
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"{dataset}/{weights}"]
    cosines = stored["image"] @ stored["classifier"].T
    found = classification_metrics(stored["target"], cosines, np.ones((1, len(cosines))), extra["logit_scale"])
    assert found["accuracy"][0] == pytest.approx(expected["acc1"], abs=1e-6)
    assert found["balanced_accuracy"][0] == pytest.approx(expected["mean_per_class_recall"], abs=1e-6)
    assert ("top5_accuracy" in found) == (expected["acc5"] is not None)
    if "top5_accuracy" in found:
        assert found["top5_accuracy"][0] == pytest.approx(expected["acc5"], abs=1e-6)
    assert found["auroc"][0] == pytest.approx(extra["auroc_ovr_macro_prob"], abs=1e-6)
    assert found["auroc_cosine"][0] == pytest.approx(extra["auroc_ovr_macro_cosine_medmnist"], abs=1e-6)
    assert found["ece"][0] == pytest.approx(extra["ece15_model_scale"], abs=1e-6)
    at_hundred = classification_metrics(stored["target"], cosines, np.ones((1, len(cosines))), 100.0)
    assert at_hundred["ece"][0] == pytest.approx(extra["ece15_scale100"], abs=1e-6)


def test_auroc_is_scikit_learns_multi_class_one():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 300)
    cosines = (rng.normal(size=(300, 4)) + np.eye(4)[targets]).astype(np.float32)
    found = classification_metrics(targets, cosines, np.ones((1, 300)), 3.0)["auroc"][0]
    probabilities = softmax(cosines * 3.0)
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(targets, probabilities, multi_class="ovr"), abs=1e-12)


def test_auroc_sees_the_margin_where_the_cosine_alone_does_not():
    """Images differ more in how near they are to both classes than in which of the two is nearer."""
    targets = np.array([0, 1] * 20)
    common = np.repeat(np.linspace(0, 0.6, 20), 2)
    cosines = np.stack([common + 0.01 * (targets == 0), common + 0.01 * (targets == 1)], axis=1).astype(np.float32)
    metrics = classification_metrics(targets, cosines, np.ones((1, 40)), 100.0)
    assert metrics["accuracy"][0] == metrics["auroc"][0] == 1
    assert metrics["auroc_cosine"][0] < 0.6


def test_log_odds_do_not_saturate():
    logits = np.array([[0.0, 900.0], [0.0, 800.0], [0.0, 1.0]])
    assert log_odds(logits)[:, 1].tolist() == [900, 800, 1]


def test_prompt_ensemble_is_the_librarys(checkpoint):
    from clipmed.checkpoints import load_checkpoint
    from clipmed.zeroshot import class_embeddings, embed_texts

    two_tower = load_checkpoint(checkpoint)
    prompts = {"a": ["one thing"], "b": ["another", "a third", "a fourth"], "c": ["five", "six"]}
    flat = embed_texts(two_tower, [text for texts in prompts.values() for text in texts]).numpy()
    rows = prompt_ensemble(flat, [len(texts) for texts in prompts.values()])
    assert rows.shape == (3, flat.shape[1])
    np.testing.assert_allclose(rows, class_embeddings(two_tower, prompts).numpy(), atol=1e-6)


def test_softmax_sums_to_one_for_large_logits():
    probabilities = softmax(np.array([[1000.0, 999.0], [-1000.0, -1000.0]]))
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert probabilities[1] == pytest.approx([0.5, 0.5])


def test_areas_of_many_weights_at_once_are_those_of_each_alone():
    rng = np.random.default_rng(4)
    scores, positive = rng.integers(12, size=50) / 8, rng.random(50) < 0.4
    weights = rng.integers(4, size=(2 * ranking.WIDE, 50)).astype(float)
    together = ranking.rank_areas([ranking.rank(positive, scores)], weights)
    for row in (0, 1, 77, len(weights) - 1):
        expected = (
            sklearn.metrics.roc_auc_score(positive, scores, sample_weight=weights[row]),
            sklearn.metrics.average_precision_score(positive, scores, sample_weight=weights[row]),
        )
        assert [area[row, 0] for area in together] == pytest.approx(expected)
