"""A task by what is known of its samples, such as sex, age band, site or scanner: the worst group and the gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from zeroshot_eval.bootstrap import BootstrapConfig, Statistic, bootstrap, interval
from zeroshot_eval.cells import Cells, bounds, p_text
from zeroshot_eval.grid import number
from zeroshot_eval.naming import lower_is_better, metric_name, spaced
from zeroshot_eval.predictions import Predictions
from zeroshot_eval.rescoring import asked_rows, statistic_of, take
from zeroshot_eval.significance import bootstrap_p_value

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_IMAGES = 20  # of a value
MIN_GROUPS = 2
MOST_VALUES = 20  # of a fact; more are no subgroups
AGE_BANDS = ((18, "under 18"), (40, "18 to 39"), (65, "40 to 64"), (200, "65 and over"))  # years


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The samples with one value of a fact."""

    value: str
    n: int
    groups: int
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FactScores:
    """A task's metric by the values of one fact, and the gap between the best and the worst.

    `gap` is positive. The values are picked by their scores, so that a gap of any size comes about by chance: `p_value`
    is that of no gap, multiplied by the number of pairs that it was picked from (Bonferroni).
    """

    task: str
    fact: str
    metric: str
    subgroups: tuple[Subgroup, ...]
    worst: str
    best: str
    gap: float
    low: float | None
    high: float | None
    p_value: float | None
    left_out: dict[str, int]
    """samples that enter none, by reason"""


def fact_scores(predictions: Predictions, config: BootstrapConfig, metric: str = "") -> list[FactScores]:
    """Return the metric by every fact that makes subgroups, in the order of the facts' names.

    A fact does where 2 to 20 of its values have 20 images or more of two groups or more, and the metric is defined on
    two of them or more. Source and modality count as facts. Ages in years are taken in bands. A fact whose values
    each belong to one class is no subgroup but another name of the classes, and is left out.

    Args:
        predictions: a checkpoint's answers to a task.
        config: how intervals are drawn.
        metric: what to score; the task's main metric if not given.
    """
    metric = metric or predictions.header.main_metric
    rows = asked_rows(predictions, metric)
    found = (_scores_of(rows, fact, values, metric, config) for fact, values in sorted(_columns(rows).items()))
    return [one for one in found if one is not None]


def subgroup_table(scores: Sequence[FactScores], checkpoint: str) -> Cells:
    """Return scores by subgroup as a table; the worst value of each fact is named beneath it."""
    rows = [
        (
            spaced(one.fact),
            group.value + (" (worst)" if group.value == one.worst else ""),
            number(group.score, one.metric),
            bounds(group.low, group.high),
            f"{group.n:,}",
        )
        for one in scores
        for group in one.subgroups
    ]
    notes = [
        f"{spaced(one.fact)}: gap {number(one.gap)} ({bounds(one.low, one.high)}) between {one.best} and {one.worst}, "
        f"p {p_text(one.p_value)} for the worst of {len(one.subgroups)} values; left out: {_counted(one.left_out)}"
        for one in scores
    ]
    title = f"{checkpoint}: {scores[0].task}, {metric_name(scores[0].metric)}" if scores else checkpoint
    return Cells(title=title, columns=("fact", "value", "score", "95 %", "n"), rows=tuple(rows), notes=tuple(notes))


def age_band(text: str) -> str | None:
    """Return the band of an age in years, or None where the text is none."""
    try:
        years = float(text)
    except ValueError:
        return None
    return next((band for limit, band in AGE_BANDS if 0 <= years < limit), None)


def _columns(rows: Predictions) -> dict[str, list[str]]:
    """Return the value of every fact for each row, empty where it is not known."""
    facts = rows.facts
    names = dict.fromkeys(name for own in facts for name in own)
    columns = {name: [own.get(name, "") for own in facts] for name in names}
    columns |= {name: rows.column(name) for name in ("source", "modality")}
    return {name: _banded(values) if _is_age(name) else values for name, values in columns.items()}


def _is_age(name: str) -> bool:
    return "age" in name.casefold().replace("-", "_").split("_")


