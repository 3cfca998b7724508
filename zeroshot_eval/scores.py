"""The rows of scores.json: every task, then averages by dataset, by modality and overall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zeroshot_eval.scoring import (
    AVERAGED,
    ClassificationResult,
    Level,
    Measure,
    RetrievalResult,
    Score,
    average,
    averaged_results,
    overall,
)
from zeroshot_eval.suite import MIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all rows of one evaluation share."""

    suite: str
    checkpoint_digest: str
    set_digests: tuple[str, ...]
    level: float


def score_rows(
    context: Context, classification: Sequence[ClassificationResult], retrieval: Sequence[RetrievalResult]
) -> list[Score]:
    """Return every score, tasks first."""
    rows = [*_task_rows(context, classification), *_task_rows(context, retrieval)]
    rows += _dataset_rows(context, classification)
    rows += _modality_rows(context, classification)
    return rows


def _task_rows(
    context: Context, results: Sequence[ClassificationResult] | Sequence[RetrievalResult]
) -> Iterator[Score]:
    for result in results:
        for metric, measure in result.measures.items():
            yield _row(
                context,
                "task",
                metric,
                measure,
                [result],
                task=result.task.name,
                modality=result.task.modality or MIXED,
                held_out=isinstance(result, ClassificationResult) and result.task.held_out,
            )


def _dataset_rows(context: Context, results: Sequence[ClassificationResult]) -> Iterator[Score]:
    grouped: dict[str, list[ClassificationResult]] = {}
    for result in results:
        if not result.task.held_out:
            grouped.setdefault(dataset_name(result), []).append(result)
    for many in grouped.values():
        for metric in AVERAGED:
            if (measure := average(many, metric)) is not None:
                yield _row(context, "dataset", metric, measure, many)


def _modality_rows(context: Context, results: Sequence[ClassificationResult]) -> Iterator[Score]:
    grouped = averaged_results(results)
    for metric in AVERAGED:
        by_modality = {modality: average(many, metric) for modality, many in grouped.items()}
        defined = {modality: measure for modality, measure in by_modality.items() if measure is not None}
        for modality, measure in defined.items():
            yield _row(context, "modality", metric, measure, grouped[modality], modality=modality)
        if defined:
            used = [result for modality in defined for result in grouped[modality]]
            yield _row(context, "overall", metric, overall(defined.values()), used)


def dataset_name(result: ClassificationResult | RetrievalResult) -> str:
    """Return the sources of a task's samples, joined by a plus sign."""
    return "+".join(result.selection.sources)


def _row(
    context: Context,
    level: Level,
    metric: str,
    measure: Measure,
    results: Sequence[ClassificationResult | RetrievalResult],
    **where: str | bool | None,
) -> Score:
    items = {item.key: item for result in results for item in result.selection.items}
    bounds = measure.interval(context.level)
    single = len({dataset_name(result) for result in results}) == 1
    sets = sorted({index for result in results for index in result.selection.set_indices})
    return Score(
        suite=context.suite,
        level=level,
        task=str(where["task"]) if "task" in where else None,
        dataset=dataset_name(results[0]) if single else None,
        dataset_digest="+".join(context.set_digests[index] for index in sets),
        checkpoint_digest=context.checkpoint_digest,
        modality=str(where["modality"]) if "modality" in where else None,
        held_out=bool(where.get("held_out", False)),
        metric=metric,
        value=measure.value,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n=len(items),
        groups=len({item.group for item in items.values()}),
        chance=measure.chance,
    )
