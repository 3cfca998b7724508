"""Intervals over groups: constants, pairing, width by group, calibration, coverage."""

import numpy as np
import pytest
from scipy import special, stats

from clipmed.errors import ConfigError
from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap, interval, student_quantiles


def mean_of(values: np.ndarray):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_interval_of_a_constant_is_that_constant():
    found = bootstrap(mean_of(np.full(30, 0.25)), [str(n % 7) for n in range(30)], BootstrapConfig(samples=200))
    assert interval(found["mean"]) == pytest.approx((0.25, 0.25))


def weights_asked(groups: list[str], samples: int) -> np.ndarray:
    """Every row of weights that a bootstrap asks for, shape (rows, n)."""
    asked = []

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(weights)
        return {"one": np.ones(len(weights))}

    bootstrap(statistic, groups, BootstrapConfig(samples=samples))
    return np.concatenate(asked)


def test_replicates_draw_as_many_groups_as_there_are_and_the_jackknife_leaves_out_one_at_a_time():
    rows = weights_asked(["a", "a", "b", "b", "c", "c"], 150)
    assert (rows[:, ::2] == rows[:, 1::2]).all()  # images of one group stay together
    assert set(rows[:150].sum(axis=1)) == {6.0}  # three groups of two images each
    assert sorted(rows[150:, ::2].tolist()) == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_many_groups_are_left_out_in_blocks_that_cover_each_once():
    rows = weights_asked([str(number // 2) for number in range(1000)], 100)[100:]
    assert len(rows) == 200
    assert ((1 - rows).sum(axis=0) == 1).all()
    assert ((1 - rows).sum(axis=1) >= 4).all()  # two groups of two images, or three


def test_few_groups_widen_the_interval_as_students_t_does():
    """Normal values, one a group: the interval is that of the t-test but for the noise of resampling."""
    for num_groups in (5, 12, 40):
        values = stats.norm.ppf((np.arange(num_groups) + 0.5) / num_groups)
        groups = [str(number) for number in range(num_groups)]
        low, high = interval(bootstrap(mean_of(values), groups, BootstrapConfig(samples=20000))["mean"])
        expected = stats.sem(values) * stats.t.ppf(0.975, num_groups - 1)
        assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
        assert (high + low) / 2 == pytest.approx(0, abs=0.05 * expected)


def test_skewed_data_get_intervals_that_reach_further_to_the_long_side():
    """One wrong answer in 40: plain percentiles end at 1 - 3/40; a 95 % interval must allow for more errors."""
    values = np.array([0.0] + [1.0] * 39)
    groups = [str(number) for number in range(40)]
    low, high = interval(bootstrap(mean_of(values), groups, BootstrapConfig(samples=4000))["mean"])
    assert high == 1.0
    assert 0.975 - low > 0.075 - 1e-9


def test_calibration_keeps_the_order_and_the_range_of_replicates():
    values = np.random.default_rng(0).random(30) ** 4
    groups = [str(number) for number in range(30)]
    plain: list[np.ndarray] = []

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        plain.append(weights @ values / weights.sum(axis=1))
        return {"mean": plain[-1]}

    calibrated = bootstrap(statistic, groups, BootstrapConfig(samples=500))["mean"]
    drawn = np.concatenate(plain)[:500]
    assert (np.argsort(calibrated, kind="stable") == np.argsort(drawn, kind="stable")).all()
    assert drawn.min() <= calibrated.min() <= calibrated.max() <= drawn.max()


def test_undefined_replicates_stay_undefined():
    """A metric of one rare group: draws without it are undefined, and so is the jackknife that leaves it out."""
    member = np.array([1.0] + [0.0] * 9)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"rare": np.where(weights @ member > 0, 0.5, np.nan)}

    found = bootstrap(statistic, [str(number) for number in range(10)], BootstrapConfig(samples=400))["rare"]
    assert np.isnan(found).mean() == pytest.approx(0.9**10, abs=0.08)
    assert set(found[~np.isnan(found)]) == {0.5}


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


@pytest.mark.parametrize("freedom", [1.0, 1.3, 2.0, 7.5, 58.0, 399.0, 1e5])
def test_quantiles_of_student_s_t_are_scipy_s(freedom: float):
    levels = (np.arange(1000) + 0.5) / 1000
    found = student_quantiles(freedom, levels)
    assert special.stdtr(freedom, found) == pytest.approx(levels, abs=3e-5)
    assert found[25:975] == pytest.approx(special.stdtrit(freedom, levels)[25:975], rel=1e-3)
