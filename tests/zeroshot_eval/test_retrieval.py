"""Retrieval arithmetic against hand-computed ranks, a naive reference, random orders and CLIP_benchmark's numbers."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import DataError
from zeroshot_eval import retrieval
from zeroshot_eval.retrieval import (
    Pairs,
    Ranks,
    rank_pairs,
    rank_pairs_within,
    retrieval_chance,
    retrieval_statistic,
    tie_bounds,
    weighted_median,
)

BENCH = Path(__file__).parents[3] / "shared" / "bench_clipbench"


def naive_ranks(scores: np.ndarray, correct: np.ndarray) -> tuple[list[int], list[int]]:
    """Ranks of the best correct candidate a row, wrong ones that tie with it behind it and ahead of it."""
    best, worst = [], []
    for row, right in zip(scores, correct, strict=True):
        own = max(row[right])
        best.append(1 + sum(row[~right] > own + 1e-6))
        worst.append(1 + sum(row[~right] >= own - 1e-6))
    return best, worst


def correct_matrix(image_of_caption: np.ndarray, texts: np.ndarray, *, same_text: bool) -> np.ndarray:
    """Which caption (column) is correct for which image (row)."""
    n, m = image_of_caption.max() + 1, len(image_of_caption)
    own = image_of_caption[None, :] == np.arange(n)[:, None]
    if not same_text:
        return own
    return np.array([[texts[column] in texts[own[row]] for column in range(m)] for row in range(n)])


def ranks_of(best: list[int], worst: list[int] | None = None, gallery: int = 100) -> Ranks:
    ones = np.ones(len(best), dtype=np.int64)
    return Ranks(np.array(best), np.array(worst or best), ones, gallery * ones)


def figures(ranks: Ranks, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    statistic = retrieval_statistic(ranks, ks)
    return {name: float(values[0]) for name, values in statistic(np.ones((1, len(ranks.best)))).items()}


# Three images and four captions: image 0 has captions 0 and 1, image 1 caption 2, image 2 caption 3; captions 1 and 3
# have the same text. Embeddings are chosen so that the cosines are:  texts a    b    c
IMAGES = np.array([[0.3, 0.5, 0.5], [0.1, 0.9, 0.2], [0.6, 0.4, 0.4]], dtype=np.float32)
TEXTS = np.eye(3, dtype=np.float32)
BY_HAND = Pairs(IMAGES, TEXTS[[0, 1, 2, 1]], np.array([0, 0, 1, 2]), np.array([0, 1, 2, 1]))


def test_hand_computed_ranks_where_only_own_captions_are_correct():
    ranks = rank_pairs(BY_HAND)
    texts, images = ranks["image_to_text"], ranks["text_to_image"]
    # image 0: best own is b .5, which its copy on image 2 and c tie with: 1 to 3; image 1: c .2 is behind both b: 3;
    # image 2: b .4 is behind a; the other b and c tie: 2 to 4
    assert (texts.best.tolist(), texts.worst.tolist()) == ([1, 3, 2], [3, 3, 4])
    assert (texts.num_correct.tolist(), texts.gallery.tolist()) == ([2, 1, 1], [4, 4, 4])
    # a of image 0: .3 behind image 2: 2; b of image 0: .5 behind .9: 2; c of image 1: .2 last: 3; b of image 2: last
    assert (images.best.tolist(), images.worst.tolist()) == ([2, 2, 3, 3], [2, 2, 3, 3])
    assert (images.num_correct.tolist(), images.gallery.tolist()) == ([1, 1, 1, 1], [3, 3, 3, 3])


def test_hand_computed_ranks_where_the_same_text_is_correct():
    ranks = rank_pairs(BY_HAND, same_text=True)
    texts, images = ranks["image_to_text"], ranks["text_to_image"]
    assert (texts.best.tolist(), texts.worst.tolist()) == ([1, 3, 2], [2, 3, 3])
    assert texts.num_correct.tolist() == [3, 1, 2]
    # b is correct for images 0 and 2: the better one, .5, is behind image 1
    assert (images.best.tolist(), images.worst.tolist()) == ([2, 2, 3, 2], [2, 2, 3, 2])
    assert images.num_correct.tolist() == [1, 2, 1, 2]


@st.composite
def coarse_pairs(draw: st.DrawFn) -> Pairs:
    """Up to 9 images with captions out of few or many texts, on a coarse grid: many ties."""
    seed, n, num_texts = draw(st.integers(0, 10_000)), draw(st.integers(1, 9)), draw(st.integers(1, 30))
    rng, most = np.random.default_rng(seed), draw(st.integers(1, 3))
    image_of_caption = rng.permutation(np.repeat(np.arange(n), rng.integers(1, most + 1, n)))
    texts = rng.integers(0, num_texts, len(image_of_caption))
    images = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    return Pairs(images, rng.integers(-1, 2, (num_texts, 3)).astype(np.float32)[texts], image_of_caption, texts)


@settings(deadline=None, max_examples=150)
@given(coarse_pairs(), st.booleans(), st.sampled_from([1, 7, 2_000_000]))
def test_ranks_are_those_of_the_whole_matrix(pairs: Pairs, same_text: bool, block: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_SCORES", block)
        ranks = rank_pairs(pairs, same_text=same_text)
    scores = pairs.images @ pairs.captions.T
    correct = correct_matrix(pairs.image_of_caption, pairs.text_of_caption, same_text=same_text)
    for direction, matrix, right in (("image_to_text", scores, correct), ("text_to_image", scores.T, correct.T)):
        found = ranks[direction]
        assert (found.best.tolist(), found.worst.tolist()) == naive_ranks(matrix, right)
        assert found.num_correct.tolist() == right.sum(axis=1).tolist()
        assert set(found.gallery) == {matrix.shape[1]}


def test_more_rows_than_a_byte_counts():
    """700 equal images: every caption ties with all of them."""
    pairs = Pairs(np.ones((700, 2), dtype=np.float32), np.ones((700, 2), dtype=np.float32), np.arange(700))
    for ranks in rank_pairs(pairs).values():
        assert set(ranks.best) == {1}
        assert set(ranks.worst) == {700}


def test_captions_without_text_numbers_are_texts_of_their_own():
    rng = np.random.default_rng(0)
    images, captions = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    owner = np.array([0, 1, 2, 3, 4, 0, 1, 2, 2])
    bare, numbered = (rank_pairs(Pairs(images, captions, owner, texts)) for texts in (None, np.arange(9) * 3))
    for direction, ranks in bare.items():
        np.testing.assert_array_equal(ranks.worst, numbered[direction].worst)


def test_within_parts_is_each_part_alone():
    rng = np.random.default_rng(0)
    images, captions = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(60, 4)).astype(np.float32)
    owner, texts = rng.permutation(np.repeat(np.arange(30), 2)), np.arange(60)
    parts = np.array(["mri", "ct", "ct"] * 10)
    whole = rank_pairs_within(Pairs(images, captions, owner, texts), parts)
    for part, size in (("ct", 20), ("mri", 10)):
        chosen = np.flatnonzero(parts == part)
        rows = np.flatnonzero(np.isin(owner, chosen))
        alone = rank_pairs(Pairs(images[chosen], captions[rows], np.searchsorted(chosen, owner[rows])))
        for direction, queries in (("image_to_text", chosen), ("text_to_image", rows)):
            np.testing.assert_array_equal(whole[direction].best[queries], alone[direction].best)
            np.testing.assert_array_equal(whole[direction].worst[queries], alone[direction].worst)
        assert set(whole["image_to_text"].gallery[chosen]) == {2 * size}
        assert set(whole["text_to_image"].gallery[rows]) == {size}
    assert whole["text_to_image"].recalls((1, 5, 10, 15)) == (1, 5)


def test_figures_by_hand():
    found = figures(ranks_of([1, 2, 4, 7, 12, 1, 1, 1, 1, 1, 1]))
    assert found["recall@1"] == pytest.approx(7 / 11)
    assert found["recall@5"] == pytest.approx(9 / 11)
    assert found["recall@10"] == pytest.approx(10 / 11)
    assert found["mrr"] == pytest.approx((7 + 1 / 2 + 1 / 4 + 1 / 7 + 1 / 12) / 11)
    assert found["median_rank"] == 1


def test_ties_give_the_expectation_and_its_bounds():
    ranks = ranks_of([1, 4], [3, 6])
    found = figures(ranks)
    assert found["recall@1"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["recall@5"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["mrr"] == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + (1 / 4 + 1 / 5 + 1 / 6) / 3) / 2)
    assert found["median_rank"] == (2 + 5) / 2
    bounds = tie_bounds(ranks)
    assert bounds["recall@1"] == (0, 0.5)
    assert bounds["recall@5"] == (0.5, 1)
    assert bounds["mrr"] == pytest.approx(((1 / 3 + 1 / 6) / 2, (1 + 1 / 4) / 2))
    assert bounds["median_rank"] == (2.5, 4.5)


def test_a_model_that_scores_everything_alike_is_at_chance():
    ones = np.ones((20, 2), dtype=np.float32)
    for ranks in rank_pairs(Pairs(ones, ones, np.arange(20))).values():
        chance = retrieval_chance(ranks)
        found = figures(ranks)
        assert {name: found[name] for name in ("recall@1", "recall@5", "recall@10", "mrr")} == pytest.approx(
            {name: chance[name] for name in ("recall@1", "recall@5", "recall@10", "mrr")}
        )
        assert found["recall@5"] == pytest.approx(5 / 20)


def test_recalls_that_reach_over_the_whole_gallery_are_named_not_reported():
    ranks = ranks_of([1, 2, 3], gallery=3)
    assert set(figures(ranks)) == set(retrieval_chance(ranks)) == set(tie_bounds(ranks))
    assert set(figures(ranks)) == {"recall@1", "mrr", "median_rank"}
    assert ranks.unreported() == {f"recall@{k}": "the gallery has 3 candidates" for k in (5, 10)}
    assert set(figures(ranks, ks=(2, 100))) == {"recall@2", "mrr", "median_rank"}


def test_chance_of_distinct_captions_is_k_over_n():
    chance = retrieval_chance(ranks_of([1] * 20, gallery=20))
    assert chance["recall@1"] == pytest.approx(1 / 20)
    assert chance["recall@5"] == pytest.approx(5 / 20)
    assert chance["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 21)))
    assert chance["median_rank"] == 10


def test_chance_of_many_captions_and_galleries_is_that_of_random_orders():
    rng = np.random.default_rng(0)
    galleries, num_correct = np.repeat([12, 30], 10), np.tile([1, 2, 3, 4, 5], 4)
    ranks = Ranks(num_correct, num_correct, num_correct, galleries)
    firsts = np.array(
        [
            [
                rng.permutation(gallery)[:correct].min() + 1
                for gallery, correct in zip(galleries, num_correct, strict=True)
            ]
            for _ in range(4000)
        ]
    )
    chance = retrieval_chance(ranks)
    for k in (1, 5, 10):
        assert chance[f"recall@{k}"] == pytest.approx(np.mean(firsts <= k), abs=0.01)
    assert chance["mrr"] == pytest.approx(np.mean(1 / firsts), abs=0.01)
    assert chance["median_rank"] == np.median(firsts)


def test_no_weight_leaves_every_figure_undefined():
    found = retrieval_statistic(ranks_of([1, 2], gallery=20))(np.zeros((1, 2)))
    assert all(np.isnan(values[0]) for values in found.values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=12))
def test_whole_weights_are_repeated_queries(queries: list[tuple[int, int, int]]):
    best, width, weights = (np.array(column) for column in zip(*queries, strict=True))
    if not weights.any():
        weights = weights + 1
    ranks = ranks_of(best.tolist(), (best + width).tolist())
    repeated = ranks_of(np.repeat(best, weights).tolist(), np.repeat(best + width, weights).tolist())
    both = np.stack([weights, np.ones(len(best))]).astype(float)
    found = {name: values[0] for name, values in retrieval_statistic(ranks)(both).items()}
    assert found == pytest.approx(figures(repeated))


def test_weighted_median_is_that_of_repeated_values():
    values = np.array([5.0, 1.0, 3.0, 9.0])
    weights = np.array([[1, 1, 1, 1], [0, 3, 1, 1], [2, 0, 0, 2]], dtype=float)
    expected = [np.median(np.repeat(values, row.astype(int))) for row in weights]
    assert weighted_median(values, weights).tolist() == expected


def test_hit_rate_and_mrr_are_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

    rng = np.random.default_rng(0)
    images, captions = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(90, 6)).astype(np.float32)
    owner = rng.permutation(np.concatenate([np.arange(40), rng.integers(0, 40, 50)]))
    ranks = rank_pairs(Pairs(images, captions, owner))
    scores = images @ captions.T + 100  # torchmetrics takes candidates with scores up to 0 for wrong ones
    correct = owner[None, :] == np.arange(40)[:, None]
    for direction, matrix, right in (("image_to_text", scores, correct), ("text_to_image", scores.T, correct.T)):
        query = torch.arange(len(matrix))[:, None].expand(*matrix.shape).reshape(-1)
        flat = torch.from_numpy(matrix.reshape(-1).copy()), torch.from_numpy(right.reshape(-1).copy())
        found = figures(ranks[direction])
        assert found["mrr"] == pytest.approx(RetrievalMRR()(*flat, indexes=query).item(), abs=1e-6)
        for k in (1, 5, 10):
            expected = RetrievalHitRate(top_k=k)(*flat, indexes=query).item()
            assert found[f"recall@{k}"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_of_caption": np.array([0, 0, 1, 1])}, "1 of 3 images have no caption"),
        ({"image_of_caption": np.array([0, 1, 2, 3])}, "names an image that is not there; allowed: 0 to 2"),
        ({"image_of_caption": np.array([0, 1, 2])}, "got 4 captions, images for 3"),
        ({"text_of_caption": np.array([0, 1])}, "texts for 2 of them"),
        ({"captions": np.full((4, 3), np.nan, dtype=np.float32)}, "4 of 4 captions are not finite"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(change: dict, message: str):
    fields = {name: getattr(BY_HAND, name) for name in ("images", "captions", "image_of_caption", "text_of_caption")}
    with pytest.raises(DataError, match=message):
        Pairs(**fields | change)


def test_the_whole_matrix_is_never_held():
    rng = np.random.default_rng(0)
    images, captions = rng.standard_normal((2, 6000, 8), dtype=np.float32)
    tracemalloc.start()
    try:
        rank_pairs(Pairs(images, captions, rng.permutation(6000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6000 * 6000  # a quarter of the matrix of cosines


def test_ranks_beyond_what_a_byte_counts():
    images, captions = np.random.default_rng(1).standard_normal((2, 700, 4), dtype=np.float32)
    ranks, scores, right = rank_pairs(Pairs(images, captions, np.arange(700))), images @ captions.T, np.eye(700) > 0
    for direction, matrix in (("image_to_text", scores), ("text_to_image", scores.T)):
        assert (ranks[direction].best.tolist(), ranks[direction].worst.tolist()) == naive_ranks(matrix, right)
        assert ranks[direction].best.max() > 600


@pytest.mark.skipif(not (BENCH / "embeddings").is_dir(), reason="bench_clipbench is not at hand")
@pytest.mark.parametrize("weights", ["random", "trained"])
@pytest.mark.parametrize("dataset", ["retrieval48_1to1", "retrieval90"])
def test_numbers_of_clip_benchmark(dataset: str, weights: str):
    stored = np.load(BENCH / "embeddings" / f"{dataset}_{weights}.npz")
    golden = json.loads((BENCH / "golden" / "golden.json").read_text())["results"]
    expected = {row["metric"]: row for row in golden if (row["dataset"], row["weights"]) == (dataset, weights)}
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"{dataset}/{weights}"]
    texts = np.unique(stored["captions"], return_inverse=True)[1]
    pairs = Pairs(stored["image"], stored["text"], stored["text_image_index"], texts)
    same_text = rank_pairs(pairs, same_text=True)
    for direction, prefix in (("image_to_text", "text_retrieval"), ("text_to_image", "image_retrieval")):
        ranks = rank_pairs(pairs)[direction]
        found, bounds = figures(ranks), tie_bounds(ranks)
        for k in (1, 5, 10):
            name = f"{prefix}_recall@{k}"
            assert bounds[f"recall@{k}"] == pytest.approx(extra[f"{name}_tie_bounds"], abs=1e-6)
            low, high = expected[name].get("tie_bounds", [expected[name]["value"]] * 2)
            assert low - 1e-6 <= found[f"recall@{k}"] <= high + 1e-6
            if (key := f"{name}_identical_text_positive") in extra:
                assert figures(same_text[direction])[f"recall@{k}"] == pytest.approx(extra[key], abs=1e-6)
