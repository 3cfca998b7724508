"""Zero-shot arithmetic against hand-computed tables, scikit-learn and the library's own ensemble."""

import numpy as np
import pytest
import sklearn.metrics

from zeroshot_eval.classification import (
    aurocs,
    classification_metrics,
    confusion_matrix,
    log_odds,
    prompt_ensemble,
    recalls,
    softmax,
)

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
