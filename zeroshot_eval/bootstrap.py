"""Percentile bootstrap over groups: whole patients, articles or slides are drawn, never single images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], dict[str, Floats]]

CHUNK_WEIGHTS = 4_000_000  # weights held at once: 32 MB


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
    """Return the replicates of every metric, each of shape (samples,).

    One replicate draws G of the G groups with replacement; an image weighs as often as its group was drawn. Equal
    groups give equal draws, whatever the checkpoint, so that replicates of two checkpoints are paired.

    Args:
        statistic: maps weights (B, n) to {metric: values (B,)}; NaN where a replicate leaves a metric undefined.
        groups: the group of each of the n images.
        config: number of replicates and seed.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng([config.seed, *_digest_words(names.tolist())])
    step = max(1, CHUNK_WEIGHTS // len(index))
    parts: list[dict[str, Floats]] = []
    share = np.full(len(names), 1.0 / len(names))
    for start in range(0, config.samples, step):
        draws = rng.multinomial(len(names), share, size=min(step, config.samples - start))
        parts.append(statistic(draws[:, index].astype(np.float64)))
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def interval(replicates: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Return the percentile interval, or None where fewer than half of the replicates are defined."""
    defined = replicates[~np.isnan(replicates)]
    if len(defined) * 2 < len(replicates) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _digest_words(names: Sequence[str]) -> list[int]:
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    return [int.from_bytes(digest[start : start + 4], "big") for start in range(0, 16, 4)]
