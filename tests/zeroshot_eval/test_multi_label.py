"""Multi-label arithmetic against hand-computed tables, scikit-learn, torchmetrics and CLIP_benchmark's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import DataError
from zeroshot_eval.multi_label import (
    chance_levels,
    class_statistic,
    clip_benchmark_average_precision,
    multi_label_statistic,
    undefined_classes,
)

BENCH = Path(__file__).parents[3] / "shared" / "bench_clipbench"

# Class a: all known; b: the second image unknown; c: no positives; d: no negatives
TARGETS = np.array([[1, 0, 0, 1], [0, -1, 0, 1], [1, 1, 0, -1], [0, 0, -1, 1]], dtype=np.int8)
SCORES = np.array([[3, 4, 9, 1], [2, 9, 1, 2], [1, 3, 2, 3], [-1, -2, 3, 4]], dtype=np.float32)


def values(statistic, n: int) -> dict[str, np.ndarray]:
    return {name: found[0] for name, found in statistic(np.ones((1, n))).items()}


def test_hand_computed_table():
    by_class = values(class_statistic(TARGETS, SCORES, pairs=True), 4)
    # a: 3 beats 2 and -1, 1 beats -1: 3 of 4 pairs; precision 1/1 at 3, 2/3 at 1
    # b: without the unknown 9, the positive 3 lies between 4 and -2
    assert by_class["auroc"][:2] == pytest.approx([3 / 4, 1 / 2])
    assert by_class["average_precision"][:2] == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert np.isnan(by_class["auroc"][2:]).all()
    assert np.isnan(by_class["average_precision"][2:]).all()
    # said to be present above 0: a 3 images, 2 rightly; b 2 known ones, 1 rightly; d all 3 known ones rightly
    assert by_class["f1"][[0, 1, 3]] == pytest.approx([2 * 2 / (2 + 3), 2 * 1 / (1 + 2), 1])
    assert np.isnan(by_class["f1"][2])
    macro = values(multi_label_statistic(TARGETS, SCORES, pairs=True), 4)
    assert macro["auroc"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert macro["average_precision"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert macro["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)


def test_classes_left_out_are_named():
    assert undefined_classes(TARGETS, ["a", "b", "c", "d"]) == {
        "c": "no known positives among 4 images",
        "d": "no known negatives among 4 images",
    }
    nothing = np.full((3, 1), -1, dtype=np.int8)
    assert undefined_classes(nothing, ["a"]) == {"a": "no known positives and no known negatives among 3 images"}
    assert all(np.isnan(value) for value in values(multi_label_statistic(nothing, np.zeros((3, 1))), 3).values())


def test_cosines_alone_have_no_f1():
    assert set(values(multi_label_statistic(TARGETS, SCORES), 4)) == {"auroc", "average_precision"}


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn_on_weights_ties_and_unknowns(seed: int):
    rng = np.random.default_rng(seed)
    targets = rng.choice([-1, 0, 1], size=(120, 5), p=[0.2, 0.5, 0.3]).astype(np.int8)
    scores = np.round(rng.normal(size=(120, 5)) + targets, 1).astype(np.float32)
    weights = rng.integers(0, 3, 120).astype(float)
    found = {name: value[0] for name, value in class_statistic(targets, scores, pairs=True)(weights[None]).items()}
    for index in range(5):
        known = targets[:, index] >= 0
        truth, score = targets[known, index], scores[known, index]
        options = {"sample_weight": weights[known]}
        expected = [
            sklearn.metrics.roc_auc_score(truth, score, **options),
            sklearn.metrics.average_precision_score(truth, score, **options),
            sklearn.metrics.f1_score(truth, score > 0, **options),
        ]
        assert [found[name][index] for name in ("auroc", "average_precision", "f1")] == pytest.approx(expected)


def test_pair_scores_are_the_softmax_of_the_two_prompts():
    """Differences rank and threshold as the probabilities of a pair do, at any scale that does not saturate."""
    rng = np.random.default_rng(0)
    affirming, denying = rng.uniform(-0.2, 0.4, (2, 80, 3))
    targets = rng.integers(0, 2, (80, 3)).astype(np.int8)
    probabilities = 1 / (1 + np.exp(-14.3 * (affirming - denying)))
    found = values(multi_label_statistic(targets, affirming - denying, pairs=True), 80)
    assert found["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(targets, probabilities))
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(targets, probabilities > 0.5, average="macro"))


def test_multi_label_metrics_are_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

    rng = np.random.default_rng(0)
    targets = rng.choice([-1, 0, 1], size=(200, 4)).astype(np.int8)
    scores = np.round(rng.random((200, 4)), 2).astype(np.float32)
    found = values(multi_label_statistic(targets, scores), 200)
    for name, metric in (("auroc", MultilabelAUROC), ("average_precision", MultilabelAveragePrecision)):
        expected = metric(num_labels=4, ignore_index=-1)(torch.from_numpy(scores), torch.from_numpy(targets).long())
        assert found[name] == pytest.approx(expected.item(), abs=1e-6)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, num_classes = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    table = st.lists(st.integers(-1, 1), min_size=n * num_classes, max_size=n * num_classes)
    targets, scores = (np.array(draw(table)).reshape(n, num_classes) for _ in range(2))
    weights = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    return targets.astype(np.int8), scores.astype(np.float32), np.array(weights)


@settings(deadline=None, max_examples=150)
@given(labelled())
def test_whole_weights_are_repeated_images(data: tuple[np.ndarray, np.ndarray, np.ndarray]):
    targets, scores, weights = data
    weighted = multi_label_statistic(targets, scores, pairs=True)(weights[None].astype(float))
    twice = np.repeat(targets, weights, axis=0), np.repeat(scores, weights, axis=0)
    repeated = values(multi_label_statistic(*twice, pairs=True), int(weights.sum()))
    for name, found in weighted.items():
        assert found[0] == pytest.approx(repeated[name], nan_ok=True), name


def test_chance_is_what_random_scores_and_a_coin_give():
    rng = np.random.default_rng(0)
    targets = (rng.random((90, 3)) < [0.1, 0.3, 0.6]).astype(np.int8)
    targets[:30, 1] = -1
    guesses = rng.normal(size=(600, 90, 3)).astype(np.float32)
    found = [values(multi_label_statistic(targets, guess, pairs=True), 90) for guess in guesses]
    for name, chance in chance_levels(targets).items():
        assert np.mean([one[name] for one in found]) == pytest.approx(chance, abs=0.015), name
    assert np.isnan(list(chance_levels(np.zeros((3, 2), dtype=np.int8)).values())).all()


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        (np.zeros((2, 3), dtype=np.int8), np.zeros((2, 2)), r"targets of shape \(2, 3\) and scores of shape \(2, 2\)"),
        (np.full((2, 2), 2, dtype=np.int8), np.zeros((2, 2)), "got 2 to 2; allowed: 1, 0, and -1 for unknown"),
        (np.zeros((2, 2), dtype=np.int8), np.array([[0, np.inf], [0, 0]]), "scores of 1 of 2 images are not finite"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(targets: np.ndarray, scores: np.ndarray, message: str):
    with pytest.raises(DataError, match=message):
        multi_label_statistic(targets, scores)


def test_rules_of_clip_benchmark_count_classes_without_positives_and_keep_the_order_of_ties():
    targets = np.array([[0, 0, 1], [1, 0, 1]], dtype=np.int8)
    # a: the positive ties with the negative before it: precision 1/2; b: nothing to find: 0; c: 1
    assert clip_benchmark_average_precision(targets, np.zeros((2, 3), dtype=np.float32)) == pytest.approx((0.5 + 1) / 3)
    with pytest.raises(DataError, match="knows no unknown targets"):
        clip_benchmark_average_precision(TARGETS, SCORES)


@pytest.mark.skipif(not (BENCH / "embeddings").is_dir(), reason="bench_clipbench is not at hand")
@pytest.mark.parametrize("weights", ["random", "trained"])
def test_numbers_of_clip_benchmark(weights: str):
    stored = np.load(BENCH / "embeddings" / f"multilabel10_{weights}.npz")
    golden = json.loads((BENCH / "golden" / "golden.json").read_text())["results"]
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"multilabel10/{weights}"]
    [expected] = [row["value"] for row in golden if (row["dataset"], row["weights"]) == ("multilabel10", weights)]
    targets, cosines = stored["target"].astype(np.int8), stored["image"] @ stored["classifier"].T
    assert clip_benchmark_average_precision(targets, cosines) == pytest.approx(expected, abs=1e-6)
    found = values(multi_label_statistic(targets, cosines), len(targets))
    assert found["average_precision"] == pytest.approx(extra["sklearn_mAP"], abs=1e-6)
    assert found["auroc"] == pytest.approx(extra["auroc_macro"], abs=1e-6)
