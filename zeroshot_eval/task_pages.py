"""What the report shows of one task: metrics, confusions, calibration, subgroups and examples of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from zeroshot_eval.examples import Group
from zeroshot_eval.figures import EMPTY, key, line_chart
from zeroshot_eval.grid import SMALL_GROUPS, Chip, Estimate, number, span
from zeroshot_eval.naming import is_other_rule, metric_name, spaced
from zeroshot_eval.retrieval_examples import Query
from zeroshot_eval.scoring import RECALL_PREFIX, TaskResult
from zeroshot_eval.summary import MetricTable, ScoreIndex, metric_table

MAX_CLASSES = 25  # a confusion matrix of more is no longer read
SHOT_METRIC = "balanced_accuracy"
OF_CLASSES = (RECALL_PREFIX, "average_precision/", "auroc/", "f1/", "positives/")  # metrics of single classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A small chart of one checkpoint with its caption."""

    key: Markup
    name: str
    note: str
    body: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionCell:
    """A count, and its share of the row."""

    count: int
    percent: int
    diagonal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionLine:
    """A true class with what it was predicted as, and its recall."""

    name: str
    cells: tuple[ConfusionCell, ...]
    total: int
    recall: str
    span: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """The confusion matrix of one checkpoint."""

    key: Markup
    name: str
    lines: tuple[ConfusionLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One task: title, caveats, what was asked, the metrics, and the rest as far as the task has it."""

    name: str
    kind: str
    title: str
    modality: str
    dataset: str
    note: str
    lead: str
    marks: tuple[Chip, ...] = ()
    warnings: tuple[str, ...] = ()
    metrics: MetricTable
    held_out: bool = False
    confusions: tuple[Confusion, ...] = ()
    more: tuple[tuple[str, MetricTable], ...] = ()
    """further tables of metrics, with what they hold"""
    reliability: tuple[Panel, ...] = ()
    prompts_plot: Markup = EMPTY
    prompts_note: str = ""
    sizes: Markup = EMPTY
    """scores over the number of prompts, or of training images of a probe"""
    sizes_note: str = ""
    subgroups: Markup = EMPTY
    subgroups_notes: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    queries: tuple[tuple[str, tuple[Query, ...]], ...] = ()
    """searches by direction, with its heading"""


def task_metrics(index: ScoreIndex, task: str, main: str, best: int | None) -> MetricTable:
    """Return the table of a task's metrics, the main one first; the others are in `more_metrics`."""
    metrics = [metric for metric in index.metrics(task) if not _is_apart(metric)]
    metrics.sort(key=lambda metric: metric != main)
    return metric_table(index, task, metrics, best={} if best is None else {main: best})


def more_metrics(index: ScoreIndex, task: str) -> list[tuple[str, MetricTable]]:
    """Return the tables of what is apart: single classes (recalls stand beside confusions), the other rule."""
    metrics = [metric for metric in index.metrics(task) if _is_apart(metric)]
    other = [metric for metric in metrics if is_other_rule(metric)]
    classes = [metric for metric in metrics if not is_other_rule(metric)]
    if all(metric.startswith(RECALL_PREFIX) for metric in classes):
        classes = []
    found = {"Single classes": classes, "By the other rule of which captions are right": other}
    return [(title, metric_table(index, task, many)) for title, many in found.items() if many]


def confusions(index: ScoreIndex, results: Sequence[TaskResult]) -> list[Confusion]:
    """Return every checkpoint's confusion matrix; none for several labels an image, or too many classes."""
    first = results[0]
    if len(first.classes) > MAX_CLASSES:
        return []
    recalls = {name: index.estimates(f"{RECALL_PREFIX}{name}", "task", first.task.name) for name in first.classes}
    return [
        Confusion(
            key=key(place),
            name=index.checkpoints[place],
            lines=_confusion_lines(first.classes, counts, {name: found[place] for name, found in recalls.items()}),
        )
        for place, result in enumerate(results)
        if (counts := result.confusion) is not None
    ]


def lead(result: TaskResult) -> str:
    """Return what was asked, in a few sentences."""
    items, groups = len(result.selection.items), len(set(result.selection.groups))
    split = getattr(result.task, "test" if result.kind == "probe" else "split", "test")
    words = [f"{items:,} images of the {split} split, in {groups:,} groups (patients, articles, slides)."]
    if result.kind == "choice":
        words = [f"{result.details['questions']:,} questions and {result.details['statements']:,} statements."]
    elif result.kind == "retrieval":
        words += _retrieval_words(result.details)
    elif result.classes:
        words.append(f"{len(result.classes)} classes.")
    if "majority" in result.details and result.details["majority"] < 1:
        words.append(
            f"Always answering the most frequent class would be right in {number(result.details['majority'])}."
        )
    words += [f"Not asked: {count:,} ({spaced(reason)})." for reason, count in result.selection.excluded.items()]
    if result.undefined:
        words.append(f"Not defined by these data: {', '.join(map(metric_name, result.undefined))}.")
    return " ".join(words)


def caveats(results: Sequence[TaskResult]) -> list[str]:
    """Return what a reader must know before the figures."""
    groups = len(set(results[0].selection.groups))
    found = []
    if groups < SMALL_GROUPS:
        found.append(f"Small: {groups} groups. Only large differences can be seen in so few; read the intervals.")
    if seen := max(result.details.get("test_groups_fitted_on", 0) for result in results):
        found.append(
            f"{seen} of the groups scored here are also in what the probe was fitted on: the scores are too high."
        )
    if not all(result.details.get("converged", True) for result in results):
        found.append("The fit of at least one probe had not converged when its steps ran out.")
    return found


def fit_words(results: Sequence[TaskResult]) -> str:
    """Return what the probes were fitted on and the strength that validation chose for each checkpoint."""
    details = results[0].details
    if "c" not in details:
        return ""
    where = "kept back from them" if details["val_from_train"] else "of their own split"
    strengths = ", ".join(f"{result.details['c']:g}" for result in results)
    return (
        f"Fitted on {details['train_images']:,} images; the strength of the penalty chosen on "
        f"{details['val_images']:,} {where} (C {strengths})."
    )


def tie_words(results: Sequence[TaskResult]) -> str:
    """Return how far ties leave the figures of a retrieval open, for the checkpoint where they do so most."""
    widest: dict[str, tuple[float, float]] = {}
    for result in results:
        for metric, (low, high) in result.details.get("ties", {}).items():
            if metric not in widest or high - low > widest[metric][1] - widest[metric][0]:
                widest[metric] = (low, high)
    if not widest:
        return ""
    metric, (low, high) = max(widest.items(), key=lambda pair: pair[1][1] - pair[1][0])
    return (
        f"Equal similarities leave {len(widest)} figures open, {metric_name(metric)} most: "
        f"{number(low, metric)} … {number(high, metric)}. The figures here count ties against the model."
    )


def shots_chart(index: ScoreIndex, task: str) -> Markup:
    """Return few-shot scores over the training images a class, where there are several numbers of them."""
    shots = {
        int(metric.split("_")[0]): metric
        for metric in index.metrics(task)
        if metric.endswith(f"_shot/{SHOT_METRIC}") and metric.split("_")[0].isdecimal()
    }
    if len(shots) < 2:
        return EMPTY
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in index.checkpoints}
    bands: dict[str, list[tuple[float, float, float]]] = {name: [] for name in index.checkpoints}
    for number_, metric in sorted(shots.items()):
        for name, found in zip(index.checkpoints, index.estimates(metric, "task", task), strict=True):
            if found is not None:
                lines[name].append((number_, found.value))
                bands[name] += [(number_, *found.bounds)] if found.bounds else []
    label = f"{spaced(task)}: {metric_name(SHOT_METRIC)} over training images a class"
    return line_chart(
        {name: points for name, points in lines.items() if points},
        "training images a class",
        label,
        {name: band for name, band in bands.items() if band},
    )


def _is_apart(metric: str) -> bool:
    return metric.startswith(OF_CLASSES) or is_other_rule(metric)


def _retrieval_words(details: Mapping[str, Any]) -> list[str]:
    words = [f"{details['captions']:,} captions, {details['distinct']:,} of them distinct texts."]
    if details["shared"]:
        words.append(
            f"{details['shared']:,} images share a caption with another image. By the rule “own” only an image’s own "
            "captions are right, by “same text” any equal one; chance accounts for it."
        )
    return words


def _confusion_lines(
    classes: Sequence[str], counts: npt.NDArray[np.int64], recalls: Mapping[str, Estimate | None]
) -> tuple[ConfusionLine, ...]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines = []
    for at, name in enumerate(classes):
        found = recalls[name]
        cells = tuple(
            ConfusionCell(count=int(count), percent=round(100 * float(share)), diagonal=column == at)
            for column, (count, share) in enumerate(zip(counts[at], shares[at], strict=True))
        )
        recall, words = (number(found.value), span(found)) if found else ("–", "–")
        total = int(counts[at].sum())
        lines.append(ConfusionLine(name=spaced(name), cells=cells, total=total, recall=recall, span=words))
    return tuple(lines)
