"""What is worked out from all checkpoints of an evaluation together: who is better where, and what warns of a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from zeroshot_eval.average_differences import OVERALL
from zeroshot_eval.charts import PairedDifference
from zeroshot_eval.comparison import CompareSettings, Comparison, TaskDifference, compare_answers
from zeroshot_eval.evaluation import CheckpointRun, Evaluation
from zeroshot_eval.grid import SMALL_GROUPS, Chip
from zeroshot_eval.leakage_page import leak_chips
from zeroshot_eval.predictions import Predictions, make_predictions
from zeroshot_eval.score_files import header
from zeroshot_eval.summary import HEADLINE

MOST_COMPARED = 5  # checkpoints of which every pair is compared; of more, each with the first alone
SAMPLES = 2000
FITTED = Chip(text="fitted on test groups", alarm=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was worked out from all checkpoints together.

    Attributes:
        differences: by the name of a further checkpoint, its paired differences from the first; averages first.
        best: by task, the checkpoint that paired tests put above every other one.
        chips: by task, the warnings that stand beside its scores.
    """

    differences: Mapping[str, Sequence[PairedDifference]] = field(default_factory=dict)
    best: Mapping[str, int] = field(default_factory=dict)
    chips: Mapping[str, Sequence[Chip]] = field(default_factory=dict)


def find(evaluation: Evaluation) -> Findings:
    """Compare the checkpoints, unless the evaluation draws no intervals, and collect the warnings."""
    differences, best = _compared(evaluation)
    return Findings(differences=differences, best=best, chips=_chips(evaluation))


def answers_of(evaluation: Evaluation, run: CheckpointRun) -> dict[str, Predictions]:
    """Return a checkpoint's answers by task, as they are stored."""
    return {
        result.task.name: make_predictions(header(evaluation, run, result), result.rows, result.columns)
        for result in run.results
        if result.columns
    }


def winners(wins: Mapping[str, set[tuple[int, int]]], num_checkpoints: int) -> dict[str, int]:
    """Return the checkpoint that beats every other one, for the tasks where there is one.

    Args:
        wins: by task, pairs (better, worse) of checkpoints.
        num_checkpoints: how many there are.
    """
    found = {}
    for task, pairs in wins.items():
        for one in range(num_checkpoints):
            if all((one, other) in pairs for other in range(num_checkpoints) if other != one):
                found[task] = one
    return found


def _compared(evaluation: Evaluation) -> tuple[dict[str, list[PairedDifference]], dict[str, int]]:
    runs = evaluation.runs
    if len(runs) < 2 or evaluation.config.intervals() is None:
        return {}, {}
    answers = [list(answers_of(evaluation, run).values()) for run in runs]
    tasks = max(map(len, answers))
    if not tasks:
        return {}, {}
    settings = CompareSettings(samples=max(SAMPLES, 50 * tasks), seed=evaluation.config.seed, flips=0)
    every = len(runs) <= MOST_COMPARED
    pairs = combinations(range(len(runs)), 2) if every else ((0, other) for other in range(1, len(runs)))
    found = {(one, other): compare_answers(answers[one], answers[other], settings) for one, other in pairs}
    differences = {runs[other].facts.name: _rows(found[0, other]) for other in range(1, len(runs))}
    return differences, winners(_wins(found), len(runs)) if every else {}


def _wins(compared: Mapping[tuple[int, int], Comparison]) -> dict[str, set[tuple[int, int]]]:
    wins: dict[str, set[tuple[int, int]]] = {}
    for (first, second), comparison in compared.items():
        verdicts = [(task.task, task.verdict) for task in comparison.tasks]
        verdicts += [
            (overall_key(mean.suite), mean.verdict)
            for mean in comparison.averages
            if mean.task == OVERALL and mean.metric == HEADLINE
        ]
        for task, verdict in verdicts:
            if verdict != "tie":
                wins.setdefault(task, set()).add((second, first) if verdict == "win" else (first, second))
    return wins


def overall_key(suite: str) -> str:
    """Return how the mean over a suite's modalities is called among tasks."""
    return f"overall-{suite}"


def _rows(comparison: Comparison) -> list[PairedDifference]:
    means = [
        PairedDifference(
            task=overall_key(mean.suite),
            difference=mean.difference,
            low=mean.low,
            high=mean.high,
            verdict=mean.verdict,
            note="" if mean.p_value is None else f"p {_p(mean.p_value)}",
        )
        for mean in comparison.averages
        if mean.task == OVERALL and mean.metric == HEADLINE
    ]
    return means + [_row(task) for task in comparison.tasks]


def _row(task: TaskDifference) -> PairedDifference:
    """Return a task's difference, turned where lower values are better: right of zero is better always."""
    ends = (task.low, task.high)
    if task.lower_is_better:
        ends = (None if task.high is None else -task.high, None if task.low is None else -task.low)
    return PairedDifference(
        task=task.task,
        difference=task.gain,
        low=ends[0],
        high=ends[1],
        verdict=task.verdict,
        note="" if task.adjusted is None else f"p {_p(task.adjusted)}",
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _chips(evaluation: Evaluation) -> dict[str, list[Chip]]:
    chips = leak_chips(evaluation)
    for run in evaluation.runs:
        for result in run.results:
            groups = len(set(result.selection.groups))
            found = [FITTED] if result.details.get("test_groups_fitted_on", 0) else []
            found += [Chip(text="small n", words=f"only {groups} groups")] if groups < SMALL_GROUPS else []
            own = chips.setdefault(result.task.name, [])
            own += [chip for chip in found if chip not in own]
    return chips
