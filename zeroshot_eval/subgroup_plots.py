"""A task's scores by subgroup, of every checkpoint: dots with intervals, and the gaps in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.cells import bounds, p_text
from zeroshot_eval.charts import dots
from zeroshot_eval.figures import EMPTY
from zeroshot_eval.grid import Estimate, Grid, Line, number
from zeroshot_eval.naming import metric_name, spaced
from zeroshot_eval.predictions import Predictions
from zeroshot_eval.subgroups import FactScores, Subgroup, fact_scores

# Metrics whose chance level is the same for any part of the samples.
STEADY_CHANCE = ("accuracy", "balanced_accuracy", "auroc", "auroc_cosine", "quadratic_kappa")
MOST_FACTS = 6  # of a task


def subgroup_plot(
    answers: Sequence[Predictions], config: BootstrapConfig, chance: float | None
) -> tuple[Markup, list[str]]:
    """Return the plot of a task and the sentences beneath it; empty where nothing makes subgroups.

    Args:
        answers: one a checkpoint, to the same task.
        config: how intervals are drawn.
        chance: the task's chance level.
    """
    names = [one.header.checkpoint for one in answers]
    found = {name: fact_scores(one, config) for name, one in zip(names, answers, strict=True)}
    metric = answers[0].header.main_metric
    facts = list(dict.fromkeys(one.fact for scores in found.values() for one in scores))
    by_fact = {
        fact: {name: next((one for one in found[name] if one.fact == fact), None) for name in names} for fact in facts
    }
    steady = chance if metric in STEADY_CHANCE else None
    lines = [line for fact in facts[:MOST_FACTS] for line in _lines(fact, by_fact[fact], metric, steady)]
    if not lines:
        return EMPTY, []
    left = [f"Not shown: {', '.join(map(spaced, facts[MOST_FACTS:]))}."] if len(facts) > MOST_FACTS else []
    said = [sentence for fact in facts[:MOST_FACTS] for sentence in _gaps(fact, by_fact[fact])]
    return dots(Grid(checkpoints=tuple(names), lines=tuple(lines))), [*said, *left]


def _lines(fact: str, scores: Mapping[str, FactScores | None], metric: str, chance: float | None) -> list[Line]:
    values = list(dict.fromkeys(group.value for one in scores.values() if one for group in one.subgroups))
    return [
        Line(
            key=f"{fact}/{value}",
            title=spaced(value),
            group=spaced(fact),
            metric=metric_name(metric),
            estimates=tuple(_estimate(_of_value(one, value), chance) for one in scores.values()),
        )
        for value in values
    ]


def _of_value(scores: FactScores | None, value: str) -> Subgroup | None:
    return next((group for group in scores.subgroups if group.value == value), None) if scores else None


def _estimate(group: Subgroup | None, chance: float | None) -> Estimate | None:
    if group is None:
        return None
    return Estimate(value=group.score, low=group.low, high=group.high, n=group.n, groups=group.groups, chance=chance)


def _gaps(fact: str, scores: Mapping[str, FactScores | None]) -> list[str]:
    said = [
        f"{name} {number(one.gap)} ({bounds(one.low, one.high)}) from {spaced(one.best)} to {spaced(one.worst)}, "
        f"p {p_text(one.p_value)}"
        for name, one in scores.items()
        if one is not None and one.best != one.worst
    ]
    left_out = next((one.left_out for one in scores.values() if one is not None), {})
    counted = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return [f"Gap by {spaced(fact)}: {'; '.join(said) or 'none'}.{f' Left out: {counted}.' if counted else ''}"]
