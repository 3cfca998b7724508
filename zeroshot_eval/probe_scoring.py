"""Results of probe tasks on cached image embeddings: the probe on all training images, and those on a few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroshot_eval.bootstrap import BootstrapConfig, Statistic
from zeroshot_eval.classification import chance_levels, classification_statistic, majority_rate
from zeroshot_eval.multi_label import chance_levels as multi_label_chance
from zeroshot_eval.predictions import classification_columns, multi_label_columns
from zeroshot_eval.probes import Examples, FewShotResult, ProbeConfig, ProbeResult, ProbeSkip, few_shot, linear_probe
from zeroshot_eval.scoring import Measure, TaskResult, measure, multi_label_metrics
from zeroshot_eval.selection import Selection, Skipped
from zeroshot_eval.suite import ProbeTask

FEW_SHOT_METRICS = ("accuracy", "balanced_accuracy", "auroc")
# Macro metrics that probabilities of a probe share with those of prompts; nothing is ranked by cosines here.
NOT_OF_PROBES = ("auroc_cosine", "average_precision_cosine")

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeData:
    """The samples of a probe and their embeddings, by what they are for; `val` may be missing."""

    train: tuple[Selection, Singles]
    test: tuple[Selection, Singles]
    val: tuple[Selection, Singles] | None = None

    def examples(self, what: tuple[Selection, Singles] | None) -> Examples | None:
        """Return samples as the probe takes them."""
        if what is None:
            return None
        selection, features = what
        return Examples(features, selection.targets, tuple(selection.groups))


def score_probe(
    suite: str, task: ProbeTask, data: ProbeData, config: BootstrapConfig | None, *, seed: int = 0
) -> TaskResult | Skipped:
    """Fit and score the probes of a task, or say why they cannot be fitted.

    Intervals resample the test groups alone; how much few-shot probes vary with the images drawn is in the details.
    """
    settings = ProbeConfig(repeats=task.repeats, seed=seed)
    train, val = data.examples(data.train), data.examples(data.val)
    assert train is not None
    selection, features = data.test
    classes = task.classes
    fitted = linear_probe(train, features, len(classes), val, settings)
    if isinstance(fitted, ProbeSkip):
        return Skipped(task.name, fitted.reason, suite)
    if task.kind == "multi_label":
        return _multi_label_result(suite, task, data, fitted, config)
    targets = selection.targets.astype(np.int64)
    chance = chance_levels(targets, len(classes))
    measures, undefined = measure(_statistic(targets, fitted.scores, task), selection.groups, config, chance)
    details = _details(data, fitted)
    for shots in task.shots:
        found = few_shot(train, features, len(classes), shots, val, settings)
        name = f"{shots}_shot"
        if isinstance(found, ProbeSkip):
            details[name] = {"skipped": found.reason}
            continue
        part, spread = _few_shot_measures(targets, found, selection, config, chance)
        measures |= {f"{name}/{metric}": one for metric, one in part.items()}
        details[name] = {"draws": task.repeats, "chosen_c": list(found.chosen), "deviation_over_draws": spread}
    return TaskResult(
        suite=suite,
        task=task,
        kind="probe",
        selection=selection,
        rows=selection.items,
        measures=measures,
        columns=classification_columns(targets, fitted.scores),
        classes=classes,
        scores=fitted.scores,
        undefined=undefined,
        details=details | {"majority": majority_rate(targets)},
    )


def _multi_label_result(
    suite: str, task: ProbeTask, data: ProbeData, fitted: ProbeResult, config: BootstrapConfig | None
) -> TaskResult:
    """Score a multi-label probe over the classes that could be fitted."""
    selection, _ = data.test
    kept = [at for at in range(len(task.classes)) if at not in fitted.unfitted]
    classes = tuple(task.classes[at] for at in kept)
    targets, scores = selection.targets.astype(np.int8)[:, kept], fitted.scores[:, kept]
    measures, undefined = measure(
        multi_label_metrics(targets, scores, classes), selection.groups, config, multi_label_chance(targets)
    )
    unfitted = [task.classes[at] for at in fitted.unfitted]
    return TaskResult(
        suite=suite,
        task=task,
        kind="probe",
        selection=Selection(selection.items, targets, selection.excluded),
        rows=selection.items,
        measures=measures,
        columns=multi_label_columns(targets, scores),
        classes=classes,
        scores=scores,
        undefined=undefined,
        details=_details(data, fitted) | {"unfitted_classes": unfitted},
    )


def _few_shot_measures(
    targets: npt.NDArray[np.int64],
    found: FewShotResult,
    selection: Selection,
    config: BootstrapConfig | None,
    chance: Mapping[str, float],
) -> tuple[dict[str, Measure], dict[str, float]]:
    """Return the mean over draws of a few metrics, and the standard deviation of each over the draws."""
    statistics = [classification_statistic(targets, scores, 1.0, only=FEW_SHOT_METRICS) for scores in found.scores]

    def statistic(weights: Floats) -> dict[str, Floats]:
        draws = [one(weights) for one in statistics]
        return {name: np.mean([draw[name] for draw in draws], axis=0) for name in FEW_SHOT_METRICS}

    measures, _ = measure(statistic, selection.groups, config, chance)
    ones = np.ones((1, len(targets)))
    values = [one(ones) for one in statistics]
    several = len(values) > 1
    spread = {name: float(np.std([value[name][0] for value in values], ddof=int(several))) for name in measures}
    return measures, spread


def _statistic(targets: npt.NDArray[np.int64], scores: Singles, task: ProbeTask) -> Statistic:
    metrics = classification_statistic(targets, scores, 1.0, ordinal=task.ordinal)
    return lambda weights: {name: values for name, values in metrics(weights).items() if name not in NOT_OF_PROBES}


def _details(data: ProbeData, fitted: ProbeResult) -> dict[str, Any]:
    """Return how the probe was fitted, and how many test groups it has seen."""
    seen = set(data.train[0].groups) | (set(data.val[0].groups) if data.val is not None else set())
    return {
        "c": fitted.c,
        "validation": [list(point) for point in fitted.curve],
        "train_images": fitted.num_train,
        "val_images": fitted.num_val,
        "val_from_train": fitted.carved,
        "converged": fitted.converged,
        "test_groups_fitted_on": len(seen & set(data.test[0].groups)),
    }