def _banded(values: Sequence[str]) -> list[str]:
    known = [value for value in values if value]
    if not known or any(age_band(value) is None for value in known):
        return list(values)
    return [(age_band(value) or "") if value else "" for value in values]


def _scores_of(
    rows: Predictions, fact: str, values: Sequence[str], metric: str, config: BootstrapConfig
) -> FactScores | None:
    members, left_out = _members(values, rows.groups)
    if not 2 <= len(members) <= MOST_VALUES or _names_classes(rows, members):
        return None
    parts = {value: (own, statistic_of(take(rows, own), {metric})) for value, own in members.items()}
    points = {value: _value(part(np.ones((1, len(own)))), metric) for value, (own, part) in parts.items()}
    for value in [value for value, point in points.items() if np.isnan(point)]:
        left_out[f"{metric} is not defined for {value}"] = len(parts.pop(value)[0])
        del points[value]
    if len(points) < 2:
        return None
    sign = -1 if lower_is_better(metric) else 1
    worst, best = (
        min(points, key=lambda value: sign * points[value]),
        max(points, key=lambda value: sign * points[value]),
    )
    replicates = bootstrap(_statistic(parts, metric, (worst, best)), rows.groups, config)
    gap = replicates[_GAP]
    ends = interval(gap, config.level)
    num_pairs = len(list(combinations(points, 2)))
    return FactScores(
        task=rows.header.task,
        fact=fact,
        metric=metric,
        subgroups=tuple(
            _subgroup(value, rows, members[value], points[value], interval(replicates[value], config.level))
            for value in points
        ),
        worst=worst,
        best=best,
        gap=abs(points[best] - points[worst]),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        p_value=min(1.0, num_pairs * bootstrap_p_value(gap)) if ends else None,
        left_out=left_out,
    )


_GAP = "\0gap"  # no value of a fact


def _members(values: Sequence[str], groups: Sequence[str]) -> tuple[dict[str, Ints], dict[str, int]]:
    """Return the rows of each value that has enough, by value, and the counts of the others by reason."""
    column, owners = np.asarray(values, dtype=object), np.asarray(groups, dtype=object)
    members: dict[str, Ints] = {}
    left_out: Counter[str] = Counter()
    for value in sorted(set(values)):
        own = np.flatnonzero(column == value)
        if not value:
            left_out["not known"] += len(own)
        elif len(own) < MIN_IMAGES or len(set(owners[own])) < MIN_GROUPS:
            left_out[f"of values with fewer than {MIN_IMAGES} images or {MIN_GROUPS} groups"] += len(own)
        else:
            members[value] = own
    return members, dict(left_out)


def _names_classes(rows: Predictions, members: Mapping[str, Ints]) -> bool:
    if rows.header.kind not in ("classification", "probe") or rows.targets.ndim != 1:
        return False
    return all(len(np.unique(rows.targets[own])) == 1 for own in members.values())


def _statistic(parts: Mapping[str, tuple[Ints, Statistic]], metric: str, ends: tuple[str, str]) -> Statistic:
    def statistic(weights: Floats) -> dict[str, Floats]:
        found = {value: _weighted(part, weights[:, own], metric) for value, (own, part) in parts.items()}
        sign = -1 if lower_is_better(metric) else 1
        return found | {_GAP: sign * (found[ends[1]] - found[ends[0]])}

    return statistic


def _weighted(part: Statistic, weights: Floats, metric: str) -> Floats:
    """Return the metric, NaN where no weight is left."""
    empty = weights.sum(axis=1) <= 0
    values = part(np.where(empty[:, None], 1.0, weights))[metric]
    return np.where(empty, np.nan, values)


def _value(values: Mapping[str, Floats], metric: str) -> float:
    return float(values[metric][0]) if metric in values else float("nan")


def _subgroup(value: str, rows: Predictions, own: Ints, score: float, ends: tuple[float, float] | None) -> Subgroup:
    groups = rows.groups
    return Subgroup(
        value=value,
        n=len(own),
        groups=len({groups[at] for at in own}),
        score=score,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
    )


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none"
