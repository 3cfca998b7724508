"""Tests between two checkpoints on the same images: McNemar, DeLong, paired bootstrap; Holm over several tasks.

Legend: n images, m positives among them, K scores of each, B sets of weights. Differences are the second's value less
the first's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from clipmed.errors import DataError
from zeroshot_eval.bootstrap import BootstrapConfig, Statistic, bootstrap, interval

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Verdict = Literal["win", "tie", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """The exact test of McNemar: of the images that one alone has right, does either have more than by a fair coin?"""

    only_first: int
    """images that the first alone has right"""
    only_second: int
    """images that the second alone has right"""
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeLong:
    """The test of DeLong, DeLong and Clarke-Pearson for two areas under the ROC curve of the same images."""

    first: float
    second: float
    standard_error: float
    """of the difference"""
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference by bootstrap over groups. Without bounds and p-value where one group alone was scored."""

    first: float
    second: float
    low: float | None
    high: float | None
    p_value: float | None
    replicates: Floats = field(repr=False)

    @property
    def difference(self) -> float:
        """The second's value less the first's."""
        return self.second - self.first


def mcnemar(first: Bools, second: Bools) -> McNemar:
    """Return McNemar's exact two-sided test (Psychometrika 1947), the sign test of the images that differ.

    It takes every image for an independent one: with several images of a patient its p-value is too small.

    Args:
        first: whether the first has each image right, shape (n,).
        second: the same of the second.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    p_value = float(stats.binomtest(only_second, total).pvalue) if total else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p_value=p_value)


def delong(positive: Bools, first: Floats, second: Floats, groups: Sequence[str] | None = None) -> DeLong:
    """Return DeLong's two-sided test of two areas under the ROC curve (Biometrics 1988).

    Args:
        positive: the positives, shape (n,).
        first: the first's scores, shape (n,).
        second: the second's.
        groups: the group of each image, if several belong together; see `auroc_covariance`.

    Raises:
        DataError: fewer than two positives, negatives, or groups of either.
    """
    areas, covariance = auroc_covariance(positive, np.stack([first, second]), groups)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = float(np.sqrt(max(variance, 0.0)))
    difference = float(areas[1] - areas[0])
    if error > 1e-12:
        p_value = float(2 * stats.norm.sf(abs(difference) / error))
    else:
        p_value = 1.0 if abs(difference) < 1e-12 else 0.0
    return DeLong(first=float(areas[0]), second=float(areas[1]), standard_error=error, p_value=p_value)


def auroc_covariance(
    positive: Bools, scores: npt.NDArray[np.floating], groups: Sequence[str] | None = None
) -> tuple[Floats, Floats]:
    """Return the areas under the ROC curves, shape (K,), and their covariance by DeLong, shape (K, K).

    In O(K n log n) by midranks (Sun and Xu, IEEE Signal Processing Letters 2014). With groups, the components of a
    group are summed before they are squared (Obuchowski, Biometrics 1997); single images give DeLong's own covariance.

    Args:
        positive: the positives, shape (n,).
        scores: K scores of the images, shape (K, n); ties count one half.
        groups: the group of each image; every image by itself if not given.

    Raises:
        DataError: fewer than two positives, negatives, or groups of either.
    """
    _, group = np.unique(np.arange(len(positive)) if groups is None else np.asarray(groups), return_inverse=True)
    m, n = int(positive.sum()), int((~positive).sum())
    with_positives, with_negatives = (len(np.unique(group[mask])) for mask in (positive, ~positive))
    if min(with_positives, with_negatives) < 2:
        raise DataError(
            f"DeLong's test: got {m} positives of {with_positives} groups and {n} negatives of {with_negatives}; "
            "allowed: two groups or more of each; score more images"
        )
    ranks = stats.rankdata(scores, axis=1)
    above = (ranks[:, positive] - stats.rankdata(scores[:, positive], axis=1)) / n  # share of negatives below each
    below = 1 - (ranks[:, ~positive] - stats.rankdata(scores[:, ~positive], axis=1)) / m
    areas = above.mean(axis=1)
    of_positives = _sums(above - areas[:, None], group[positive], group.max() + 1)
    of_negatives = _sums(below - areas[:, None], group[~positive], group.max() + 1)
    num_groups = group.max() + 1
    cross = of_positives @ of_negatives.T * num_groups / ((num_groups - 1) * m * n)
    covariance = (
        of_positives @ of_positives.T * with_positives / ((with_positives - 1) * m**2)
        + of_negatives @ of_negatives.T * with_negatives / ((with_negatives - 1) * n**2)
        + cross
        + cross.T
    )
    return areas, covariance


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (Scandinavian Journal of Statistics 1979), in the order of the given ones.

    The i-th smallest of k is multiplied by k - i + 1, and never falls below a smaller one's. Where those below alpha
    are called differences, the chance of even one false call is at most alpha, whatever the tasks have in common.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


def paired_differences(
    first: Statistic, second: Statistic, groups: Sequence[str], config: BootstrapConfig
) -> dict[str, Difference]:
    """Return the difference of every metric that both statistics define, by bootstrap with the same draws for both.

    Args:
        first: maps weights (B, n) to {metric: (B,)} for the first checkpoint.
        second: the same for the second, of the same images in the same order.
        groups: the group of each of the n images.
        config: number of replicates, seed and level.
    """

    def statistic(weights: Floats) -> dict[str, Floats]:
        one, other = first(weights), second(weights)
        return {metric: other[metric] - one[metric] for metric in one if metric in other}

    ones = np.ones((1, len(groups)))
    values = [first(ones), second(ones)]
    replicates = bootstrap(statistic, groups, config) if len(set(groups)) > 1 else {}
    found = {}
    for metric in statistic(ones):
        pair = [float(value[metric][0]) for value in values]
        if not np.isnan(pair).any():
            found[metric] = difference_of(pair[0], pair[1], replicates.get(metric, np.empty(0)), config.level)
    return found


def difference_of(first: float, second: float, replicates: Floats, level: float) -> Difference:
    """Return a difference from both values and the replicates of the difference, none of which may be there."""
    bounds = interval(replicates, level) if len(replicates) else None
    return Difference(
        first=first,
        second=second,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        p_value=bootstrap_p_value(replicates) if bounds else None,
        replicates=replicates,
    )


def bootstrap_p_value(replicates: Floats, null: float = 0.0) -> float:
    """Return the two-sided p-value of `null`: twice the share of replicates on its thinner side, itself included.

    It is the level at which the interval's end touches `null`, and no smaller than 2 / (samples + 1).
    """
    defined = replicates[~np.isnan(replicates)]
    sides = ((defined <= null).sum() + 1, (defined >= null).sum() + 1)
    return float(min(1.0, 2 * min(sides) / (len(defined) + 1)))


def verdict(difference: Difference, adjusted: float | None, alpha: float, *, lower_is_better: bool = False) -> Verdict:
    """Return what is shown of the second checkpoint: `win` or `loss`, or else `tie`.

    A difference is shown where its adjusted p-value is below alpha and its interval leaves out 0.
    """
    if adjusted is None or adjusted >= alpha or difference.low is None or difference.high is None:
        return "tie"
    if difference.low <= 0 <= difference.high:
        return "tie"
    return "win" if (difference.difference > 0) != lower_is_better else "loss"


def _sums(components: Floats, group: npt.NDArray[np.intp], num_groups: int) -> Floats:
    """Sum components (K, images) by group, shape (K, groups)."""
    return np.stack([np.bincount(group, weights=row, minlength=num_groups) for row in components])
