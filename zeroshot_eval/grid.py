"""Scores as a grid, tasks by checkpoints: what the heat map, the dots and the tables of a report all draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMALL_GROUPS = 100  # below it a 95 % interval of an accuracy near one half is wider than about ±10 points


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A warning that stands beside a score wherever it is shown; an alarm says that the score may not count."""

    text: str
    alarm: bool = False
    words: str = ""
    """the whole of it, for those who look closer"""
    places: tuple[int, ...] = ()
    """the checkpoints that it is about; all if empty"""

    @property
    def said(self) -> str:
        """The whole of the warning."""
        return self.words or self.text

    def is_about(self, place: int) -> bool:
        """Return whether the warning is about a checkpoint."""
        return not self.places or place in self.places


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One figure with all that a reader needs to judge it; `low` and `high` are None where there is no interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    chance: float | None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def above_chance(self) -> bool | None:
        """Whether the whole interval lies above chance; None where the interval or chance is unknown."""
        return None if self.low is None or self.chance is None else self.low > self.chance

    @property
    def small(self) -> bool:
        """Whether so few groups were scored that the interval can only be wide."""
        return self.groups < SMALL_GROUPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One task (or modality): a metric's estimate for every checkpoint, None where one was not scored."""

    key: str
    title: str
    group: str
    """the heading it stands under: a modality"""
    metric: str
    estimates: tuple[Estimate | None, ...]
    best: int | None = None
    """the checkpoint that a paired test puts above each other one, if there is one"""
    marks: tuple[Chip, ...] = ()
    """warnings that stay beside the score wherever it is shown, such as leakage"""

    @property
    def known(self) -> list[Estimate]:
        """The estimates there are."""
        return [estimate for estimate in self.estimates if estimate is not None]

    @property
    def sizes(self) -> str:
        """The n of the line: one number, or one a checkpoint where they differ."""
        found = sorted({estimate.n for estimate in self.known})
        return " / ".join(f"{n:,}" for n in found) or "–"

    @property
    def chance(self) -> float | None:
        """The chance level, the same for every checkpoint."""
        return next((estimate.chance for estimate in self.known if estimate.chance is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Lines over the same checkpoints, in the order in which they are shown."""

    checkpoints: tuple[str, ...]
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        assert all(len(line.estimates) == len(self.checkpoints) for line in self.lines)

    @property
    def by_group(self) -> dict[str, list[Line]]:
        """The lines under each heading, in order of first appearance."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.group, []).append(line)
        return found


def skill(value: float, chance: float | None) -> float:
    """Return the share of the way from chance to perfect that a value has gone: 0 at chance, 1 at 1; from −1 on.

    Without a chance level (None) the value itself counts.
    """
    if chance is None or chance >= 1:
        return min(max(value, -1.0), 1.0)
    return min(max((value - chance) / (1 - chance), -1.0), 1.0)


def number(value: float | None, metric: str = "") -> str:
    """Return a figure as pages and tables print it: three decimals, one for ranks, a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:.1f}" if metric.endswith("median_rank") else f"{value:.3f}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """Return a difference with its sign: +0.012, −0.300, 0.000."""
    text = f"{value:+.3f}"
    return "0.000" if text in {"+0.000", "-0.000"} else text.replace("-", "−")


def span(estimate: Estimate, metric: str = "") -> str:
    """Return the interval in words: 0.810 – 0.870, or a dash."""
    bounds = estimate.bounds
    return "–" if bounds is None else f"{number(bounds[0], metric)} – {number(bounds[1], metric)}"
