"""Bootstrap over groups: whole patients, articles or slides are drawn, never single images.

Percentiles of plain replicates are too narrow where groups are few and too symmetric near the ends of a scale. So the
replicates are calibrated before they leave: their order stays, and their quantiles move to where those of a confidence
distribution lie. Efron's acceleration (Better bootstrap confidence intervals, JASA 1987) carries the skew; Student's t
in place of the normal, with Satterthwaite's degrees of freedom, and the factor G / (G - 1) of the variance carry the
few groups (as in Hesterberg's expanded percentiles, The American Statistician 2015). Both come from a jackknife over
groups. `python -m benchmarks.eval_coverage` measures how often the intervals cover: 93 to 96.4 % of the time from 40
groups on, for an AUROC of 0.98 from 100. No interval tells anything where the data do not vary: of 40 right answers in
40 the bounds are 1 and 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], dict[str, Floats]]

CHUNK_WEIGHTS = 4_000_000  # weights held at once: 32 MB
JACKKNIFE_BLOCKS = 200  # more groups than these are left out several at a time
METHOD = "bootstrap over groups; percentiles with jackknife acceleration and t quantiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """How intervals are drawn."""

    samples: int = 1000
    """resamples of each interval"""
    seed: int = 0
    """the same seed gives the same resamples for every checkpoint"""
    level: float = 0.95
    """coverage of the interval"""

    def __post_init__(self) -> None:
        if self.samples < 100:
            raise ConfigError(
                f"bootstrap samples: got {self.samples}; allowed: 100 or more; fewer give no 95 % interval"
            )
        if not 0.5 <= self.level < 1:
            raise ConfigError(f"bootstrap level: got {self.level}; allowed: 0.5 up to, not including, 1")


def bootstrap(statistic: Statistic, groups: Sequence[str], config: BootstrapConfig) -> dict[str, Floats]:
    """Return the calibrated replicates of every metric, each of shape (samples,); their percentiles are intervals.

    One replicate draws G of the G groups with replacement; an image weighs as often as its group was drawn. Equal
    groups give equal draws, whatever the checkpoint, so that replicates of two checkpoints are paired. The statistic is
    also asked for weights of 0 and 1 that leave out one group, or a block of them, at a time.

    Args:
        statistic: maps weights (B, n) to {metric: values (B,)}; NaN where a replicate leaves a metric undefined.
        groups: the group of each of the n images.
        config: number of replicates and seed.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    words = _digest_words(names.tolist())
    rng = np.random.default_rng([config.seed, *words])

    def draw(rows: range) -> Floats:
        drawn = rng.integers(len(names), size=(len(rows), len(names)))
        drawn += len(names) * np.arange(len(rows))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        return counts[:, index].astype(np.float64)

    replicates = _chunked(statistic, draw, config.samples, len(index))
    num_blocks = min(len(names), JACKKNIFE_BLOCKS)
    block = np.random.default_rng([config.seed + 1, *words]).permutation(len(names))[index] % num_blocks
    left_out = _chunked(statistic, lambda rows: (block != np.asarray(rows)[:, None]) * 1.0, num_blocks, len(index))
    return {metric: _calibrated(values, left_out[metric], len(names)) for metric, values in replicates.items()}


def interval(replicates: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Return the percentiles of replicates, or None where fewer than half of them are defined."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) * 2 < len(replicates) or not len(defined):
        return None
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = _percentiles(np.sort(defined), ends)
    return float(low), float(high)


def student_quantiles(freedom: float, levels: Floats) -> Floats:
    """Return the quantiles of Student's t at levels between 0 and 1; the levels are met to 3e-5.

    Over the angle arctan(t / sqrt(freedom)) the density is the cosine to the power of freedom - 1, which is summed by
    trapezoids. scipy's quantiles are exact, and importing them takes longer than scoring a few tasks.
    """
    widest = min(math.pi / 2, 12 / math.sqrt(freedom))
    angles = np.linspace(-widest, widest, 2049)
    density = np.cos(angles) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    quantiles: Floats = math.sqrt(freedom) * np.tan(np.interp(levels * area[-1], area, angles))
    return quantiles


@lru_cache(maxsize=1)
def _normal_table() -> tuple[Floats, Floats]:
    """Return points from -8 to 8 and the normal distribution function there; between them it is linear to 1e-6."""
    points = np.linspace(-8, 8, 4097)
    return points, np.array([math.erfc(-point / math.sqrt(2)) / 2 for point in points])


def _chunked(
    statistic: Statistic, weights: Callable[[range], Floats], num_rows: int, num_images: int
) -> dict[str, Floats]:
    """Return the statistic of so many rows of weights, few enough of them at a time."""
    step = max(1, CHUNK_WEIGHTS // num_images)
    chunks = [range(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
    parts = [statistic(weights(rows)) for rows in chunks]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _calibrated(replicates: Floats, left_out: Floats, num_groups: int) -> Floats:
    """Move the quantiles of replicates (samples,) to those of a confidence distribution; their order stays.

    Args:
        replicates: plain ones; NaN stays NaN.
        left_out: the metric without each block of groups, shape (blocks,).
        num_groups: groups that were drawn from.
    """
    defined = np.flatnonzero(~np.isnan(replicates))
    left_out = left_out[~np.isnan(left_out)]
    if not len(defined) or not len(left_out) or np.ptp(left_out) == 0:
        return replicates
    influence = left_out.mean() - left_out
    variance = (influence**2).sum()
    acceleration = (influence**3).sum() / (6 * variance**1.5)
    spread = (influence**4).sum() - variance**2 / len(influence)
    freedom = np.clip(2 * variance**2 / max(spread, 1e-9 * variance**2), 1, num_groups - 1)
    levels = (np.arange(len(defined)) + 0.5) / len(defined)
    reach = np.sqrt(num_groups / (num_groups - 1)) * student_quantiles(float(freedom), levels)
    moved = np.interp(reach / np.maximum(1 - acceleration * reach, 1e-9), *_normal_table())
    order = defined[np.argsort(replicates[defined], kind="stable")]
    calibrated = replicates.copy()
    calibrated[order] = _percentiles(replicates[order], moved)
    return calibrated


def _percentiles(ordered: Floats, levels: Floats) -> Floats:
    """Return numpy's quantiles of sorted values at many levels; several times faster where they are sorted already."""
    return np.interp(levels * (len(ordered) - 1), np.arange(len(ordered)), ordered)


def _digest_words(names: Sequence[str]) -> list[int]:
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    return [int.from_bytes(digest[start : start + 4], "big") for start in range(0, 16, 4)]
