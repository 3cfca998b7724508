"""Retrieval arithmetic against hand-computed ranks, a naive reference and simulated chance."""

import numpy as np
import pytest

from zeroshot_eval import retrieval
from zeroshot_eval.retrieval import (
    chance_metrics,
    image_to_text_ranks,
    retrieval_metrics,
    text_to_image_ranks,
    weighted_median,
)


def naive_ranks(scores: np.ndarray, correct: np.ndarray) -> list[int]:
    """Rank of the best correct candidate a row, wrong ones that tie ahead of it."""
    return [
        1 + sum(score >= max(row[right]) for score, is_right in zip(row, right, strict=True) if not is_right)
        for row, right in zip(scores, correct, strict=True)
    ]


def test_hand_computed_ranks_with_a_shared_caption():
    # Images 0 and 1 share caption 0; image 2 has caption 1. Embeddings are chosen so that cosines are the entries.
    images = np.array([[0.9, 0.1], [0.2, 0.6], [0.5, 0.5]], dtype=np.float32)
    texts = np.eye(2, dtype=np.float32)
    owner = np.array([0, 0, 1])
    # image 0: own .9 first; image 1: own .2, behind caption 1 (once): rank 2; image 2: own .5 ties with two copies of
    # caption 0: rank 3
    assert image_to_text_ranks(images, texts, owner).tolist() == [1, 2, 3]
    # caption 0 (asked twice): best image 0, rank 1; caption 1: image 2 has .5, image 1 is ahead: rank 2
    assert text_to_image_ranks(images, texts, owner).tolist() == [1, 1, 2]


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_chunks_give_the_ranks_of_the_whole_matrix(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "CHUNK_QUERIES", chunk)
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 12, 30)
    owner[:12] = np.arange(12)
    images = np.round(rng.normal(size=(30, 3)), 0).astype(np.float32)
    texts = np.round(rng.normal(size=(12, 3)), 0).astype(np.float32)
    correct = owner[:, None] == owner[None, :]
    scores = images @ texts[owner].T
    assert image_to_text_ranks(images, texts, owner).tolist() == naive_ranks(scores, correct)
    assert text_to_image_ranks(images, texts, owner).tolist() == naive_ranks(scores.T, correct)


def test_metrics_by_hand():
    metrics = retrieval_metrics(np.array([1, 2, 4, 7, 12, 1, 1, 1, 1, 1, 1]), np.ones((1, 11)))
    assert metrics["recall@1"][0] == pytest.approx(7 / 11)
    assert metrics["recall@5"][0] == pytest.approx(9 / 11)
    assert metrics["recall@10"][0] == pytest.approx(10 / 11)
    assert metrics["mrr"][0] == pytest.approx((7 + 1 / 2 + 1 / 4 + 1 / 7 + 1 / 12) / 11)
    assert metrics["median_rank"][0] == 1


def test_recalls_that_reach_over_the_whole_gallery_are_not_reported():
    assert set(retrieval_metrics(np.array([1, 2, 3]), np.ones((1, 3)))) == {"recall@1", "mrr", "median_rank"}
    assert set(chance_metrics(np.array([0, 1, 2]))) == {"recall@1", "mrr", "median_rank"}


def test_chance_of_distinct_captions_is_k_over_n():
    chance = chance_metrics(np.arange(20))
    assert chance["recall@1"] == pytest.approx(1 / 20)
    assert chance["recall@5"] == pytest.approx(5 / 20)
    assert chance["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 21)))
    assert chance["median_rank"] == 10


def test_chance_with_shared_captions_is_that_of_random_orders():
    owner = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    rng = np.random.default_rng(0)
    correct = owner[:, None] == owner[None, :]
    firsts = np.array([[1 + np.argmax(row[rng.permutation(21)]) for row in correct] for _ in range(3000)])
    chance = chance_metrics(owner)
    for k in (1, 5, 10):
        assert chance[f"recall@{k}"] == pytest.approx(np.mean(firsts <= k), abs=0.01)
    assert chance["mrr"] == pytest.approx(np.mean(1 / firsts), abs=0.01)
    assert chance["median_rank"] == np.median(firsts)


def test_weighted_median_is_that_of_repeated_values():
    values = np.array([5.0, 1.0, 3.0, 9.0])
    weights = np.array([[1, 1, 1, 1], [0, 3, 1, 1], [2, 0, 0, 2]], dtype=float)
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert weighted_median(values, weights).tolist() == expected
