"""The rows of scores.json: every task, then averages by dataset, by modality and overall."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from zeroshot_eval.encoders import EncoderFacts
from zeroshot_eval.predictions import TaskKind
from zeroshot_eval.scoring import Level, Measure, Score, TaskResult, mean
from zeroshot_eval.suite import MIXED

LEVEL = 0.95
# The metrics that are averaged over tasks, and the kinds of tasks that must define them.
AVERAGED: Mapping[str, tuple[TaskKind, ...]] = {
    "accuracy": ("classification",),
    "balanced_accuracy": ("classification",),
    "macro_f1": ("classification",),
    "auroc": ("classification", "multi_label"),
    "auroc_cosine": ("classification",),
}


def score_rows(facts: EncoderFacts, results: Sequence[TaskResult], digests: Sequence[str]) -> list[Score]:
    """Return every score of one checkpoint, tasks first.

    Averages are plain means of zero-shot tasks: a dataset's over its tasks, a modality's over its tasks, the overall
    one over modalities, each of the same weight. Held-out tasks and tasks of mixed modality enter none.

    Args:
        facts: the checkpoint's.
        results: its scored tasks.
        digests: of the collections, by index.
    """
    rows = [
        _row(facts, digests, "task", metric, measure, [result])
        for result in results
        for metric, measure in result.measures.items()
    ]
    for suite in dict.fromkeys(result.suite for result in results):
        own = [result for result in results if result.suite == suite and not result.held_out]
        rows += _averages(facts, digests, own)
    return rows


def dataset_name(result: TaskResult) -> str:
    """Return the sources of a task's samples, joined by a plus sign."""
    return "+".join(result.selection.sources)


def data_digest(results: Sequence[TaskResult], digests: Sequence[str]) -> str:
    """Return the digests of the data that were asked, joined by a plus sign.

    Args:
        results: of tasks over collections or over data of their own.
        digests: of the collections, by index.
    """
    indices = sorted({index for result in results for index in result.selection.set_indices})
    own = sorted({result.data_digest for result in results if result.data_digest})
    return "+".join([*(digests[index] for index in indices if index >= 0), *own])


def _averages(facts: EncoderFacts, digests: Sequence[str], results: Sequence[TaskResult]) -> Iterator[Score]:
    for metric, kinds in AVERAGED.items():
        entering = [result for result in results if result.kind in kinds]
        for many in _by(entering, dataset_name).values():
            if (measure := _average(many, metric)) is not None:
                yield _row(facts, digests, "dataset", metric, measure, many)
    for metric, kinds in AVERAGED.items():
        entering = [result for result in results if result.kind in kinds and result.modality != MIXED]
        grouped = _by(entering, lambda result: result.modality)
        averages = {modality: _average(many, metric) for modality, many in grouped.items()}
        defined = {modality: measure for modality, measure in averages.items() if measure is not None}
        for modality, measure in defined.items():
            yield _row(facts, digests, "modality", metric, measure, grouped[modality])
        if defined:
            used = [result for modality in defined for result in grouped[modality]]
            yield _row(facts, digests, "overall", metric, mean(list(defined.values())), used)


def _average(results: Sequence[TaskResult], metric: str) -> Measure | None:
    """Return the mean over tasks; None where one of them leaves the metric undefined."""
    measures = [result.measures.get(metric) for result in results]
    defined = [measure for measure in measures if measure is not None]
    return mean(defined) if len(defined) == len(measures) else None


def _by(results: Sequence[TaskResult], name: Callable[[TaskResult], str]) -> dict[str, list[TaskResult]]:
    grouped: dict[str, list[TaskResult]] = {}
    for result in results:
        grouped.setdefault(name(result), []).append(result)
    return grouped


def _row(
    facts: EncoderFacts,
    digests: Sequence[str],
    level: Level,
    metric: str,
    measure: Measure,
    results: Sequence[TaskResult],
) -> Score:
    items = {item.key: item for result in results for item in result.rows}
    bounds = measure.interval(LEVEL)
    datasets = {dataset_name(result) for result in results}
    first = results[0]
    return Score(
        suite=first.suite,
        level=level,
        task=first.task.name if level == "task" else None,
        dataset=dataset_name(first) if len(datasets) == 1 else None,
        dataset_digest=data_digest(results, digests),
        checkpoint=facts.name,
        checkpoint_digest=facts.digest,
        modality=first.modality if level in {"task", "modality"} else None,
        held_out=level == "task" and first.held_out,
        metric=metric,
        value=measure.value,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n=measure.n if measure.n is not None else len(items),
        groups=len({item.group for item in items.values()}),
        chance=measure.chance,
    )
