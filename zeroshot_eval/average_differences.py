"""Means of paired differences over tasks of a modality, and over modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zeroshot_eval.pairing import Pair
from zeroshot_eval.predictions import Header
from zeroshot_eval.scores import AVERAGED
from zeroshot_eval.significance import Difference, Verdict, difference_of, verdict
from zeroshot_eval.suite import MIXED

AVERAGES = ("balanced_accuracy", "auroc")
OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A task with the differences of the metric that it is compared on, and of those that averages need."""

    pair: Pair
    metric: str
    differences: Mapping[str, Difference]

    @property
    def header(self) -> Header:
        """What was asked."""
        return self.pair.first.header

    @property
    def difference(self) -> Difference:
        """The difference of the metric that the task is compared on."""
        return self.differences[self.metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageDifference:
    """A plain mean over tasks of one modality, or over modalities; outside of the correction for several tasks.

    Its interval takes tasks for independent where they do not have the same groups.
    """

    suite: str
    task: str
    """the modality, or `overall`"""
    metric: str
    num_tasks: int
    n: int
    """distinct samples"""
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    verdict: Verdict


def averaged_metrics(header: Header) -> tuple[str, ...]:
    """Return the metrics whose averages a task enters: none where it is held out or of mixed modality."""
    if header.held_out or header.modality == MIXED:
        return ()
    return tuple(metric for metric in AVERAGES if header.kind in AVERAGED[metric])


def average_differences(compared: Sequence[Compared], alpha: float) -> Iterator[AverageDifference]:
    """Yield the means by modality and over modalities, as far as every entering task defines the metric."""
    for suite in dict.fromkeys(one.header.suite for one in compared):
        for metric in AVERAGES:
            grouped: dict[str, list[Compared]] = {}
            for one in compared:
                if one.header.suite == suite and metric in averaged_metrics(one.header):
                    grouped.setdefault(one.header.modality, []).append(one)
            defined = {
                modality: many for modality, many in grouped.items() if all(metric in one.differences for one in many)
            }
            yield from _of_metric(defined, suite, metric, alpha)


def _of_metric(
    grouped: Mapping[str, Sequence[Compared]], suite: str, metric: str, alpha: float
) -> Iterator[AverageDifference]:
    means = {modality: _mean([one.differences[metric] for one in many], alpha) for modality, many in grouped.items()}
    members = dict(grouped)
    if means:
        members[OVERALL] = [one for many in grouped.values() for one in many]
        means[OVERALL] = _mean(list(means.values()), alpha)
    for name, mean in means.items():
        yield AverageDifference(
            suite=suite,
            task=name,
            metric=metric,
            num_tasks=len(members[name]),
            n=len({key for one in members[name] for key in one.pair.first.keys}),
            first=mean.first,
            second=mean.second,
            difference=mean.difference,
            low=mean.low,
            high=mean.high,
            p_value=mean.p_value,
            verdict=verdict(mean, mean.p_value, alpha),
        )


def _mean(differences: Sequence[Difference], alpha: float) -> Difference:
    have_replicates = all(len(one.replicates) for one in differences)
    return difference_of(
        float(np.mean([one.first for one in differences])),
        float(np.mean([one.second for one in differences])),
        np.mean([one.replicates for one in differences], axis=0) if have_replicates else np.empty(0),
        1 - alpha,
    )
