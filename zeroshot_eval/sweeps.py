"""Scores along a line of checkpoints: between a base and its fine-tuned model, over a run's steps; and greedy soups.

Every checkpoint of a curve is scored in one evaluation, so that each image is decoded once for all of them, and all
share the embedding cache. Interpolation: WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903. Soups: Wortsman et al. 2022,
arXiv 2203.05482.

    OUT/curve.json      the points, and every score with its place on the axis
    OUT/soup.json       what a soup tried, kept and was judged by
    OUT/model/          the soup
    OUT/scores.json …   as of any evaluation
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from clipmed.configuration import nearest, save_yaml
from clipmed.errors import ConfigError
from clipmed.files import write_json
from clipmed.merging import interpolate, soup
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate
from zeroshot_eval.naming import LOWER_IS_BETTER
from zeroshot_eval.run_checkpoints import checkpoints_of_run
from zeroshot_eval.score_files import write_scores

CURVE_FILE = "curve.json"
SOUP_FILE = "soup.json"
COMMAND_FILE = "command.yaml"
CURVE_VERSION = 1
MODEL_FOLDER = "model"
WORK_FOLDER = "curve_checkpoints"


@dataclass(frozen=True, kw_only=True)
class SweepConfig(EvalConfig):
    """Score the interpolations between a base and its fine-tuned checkpoint (WiSE-FT)."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """the base, then the tuned one: folders or hf-hub:org/name, in OpenCLIP's layout"""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """shares of the way from the base (0) to the tuned checkpoint (1)"""
    keep: bool = False
    """keep the interpolated checkpoints in OUT/curve_checkpoints"""

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if len(self.checkpoints) != 2:
            raise ConfigError(f"checkpoints: got {len(self.checkpoints)}; allowed: two, the base and the tuned one")
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 <= a <= 1 for a in self.alphas):
            raise ConfigError(f"alphas: got {self.alphas}; allowed: one or more, each once, from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunCurveConfig(EvalConfig):
    """Score all the checkpoints that a training run kept on its way."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """the folder of the run"""
    keep: bool = False
    """keep the steps' checkpoint folders in OUT/curve_checkpoints"""

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if len(self.checkpoints) != 1:
            raise ConfigError(f"checkpoints: got {len(self.checkpoints)}; allowed: one, the folder of a run")


@dataclass(frozen=True, kw_only=True)
class SoupConfig(EvalConfig):
    """Average checkpoints of one start, all of them or greedily those that help on a validation suite."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """two or more: folders or hf-hub:org/name, in OpenCLIP's layout"""
    method: Literal["greedy", "uniform"] = "greedy"
    """greedy: from the best one on, each is added while the score does not fall; uniform: all"""
    metric: str = "balanced_accuracy"
    """what greedy judges by: an overall average of the suites, or a metric of `judge`"""
    judge: str | None = None
    """judge by this task instead of the average over modalities"""
    on_test: bool = False
    """choose on a test split all the same; scores on it then say nothing of unseen data"""

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if len(self.checkpoints) < 2:
            raise ConfigError(f"checkpoints: got {len(self.checkpoints)}; allowed: two or more")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An evaluation whose checkpoints lie on an axis; `values` are their places, in the order of its runs."""

    axis: Literal["alpha", "step"]
    values: tuple[float, ...]
    evaluation: Evaluation

    def rows(self) -> list[dict[str, Any]]:
        """Return every score with its place on the axis, under the axis's name."""
        places = {run.facts.name: value for run, value in zip(self.evaluation.runs, self.values, strict=True)}
        return [{self.axis: places[row.checkpoint], **asdict(row)} for row in self.evaluation.rows]

    def lines(self, metric: str) -> dict[str, list[tuple[float, float]]]:
        """Return (place, value) points of a metric's averages, by modality and for `overall`, for a chart."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in self.rows():
            if row["metric"] == metric and row["level"] in {"overall", "modality"}:
                found.setdefault(row["modality"] or "overall", []).append((row[self.axis], row["value"]))
        return {name: sorted(points) for name, points in found.items()}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A step of a greedy soup: what was added to those kept before, the score with it, and whether it stayed."""

    added: str
    value: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Soup:
    """A soup: what is in it, where it lies, and for a greedy one what was tried. `evaluation` is of the ingredients."""

    model: str
    ingredients: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    splits: tuple[str, ...] = ()
    evaluation: Evaluation | None = None


def sweep(config: SweepConfig) -> Curve:
    """Score every interpolation and write OUT; its ends are the two checkpoints themselves.

    Raises:
        ClipmedError: the two do not match, or what `evaluate` raises.
    """
    base, tuned = config.checkpoints
    with _work_folder(config.out, config.keep) as work:
        locations = [_point(base, tuned, alpha, work) for alpha in config.alphas]
        return _curve(config, "alpha", config.alphas, locations)


def run_curve(config: RunCurveConfig) -> Curve:
    """Score every checkpoint that a run kept and write OUT.

    Raises:
        ClipmedError: no run, or what `evaluate` raises.
    """
    with _work_folder(config.out, config.keep) as work:
        found = checkpoints_of_run(Path(config.checkpoints[0]), work)
        return _curve(config, "step", [step for step, _ in found], [str(folder) for _, folder in found])


def make_soup(config: SoupConfig) -> Soup:
    """Write the soup to OUT/model and what became of each checkpoint to OUT/soup.json.

    A greedy soup of one is that checkpoint itself: `model` is its location then.

    Raises:
        ConfigError: the metric is not of the suites, or it would be judged on a test split.
        ClipmedError: checkpoints that do not match, or what `evaluate` raises.
    """
    model = config.out / MODEL_FOLDER
    if config.method == "uniform":
        made = Soup(model=str(soup(config.checkpoints, model)), ingredients=config.checkpoints)
    else:
        made = _greedy(config, model)
    save_yaml(config, config.out / COMMAND_FILE)
    record: dict[str, Any] = {"schema_version": CURVE_VERSION, "method": config.method, "model": made.model}
    record |= {"ingredients": list(made.ingredients), "metric": config.metric, "judge": config.judge}
    record |= {"chosen_on": list(made.splits), "trials": [asdict(trial) for trial in made.trials]}
    write_json(config.out / SOUP_FILE, record)
    return made


def choose_greedily(
    values: Mapping[str, float], value_of: Callable[[Sequence[str]], float], *, lower_is_better: bool = False
) -> list[Trial]:
    """Return the trials of a greedy soup (algorithm 1 of arXiv 2203.05482), from the best checkpoint on.

    Args:
        values: the score of each checkpoint alone.
        value_of: the score of a soup of several.
        lower_is_better: whether the score is one of error.
    """
    sign = -1 if lower_is_better else 1
    first, *others = sorted(values, key=lambda location: -sign * values[location])
    trials = [Trial(added=first, value=values[first], kept=True)]
    for location in others:
        kept = [trial for trial in trials if trial.kept]
        value = value_of([*(trial.added for trial in kept), location])
        trials.append(Trial(added=location, value=value, kept=sign * value >= sign * kept[-1].value))
    return trials


def _greedy(config: SoupConfig, model: Path) -> Soup:
    alone = evaluate(_plain(config, config.checkpoints))
    splits = _refuse_test(config, alone)
    values = {run.location: _judged(config, alone, run.facts.name) for run in alone.runs}
    lower_is_better = config.metric.rpartition("/")[2] in LOWER_IS_BETTER
    with _work_folder(config.out, keep=False) as work:

        def value_of(locations: Sequence[str]) -> float:
            candidate = str(soup(locations, work / "candidate"))
            tried = evaluate(_plain(config, (candidate,), bootstrap_samples=0))
            return _judged(config, tried, tried.runs[0].facts.name)

        trials = choose_greedily(values, value_of, lower_is_better=lower_is_better)
    kept = tuple(trial.added for trial in trials if trial.kept)
    made = str(soup(kept, model)) if len(kept) > 1 else kept[0]
    return Soup(model=made, ingredients=kept, trials=tuple(trials), splits=splits, evaluation=alone)


def _judged(config: SoupConfig, evaluation: Evaluation, checkpoint: str) -> float:
    """Return the score that greedy goes by; over several suites, the mean of their averages."""
    level = "task" if config.judge else "overall"
    rows = [
        row
        for row in evaluation.rows
        if row.checkpoint == checkpoint and row.level == level and row.task in {config.judge, None}
    ]
    found = [row.value for row in rows if row.metric == config.metric]
    if not found:
        metrics = sorted({row.metric for row in rows})
        tasks = sorted({row.task for row in evaluation.rows if row.task})
        raise ConfigError(
            f"metric: these suites have no {config.metric!r} of {config.judge or 'all modalities'}"
            f"{nearest(config.metric, metrics)} Allowed: {', '.join(metrics) or 'none'}; judge may be one of "
            f"{', '.join(tasks)}"
        )
    return sum(found) / len(found)


def _refuse_test(config: SoupConfig, evaluation: Evaluation) -> tuple[str, ...]:
    """Return the splits that the choice is made on."""
    tasks = [result.task for result in evaluation.runs[0].results if config.judge in {None, result.task.name}]
    splits = tuple(sorted({getattr(task, "split", getattr(task, "test", "test")) for task in tasks}))
    if "test" in splits and not config.on_test:
        raise ConfigError(
            "suite: a soup that is chosen on a test split has no honest score on it; give a suite whose tasks have "
            "split: val, or say on_test"
        )
    return splits


def _point(base: str, tuned: str, alpha: float, work: Path) -> str:
    if alpha in (0, 1):
        return tuned if alpha else base
    return str(interpolate(base, tuned, alpha, work / f"alpha_{alpha:g}"))


def _curve(
    config: SweepConfig | RunCurveConfig, axis: Literal["alpha", "step"], values: Sequence[float], places: Sequence[str]
) -> Curve:
    evaluation = evaluate(_plain(config, tuple(places)))
    curve = Curve(axis=axis, values=tuple(values), evaluation=evaluation)
    write_scores(evaluation)
    save_yaml(config, config.out / COMMAND_FILE)
    points = [
        {axis: value, "checkpoint": run.facts.name, "digest": run.facts.digest, "location": run.location}
        for value, run in zip(values, evaluation.runs, strict=True)
    ]
    record = {"schema_version": CURVE_VERSION, "axis": axis, "of": list(config.checkpoints), "points": points}
    write_json(config.out / CURVE_FILE, record | {"rows": curve.rows()})
    return curve


def _plain(config: EvalConfig, checkpoints: tuple[str, ...], **changes: Any) -> EvalConfig:
    """Return the evaluation's own settings, for other checkpoints."""
    own = {field.name: getattr(config, field.name) for field in fields(EvalConfig)}
    return EvalConfig(**own | {"checkpoints": checkpoints} | changes)


@contextmanager
def _work_folder(out: Path, keep: bool) -> Iterator[Path]:
    """Yield OUT/curve_checkpoints, which is removed at the end, also after an error, unless it is to be kept."""
    work = out / WORK_FOLDER
    try:
        yield work
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
