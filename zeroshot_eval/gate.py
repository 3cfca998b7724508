"""Scores held to bars, for continuous integration: least values, and no drop from a baseline that is shown.

A drop fails where the data show it: where the gain over the baseline lies below -max_drop by a one-sided paired
bootstrap over groups, corrected by Holm over the tasks. So a run fails by bad luck with a chance of alpha at most,
however many tasks there are; a small test set may let a drop pass that it cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from zeroshot_eval.comparison import CompareConfig, CompareSettings, Comparison, TaskDifference, run_compare
from zeroshot_eval.significance import bootstrap_p_value, holm
from zeroshot_eval.stored_scores import read_scores

DEFAULT_METRIC = "balanced_accuracy"  # of averages; a task's is its main metric
Outcome = Literal["pass", "fail", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Hold an evaluation to bars; exit status 0 if it passes, 1 if it fails, 2 if it cannot be judged."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder of the evaluation"""
    checkpoint: str = ""
    """name of the checkpoint, where the folder holds several"""
    min: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: least value of a score. NAME is overall, modality.ct or task.NAME, and may end in .METRIC"""
    max: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: greatest value, for metrics such as ece"""
    whole_interval: bool = False
    """hold the interval's end to the bar, not the value"""
    no_worse_than: Path | None = None
    """folder of a baseline's evaluation on the same data"""
    baseline_checkpoint: str = ""
    """name of the baseline, where its folder holds several"""
    max_drop: float = 0.01
    """drop of a task's main metric that is let pass, in units of the metric"""
    junit: Path | None = None
    """JUnit XML to write"""
    markdown: Path | None = None
    """Markdown to write"""
    settings: Annotated[CompareSettings, tyro.conf.arg(name="")] = field(default_factory=CompareSettings)
    """how drops are judged"""

    def __post_init__(self) -> None:
        if not (self.min or self.max or self.no_worse_than):
            raise ConfigError("nothing to hold the scores to: give --min, --max or --no-worse-than")
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise ConfigError(f"max_drop: got {self.max_drop}; allowed: 0 or more")
        for text in (*self.min, *self.max):
            parse_bar(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One bar and what became of it. `value` is a score, or a gain over the baseline."""

    kind: Literal["min", "max", "no worse"]
    name: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    bar: float
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """All checks of one run of the gate."""

    checkpoint: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome != "fail" for check in self.checks)


def run_gate(config: GateConfig) -> GateResult:
    """Check every bar.

    Raises:
        ConfigError: an unknown name, a folder without scores, or a baseline on other data: the gate cannot judge.
    """
    try:
        scores = read_scores(config.folder)
        checkpoint = _checkpoint(scores, config.checkpoint, config.folder)
        rows = named_rows(scores, checkpoint)
        checks = [_bar(text, "min", rows, config) for text in config.min]
        checks += [_bar(text, "max", rows, config) for text in config.max]
        if config.no_worse_than is not None:
            checks += _no_worse(config, config.no_worse_than)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return GateResult(checkpoint=checkpoint, checks=tuple(checks))


def parse_bar(text: str) -> tuple[str, float]:
    """Return the name and the value of NAME=VALUE.

    Raises:
        ConfigError: anything else.
    """
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise ConfigError(f"bar: got {text!r}; allowed: NAME=VALUE with a finite value, such as modality.ct=0.6")
    return name, number


def named_rows(scores: Mapping[str, Any], checkpoint: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of scores.json by every name that a bar may use; several where suites share a name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in scores["rows"]:
        if row["checkpoint"] != checkpoint or row["level"] not in ("task", "modality", "overall"):
            continue
        name = row["level"] if row["level"] == "overall" else f"{row['level']}.{row[row['level']]}"
        main = scores["tasks"][row["task"]]["main_metric"] if row["level"] == "task" else DEFAULT_METRIC
        names = [f"{name}.{row['metric']}", *([name] if row["metric"] == main else [])]
        for each in names:
            found.setdefault(each, []).append(row)
    return found


def _checkpoint(scores: Mapping[str, Any], wanted: str, folder: Path) -> str:
    names = [str(entry["name"]) for entry in scores["checkpoints"]]
    if wanted in names:
        return wanted
    if wanted or len(names) != 1:
        got = f"got {wanted!r}{nearest(wanted, names)}" if wanted else f"{folder} holds {len(names)};"
        raise ConfigError(f"checkpoint: {got} Allowed: {', '.join(names)}")
    return names[0]


def _bar(text: str, kind: Literal["min", "max"], rows: Mapping[str, Sequence[Any]], config: GateConfig) -> Check:
    """Hold the worst row of a name to its bar."""
    name, bar = parse_bar(text)
    if name not in rows:
        short = [each for each in rows if each.count(".") < 2]
        raise ConfigError(
            f"{kind}: no score is called {name!r}{nearest(name, list(rows))} Allowed: {', '.join(short)}, each also "
            "with .METRIC"
        )
    end = "low" if kind == "min" else "high"
    sign = 1 if kind == "min" else -1

    def held(row: Mapping[str, Any]) -> float | None:
        value: float | None = row[end] if config.whole_interval else row["value"]
        return value

    judged = [row for row in rows[name] if held(row) is not None]
    if not judged:
        return _check(kind, name, rows[name][0], bar, "not judged", "one group alone was scored: no interval")
    worst = min(judged, key=lambda row: sign * (held(row) or 0.0))
    value = held(worst) or 0.0
    outcome: Outcome = "pass" if sign * value >= sign * bar else "fail"
    what = f"the interval's end {value:.4f}" if config.whole_interval else f"{value:.4f}"
    relation = "below" if kind == "min" else "above"
    return _check(kind, name, worst, bar, outcome, f"{what} is {'not ' if outcome == 'pass' else ''}{relation} {bar:g}")


def _check(kind: Literal["min", "max"], name: str, row: Any, bar: float, outcome: Outcome, detail: str) -> Check:
    return Check(
        kind=kind,
        name=name,
        metric=row["metric"],
        value=row["value"],
        low=row["low"],
        high=row["high"],
        bar=bar,
        outcome=outcome,
        detail=detail,
    )


def _no_worse(config: GateConfig, baseline: Path) -> Iterator[Check]:
    """Compare with the baseline; a task that it has and the evaluation has not fails."""
    comparison = run_compare(
        CompareConfig(
            first=baseline,
            second=config.folder,
            first_checkpoint=config.baseline_checkpoint,
            second_checkpoint=config.checkpoint,
            settings=config.settings,
        )
    )
    yield from _drops(comparison, config.max_drop)
    for name, reason in comparison.skipped.items():
        missing = reason.startswith("only the first")
        yield Check(
            kind="no worse",
            name=f"task.{name}",
            metric="",
            value=None,
            low=None,
            high=None,
            bar=-config.max_drop,
            outcome="fail" if missing else "not judged",
            detail="the baseline alone answered it" if missing else reason,
        )


def _drops(comparison: Comparison, max_drop: float) -> Iterator[Check]:
    tested = [task for task in comparison.tasks if len(task.replicates)]
    adjusted = dict(
        zip((task.task for task in tested), holm([_drop_p_value(task, max_drop) for task in tested]), strict=True)
    )
    for task in comparison.tasks:
        p_value = adjusted.get(task.task)
        shown = p_value is not None and p_value < comparison.settings.alpha
        ends = (task.low, task.high)
        low, high = ends if not task.lower_is_better else (None if end is None else -end for end in reversed(ends))
        yield Check(
            kind="no worse",
            name=f"task.{task.task}",
            metric=task.metric,
            value=task.gain,
            low=low,
            high=high,
            bar=-max_drop,
            outcome="not judged" if p_value is None else "fail" if shown else "pass",
            detail="one group alone was scored: no interval"
            if p_value is None
            else f"a drop of more than {max_drop:g} is {'' if shown else 'not '}shown: p (Holm) {p_value:.4f}",
        )


def _drop_p_value(task: TaskDifference, max_drop: float) -> float:
    """Return the one-sided p-value of a gain of -max_drop or more."""
    gains = -task.replicates if task.lower_is_better else task.replicates
    two_sided = bootstrap_p_value(gains, -max_drop)
    return two_sided / 2 if task.gain < -max_drop else 1.0
