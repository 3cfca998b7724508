"""Search over embeddings against sorting all of them: planted neighbours, ties, clusters, and queries that are none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmed.errors import ClipmedError, ConfigError
from clipmed.search import nearest
from clipmed.search.clustering import Clustering, choose_clusters, cluster
from clipmed.search.clusters import add_probed
from clipmed.search.nearest import Candidates, add_all, exact_scores, unit_queries


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_rows(seed, count, dimension):
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def found(queries, embeddings, k):
    """Rows and scores of the k best, by `nearest`."""
    candidates = [Candidates(k, embeddings.shape[1]) for _ in queries]
    add_all(candidates, queries, embeddings)
    return [sorted_best(one, query, embeddings, k) for one, query in zip(candidates, queries, strict=True)]


def sorted_best(candidates, query, embeddings, k):
    positions, scores = candidates.best(lambda at: exact_scores(query, embeddings, at))
    order = np.lexsort((positions, -scores))[:k]
    return positions[order].tolist(), scores[order].tolist()


def by_sorting(queries, embeddings, k):
    """The same by scoring everything in float64 and sorting: score first, then row."""
    scores = queries.astype(np.float64) @ embeddings.T.astype(np.float64)
    return [np.lexsort((np.arange(len(row)), -np.round(row, 12)))[:k].tolist() for row in scores]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1 << 16),
    count=st.integers(1, 3000),
    dimension=st.sampled_from([2, 7, 64]),
    num_queries=st.integers(1, 5),
    copies=st.integers(0, 40),
    data=st.data(),
)
def test_finds_what_sorting_everything_finds(seed, count, dimension, num_queries, copies, data):
    embeddings = random_rows(seed, count, dimension)
    generator = np.random.default_rng(seed + 1)
    for _ in range(copies):  # equal rows, near and far from each other
        embeddings[generator.integers(count)] = embeddings[generator.integers(count)]
    queries = np.concatenate([random_rows(seed + 2, num_queries, dimension), embeddings[:1]])
    k = data.draw(st.integers(1, count))
    assert [rows for rows, _ in found(queries, embeddings, k)] == by_sorting(queries, embeddings, k)


def test_planted_neighbours_come_first_in_their_order():
    embeddings = random_rows(0, 50_000, 32)
    query = random_rows(1, 1, 32)
    places = [49_999, 17, 20_000]
    for nearness, place in zip((0.001, 0.01, 0.05), places, strict=True):
        embeddings[place] = unit(query + nearness * random_rows(place, 1, 32))[0]
    assert found(query, embeddings, 3)[0][0] == places


def test_equal_images_come_in_the_order_of_rows_however_many_queries_ask(monkeypatch):
    embeddings = random_rows(0, 4000, 33)
    twins = [3, 1700, 1999, 2000, 3998]
    embeddings[twins] = embeddings[3]
    many = np.concatenate([embeddings[3:4], random_rows(1, 30, 33)])
    expected = found(many[:1], embeddings, 5)[0]
    assert expected[0] == twins
    assert len(set(expected[1])) == 1
    for block_bytes in (1 << 10, 1 << 14, 1 << 20):
        monkeypatch.setattr(nearest, "BLOCK_BYTES", block_bytes)
        assert found(many, embeddings, 5)[0] == expected
        assert found(many[:1], embeddings, 5)[0] == expected


def test_more_equals_than_are_asked_for_are_cut_in_the_order_of_rows():
    embeddings = np.repeat(random_rows(0, 1, 8), 5000, axis=0)
    assert found(embeddings[:2], embeddings, 7) == [found(embeddings[:1], embeddings, 7)[0]] * 2
    assert found(embeddings[:1], embeddings, 7)[0][0] == list(range(7))


def test_half_precision_rows_are_scored_as_they_are_stored():
    embeddings = random_rows(0, 3000, 64).astype(np.float16)
    queries = random_rows(1, 3, 64)
    assert [rows for rows, _ in found(queries, embeddings, 9)] == by_sorting(queries, embeddings, 9)


def topics(seed, count, dimension, num_topics):
    """Rows around a few directions, as images of a few kinds are."""
    generator = np.random.default_rng(seed)
    directions = unit(generator.standard_normal((num_topics, dimension)))
    noise = generator.standard_normal((count, dimension)) * 0.5 / np.sqrt(dimension)
    return unit(directions[generator.integers(num_topics, size=count)] + noise)


def search_clusters(clusters, embeddings, queries, k, probes):
    ordered = embeddings[clusters.rows]
    candidates = [Candidates(k, embeddings.shape[1]) for _ in queries]
    add_probed(candidates, queries, ordered, clusters, (probes, k))
    results = []
    for one, query in zip(candidates, queries, strict=True):
        positions, scores = one.best(lambda at, query=query: exact_scores(query, ordered, at))
        rows = clusters.rows[positions]
        results.append(rows[np.lexsort((rows, -scores))[:k]].tolist())
    return results


def test_looking_into_all_clusters_is_exact_and_into_few_finds_most():
    embeddings = topics(0, 6000, 24, 60)
    queries = topics(0, 40, 24, 60)
    clusters = cluster(embeddings)
    expected = by_sorting(queries, embeddings, 10)
    assert search_clusters(clusters, embeddings, queries, 10, len(clusters.centroids)) == expected
    _, facts = choose_clusters(embeddings, ["a"], lambda _: torch.from_numpy(queries), Clustering("clustered", 0.9))
    few = search_clusters(clusters, embeddings, queries, 10, facts.probes)
    recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(few, expected, strict=True)])
    assert facts.probes < facts.count / 2
    assert recall >= 0.9
    assert facts.recall_texts == pytest.approx(recall, abs=1e-4)  # the index says what was measured here


def test_clusters_give_as_many_as_are_asked_for_even_from_one():
    embeddings = topics(0, 1000, 8, 10)
    clusters = cluster(embeddings)
    assert [len(rows) for rows in search_clusters(clusters, embeddings, embeddings[:3], 900, 1)] == [900] * 3
    with pytest.raises(ConfigError, match=r"probes: got 0; allowed: 1 to \d+"):
        search_clusters(clusters, embeddings, embeddings[:3], 3, 0)


def test_small_indexes_and_those_without_clusters_are_compared_with_everything(monkeypatch):
    def texts(_):
        return torch.from_numpy(random_rows(9, 20, 32))

    embeddings = random_rows(0, 2000, 32)
    assert choose_clusters(embeddings, [], texts, Clustering("auto", 0.95)) is None  # small
    monkeypatch.setattr("clipmed.search.clustering.LARGE_BYTES", 1000)
    assert choose_clusters(embeddings, [], texts, Clustering("auto", 0.95)) is None  # noise has no clusters
    assert choose_clusters(embeddings, [], texts, Clustering("clustered", 0.95)) is not None
    assert choose_clusters(embeddings, [], texts, Clustering("exact", 0.95)) is None


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((2, 5)), r"shape \(2, 5\); allowed: \(Q, 4\)"),
        (np.ones((1, 2, 4)), r"allowed: \(Q, 4\)"),
        (np.ones((0, 4)), r"allowed: \(Q, 4\)"),
        (np.array([[1, 2, 3, 4], [0, 0, 0, 0]]), "query 1 has the length 0"),
        (np.array([1, np.nan, 0, 0]), "query 0 has the length nan"),
        (torch.tensor([[1, torch.inf, 0, 0]]), "query 0 has the length inf"),
    ],
)
def test_queries_that_are_none_are_refused(queries, message):
    with pytest.raises(ClipmedError, match=message):
        unit_queries(queries, 4)


def test_queries_are_scaled_to_unit_length_whatever_holds_them():
    for one in (np.array([3, 0, 4]), torch.tensor([[3.0, 0, 4]]), torch.tensor([3, 0, 4], dtype=torch.bfloat16)):
        np.testing.assert_allclose(unit_queries(one, 3), [[0.6, 0, 0.8]], rtol=1e-6)
