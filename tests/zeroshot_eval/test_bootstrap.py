"""Intervals over groups: constants, pairing, width by group, coverage."""

import numpy as np
import pytest

from clipmed.errors import ConfigError
from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap, interval


def mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_interval_of_a_constant_is_that_constant():
    found = bootstrap(mean_of(np.full(30, 0.25)), [str(n % 7) for n in range(30)], BootstrapConfig(samples=200))
    assert interval(found["mean"]) == pytest.approx((0.25, 0.25))


def test_every_replicate_draws_as_many_groups_as_there_are():
    drawn = bootstrap(
        lambda weights: {"total": weights.sum(axis=1), "equal": (weights[:, 0] == weights[:, 1]).astype(float)},
        ["a", "a", "b", "b", "c", "c"],
        BootstrapConfig(samples=150),
    )
    assert set(drawn["total"]) == {6.0}  # three groups of two images each
    assert drawn["equal"].all()  # images of one group stay together


def test_chunks_do_not_change_the_number_of_replicates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zeroshot_eval.bootstrap.CHUNK_WEIGHTS", 70)
    found = bootstrap(mean_of(np.arange(10.0)), list("abcdefghij"), BootstrapConfig(samples=101))
    assert found["mean"].shape == (101,)


def test_same_groups_give_paired_replicates_and_another_seed_others():
    values, groups = np.random.default_rng(0).normal(size=40), [str(n // 2) for n in range(40)]
    first = bootstrap(mean_of(values), groups, BootstrapConfig(samples=100, seed=1))["mean"]
    shifted = bootstrap(mean_of(values + 1), groups, BootstrapConfig(samples=100, seed=1))["mean"]
    other = bootstrap(mean_of(values), groups, BootstrapConfig(samples=100, seed=2))["mean"]
    assert shifted - first == pytest.approx(np.ones(100))
    assert not np.allclose(first, other)


def test_intervals_cover_where_images_of_a_group_agree_and_ignoring_groups_does_not():
    """150 studies of 40 groups of 5 alike images: nominal 95 %; single images as groups claim far too much."""
    covered = {"groups": 0, "images": 0}
    config = BootstrapConfig(samples=300)
    for study in range(150):
        right = np.random.default_rng(study).random(40) < 0.7
        values = np.repeat(right, 5).astype(float)
        for unit, size in (("groups", 5), ("images", 1)):
            names = [f"{study}-{number // size}" for number in range(200)]
            bounds = interval(bootstrap(mean_of(values), names, config)["mean"])
            covered[unit] += bounds is not None and bounds[0] <= 0.7 <= bounds[1]
    assert 0.89 <= covered["groups"] / 150 <= 0.99
    assert covered["images"] / 150 < 0.75


def test_interval_is_none_where_most_replicates_are_undefined():
    assert interval(np.array([np.nan] * 60 + [0.5] * 40)) is None
    assert interval(np.array([np.nan] * 10 + [0.5] * 90)) == (0.5, 0.5)


def test_too_few_samples_are_refused():
    with pytest.raises(ConfigError, match="bootstrap samples: got 10; allowed: 100 or more"):
        BootstrapConfig(samples=10)
