"""Two checkpoints on the same samples: the paired difference of every task, averages, and who wins after Holm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import tyro
from tqdm import tqdm

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from zeroshot_eval.average_differences import AverageDifference, Compared, average_differences, averaged_metrics
from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.flips import Flip, find_flips
from zeroshot_eval.naming import lower_is_better
from zeroshot_eval.pairing import Pair, pair, read_answers
from zeroshot_eval.predictions import Predictions, TaskKind
from zeroshot_eval.rescoring import asked_rows, is_right, metric_values, statistic_of
from zeroshot_eval.significance import (
    Difference,
    McNemar,
    Verdict,
    delong,
    holm,
    mcnemar,
    paired_differences,
    verdict,
)

Floats = npt.NDArray[np.float64]
Test = Literal["bootstrap", "mcnemar", "delong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """How differences are judged."""

    metric: str = ""
    """metric to compare on; every task's main metric if not given"""
    tasks: tuple[str, ...] = ()
    """only these tasks; all that both checkpoints answered if not given"""
    alpha: float = 0.05
    """chance of even one false win or loss over all tasks; intervals cover 1 - alpha"""
    samples: int = 10_000
    """resamples of each difference"""
    seed: int = 0
    """seed of the resamples"""
    flips: int = 24
    """images listed of each task and direction that one checkpoint alone has right"""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise ConfigError(f"alpha: got {self.alpha}; allowed: above 0, up to 0.5")
        if self.flips < 0:
            raise ConfigError(f"flips: got {self.flips}; allowed: 0 or more")
        self.bootstrap()

    def bootstrap(self) -> BootstrapConfig:
        """Return how differences are resampled."""
        return BootstrapConfig(samples=self.samples, seed=self.seed, level=1 - self.alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Compare a second checkpoint with a first one, on what both answered."""

    first: Annotated[Path, tyro.conf.Positional]
    """folder of the first's evaluation: the one to compare with"""
    second: Annotated[Path, tyro.conf.Positional]
    """folder of the second's; may be the same"""
    first_checkpoint: str = ""
    """name of the first, where its folder holds several"""
    second_checkpoint: str = ""
    """name of the second, where its folder holds several"""
    out: Path | None = None
    """folder for comparison.json and comparison.md; only printed if not given"""
    settings: Annotated[CompareSettings, tyro.conf.arg(name="")] = field(default_factory=CompareSettings)
    """how differences are judged"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two checkpoints."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDifference:
    """The paired difference of a task: the second's metric less the first's.

    `p_value` is that of `test`: McNemar's for accuracy where every image is its own group, DeLong's (with groups) for
    the AUROC of two classes, else the bootstrap's. `adjusted` is Holm's over all tasks of the comparison.
    """

    task: str
    suite: str
    kind: TaskKind
    modality: str
    held_out: bool
    metric: str
    lower_is_better: bool
    n: int
    groups: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    test: Test
    p_value: float | None
    adjusted: float | None
    bootstrap_p_value: float | None
    mcnemar: McNemar | None
    """of accuracy, every image taken for independent; None where answers are not right or wrong"""
    verdict: Verdict
    unpaired_first: tuple[str, ...]
    """samples that the first alone answered; in no figure"""
    unpaired_second: tuple[str, ...]
    replicates: Floats = field(repr=False, compare=False)

    @property
    def gain(self) -> float:
        """The difference, positive where the second is better."""
        return -self.difference if self.lower_is_better else self.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that two checkpoints have in common, and what they have not."""

    first: Side
    second: Side
    settings: CompareSettings
    tasks: tuple[TaskDifference, ...]
    averages: tuple[AverageDifference, ...]
    flips: tuple[Flip, ...]
    skipped: dict[str, str]
    """tasks that were not compared, each with the reason"""

    @property
    def counts(self) -> dict[Verdict, int]:
        """Wins, ties and losses of the second checkpoint over tasks."""
        found = Counter(task.verdict for task in self.tasks)
        return {"win": found["win"], "tie": found["tie"], "loss": found["loss"]}


def run_compare(config: CompareConfig) -> Comparison:
    """Compare two evaluations' folders.

    Raises:
        ClipmedError: no answers, a name that is not there, or answers to different questions.
    """
    first = read_answers(config.first, config.first_checkpoint)
    second = read_answers(config.second, config.second_checkpoint)
    return compare_answers(first, second, config.settings)


def compare_answers(
    first: Sequence[Predictions], second: Sequence[Predictions], settings: CompareSettings | None = None
) -> Comparison:
    """Compare two checkpoints' answers.

    Args:
        first: the answers of one checkpoint, a task each.
        second: those of the other; a task that one alone has is named under `skipped`.
        settings: how differences are judged.

    Raises:
        DataError: different classes, data or truths of a task.
        ConfigError: an unknown task, or too few resamples for so many tasks.
    """
    settings = settings or CompareSettings()
    ours, theirs = ({one.header.task: one for one in side} for side in (first, second))
    skipped = _unshared(ours, theirs, settings)
    shared = [name for name in ours if name in theirs and (not settings.tasks or name in settings.tasks)]
    _check_resolution(len(shared), settings)
    compared: dict[str, Compared] = {}
    for name in tqdm(shared, "comparing", unit="task", delay=2):
        both = pair(ours[name], theirs[name])
        metric = settings.metric or both.first.header.main_metric
        differences = _differences(both, metric, settings)
        if metric in differences:
            compared[name] = Compared(pair=both, metric=metric, differences=differences)
        else:
            skipped[name] = _undefined(both, metric)
    return Comparison(
        first=_side(first),
        second=_side(second),
        settings=settings,
        tasks=_judged(list(compared.values()), settings.alpha),
        averages=tuple(average_differences(list(compared.values()), settings.alpha)),
        flips=tuple(flip for one in compared.values() for flip in find_flips(one.pair, settings.flips)),
        skipped=skipped,
    )


def _side(answers: Sequence[Predictions]) -> Side:
    return Side(name=answers[0].header.checkpoint, digest=answers[0].header.checkpoint_digest)


def _unshared(
    ours: Mapping[str, Predictions], theirs: Mapping[str, Predictions], settings: CompareSettings
) -> dict[str, str]:
    known = list(dict.fromkeys([*ours, *theirs]))
    for name in settings.tasks:
        if name not in known:
            raise ConfigError(f"tasks: got {name!r}{nearest(name, known)} Allowed: {', '.join(known)}")
    alone = [name for name in known if (name in ours) != (name in theirs)]
    return {
        name: f"only the {'first' if name in ours else 'second'} checkpoint answered it"
        for name in alone
        if not settings.tasks or name in settings.tasks
    }


def _check_resolution(num_tasks: int, settings: CompareSettings) -> None:
    least = 2 * num_tasks / (settings.samples + 1)
    if least >= settings.alpha:
        raise ConfigError(
            f"samples: got {settings.samples} for {num_tasks} tasks: no p-value could fall below alpha "
            f"{settings.alpha} after Holm; allowed: {int(2 * num_tasks / settings.alpha) + 1} or more"
        )


def _undefined(both: Pair, metric: str) -> str:
    known = metric_values(both.first)
    if metric in known:
        return f"{metric} is not defined on the samples that both answered"
    return f"stored answers do not give {metric}{nearest(metric, list(known))} They give: {', '.join(known)}"


def _differences(both: Pair, metric: str, settings: CompareSettings) -> dict[str, Difference]:
    """Return the differences of a metric and, for tasks that enter averages, of those."""
    first, second = (asked_rows(one, metric) for one in (both.first, both.second))
    names = {metric, *averaged_metrics(both.first.header)}
    statistics = [statistic_of(one, names) for one in (first, second)]
    return paired_differences(statistics[0], statistics[1], first.groups, settings.bootstrap())


def _judged(compared: Sequence[Compared], alpha: float) -> tuple[TaskDifference, ...]:
    """Choose each task's test, adjust the p-values of all that have one, and give verdicts."""
    tests = [_test(one) for one in compared]
    tested = [at for at, (_, p_value) in enumerate(tests) if p_value is not None]
    adjusted = dict(zip(tested, holm([tests[at][1] or 0.0 for at in tested]), strict=True))
    return tuple(_task(one, tests[at], adjusted.get(at), alpha) for at, one in enumerate(compared))


def _test(one: Compared) -> tuple[Test, float | None]:
    """Return the test of a task's difference and its p-value, None where one group alone was asked."""
    rows, p_value = asked_rows(one.pair.first, one.metric), one.difference.p_value
    if p_value is None:
        return "bootstrap", None
    flips = _mcnemar(one.pair)
    if one.metric == "accuracy" and flips is not None and len(set(rows.groups)) == len(rows.table):
        return "mcnemar", flips.p_value
    exact = _delong_p_value(one.pair) if one.metric == "auroc" else None
    return ("bootstrap", p_value) if exact is None else ("delong", exact)


def _task(one: Compared, test: tuple[Test, float | None], adjusted: float | None, alpha: float) -> TaskDifference:
    header, difference = one.pair.first.header, one.difference
    rows, flips = asked_rows(one.pair.first, one.metric), _mcnemar(one.pair)
    lower = lower_is_better(one.metric)
    return TaskDifference(
        task=header.task,
        suite=header.suite,
        kind=header.kind,
        modality=header.modality,
        held_out=header.held_out,
        metric=one.metric,
        lower_is_better=lower,
        n=len(rows.table),
        groups=len(set(rows.groups)),
        first=difference.first,
        second=difference.second,
        difference=difference.difference,
        low=difference.low,
        high=difference.high,
        test=test[0],
        p_value=test[1],
        adjusted=adjusted,
        bootstrap_p_value=difference.p_value,
        mcnemar=flips,
        verdict=verdict(difference, adjusted, alpha, lower_is_better=lower),
        unpaired_first=one.pair.only_first,
        unpaired_second=one.pair.only_second,
        replicates=difference.replicates,
    )


def _mcnemar(both: Pair) -> McNemar | None:
    first, second = is_right(both.first), is_right(both.second)
    return None if first is None or second is None else mcnemar(first, second)


def _delong_p_value(both: Pair) -> float | None:
    """Return DeLong's p-value where there are two classes, each of two groups or more."""
    if both.first.header.kind not in ("classification", "probe") or len(both.first.header.classes) != 2:
        return None
    targets, groups = both.first.targets, both.first.groups
    if targets.ndim != 1:
        return None
    by_class = [{group for group, target in zip(groups, targets, strict=True) if target == at} for at in (0, 1)]
    if min(map(len, by_class)) < 2:
        return None
    ours, theirs = (one.scores.astype(np.float64) for one in (both.first, both.second))
    return delong(targets == 1, ours[:, 1] - ours[:, 0], theirs[:, 1] - theirs[:, 0], groups).p_value
