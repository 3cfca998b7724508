"""Results of tasks on cached embeddings: every metric with its value, chance level and bootstrap replicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zeroshot_eval.bootstrap import BootstrapConfig, Statistic, bootstrap, interval
from zeroshot_eval.classification import (
    chance_levels,
    classification_statistic,
    confusion_matrix,
    majority_rate,
    prompt_ensemble,
    recalls,
)
from zeroshot_eval.multi_label import chance_levels as multi_label_chance
from zeroshot_eval.multi_label import class_statistic, undefined_classes
from zeroshot_eval.predictions import TaskKind, classification_columns, multi_label_columns
from zeroshot_eval.ranking import mean_defined
from zeroshot_eval.selection import Item, Selection
from zeroshot_eval.suite import MIXED, ClassificationTask, Task

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Level = Literal["task", "dataset", "modality", "overall"]

RECALL_PREFIX = "recall/"
MACRO_NAMES = {"f1": "macro_f1"}


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: its value, the value expected by chance, and its bootstrap replicates (none for a single group)."""

    value: float
    chance: float | None
    replicates: Floats = field(repr=False)
    n: int | None = None
    """what it is the mean of, where that is not the task's samples"""

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the percentile interval, or None where the data do not allow one."""
        return interval(self.replicates, level) if len(self.replicates) else None


@dataclass(frozen=True, slots=True)
class Texts:
    """The text side of a checkpoint: the unit-length embedding (D,) of every text, and how it scales cosines."""

    embeddings: Mapping[str, Singles]
    logit_scale: float
    logit_bias: float | None = None

    def rows(self, texts: Sequence[str]) -> Singles:
        """Return the embeddings of these texts, shape (P, D), in their order."""
        return np.stack([self.embeddings[text] for text in texts])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """A scored task of one checkpoint.

    `columns` are those of its predictions, a row an item of `rows`. `scores` are (n, C) where there are classes.
    """

    suite: str
    task: Task
    kind: TaskKind
    selection: Selection
    rows: tuple[Item, ...] = field(repr=False)
    measures: dict[str, Measure]
    columns: dict[str, pa.Array] = field(repr=False)
    classes: tuple[str, ...] = ()
    scores: Singles | None = field(default=None, repr=False)
    data_digest: str = ""
    """of data that are in no collection"""
    undefined: tuple[str, ...] = ()
    """metrics that these data do not define"""
    details: dict[str, Any] = field(default_factory=dict)
    """further figures of the task, as JSON holds them"""

    @property
    def modality(self) -> str:
        """The task's modality, or `mixed`."""
        return self.task.modality or MIXED

    @property
    def held_out(self) -> bool:
        """Whether training never saw such samples."""
        return isinstance(self.task, ClassificationTask) and self.task.held_out

    @property
    def predicted(self) -> Ints:
        """Predicted class indices, shape (n,)."""
        assert self.scores is not None
        predicted: Ints = self.scores.argmax(axis=1).astype(np.int64)
        return predicted

    @property
    def confusion(self) -> Ints | None:
        """Counts of true and predicted classes, shape (C, C), a row a true class; None where classes do not exclude."""
        if self.scores is None or self.selection.targets.ndim != 1:
            return None
        return confusion_matrix(self.selection.targets.astype(np.int64), self.predicted, len(self.classes))

    @property
    def majority(self) -> float:
        """The accuracy of always answering the most frequent class."""
        return majority_rate(self.selection.targets.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure of scores.json. `low` and `high` bound the interval; null where one group alone was scored."""

    suite: str
    level: Level
    task: str | None
    dataset: str | None
    dataset_digest: str | None
    checkpoint: str
    checkpoint_digest: str
    modality: str | None
    held_out: bool
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    chance: float | None


def score_classification(
    suite: str,
    task: ClassificationTask,
    selection: Selection,
    embedded: tuple[Singles, Texts],
    config: BootstrapConfig | None,
) -> TaskResult:
    """Score one zero-shot task of labels.

    Args:
        suite: name of the task's suite.
        task: what is asked.
        selection: of whom; n samples.
        embedded: their embeddings (n, D), and the checkpoint's texts.
        config: how intervals are drawn; None draws none.
    """
    if task.kind == "multi_label":
        return _score_multi_label(suite, task, selection, embedded, config)
    images, texts = embedded
    classes, targets = task.class_ids, selection.targets.astype(np.int64)
    cosines: Singles = images @ class_rows(task.all_prompts(), texts).T
    metrics = classification_statistic(targets, cosines, texts.logit_scale, ordinal=task.ordinal)
    predicted = cosines.argmax(axis=1).astype(np.int64)

    def statistic(weights: Floats) -> dict[str, Floats]:
        by_class = recalls(targets, predicted, weights, len(classes))
        return metrics(weights) | {f"{RECALL_PREFIX}{name}": by_class[:, at] for at, name in enumerate(classes)}

    chance = chance_levels(targets, len(classes)) | {f"{RECALL_PREFIX}{name}": 1 / len(classes) for name in classes}
    counts = np.bincount(targets, minlength=len(classes)).tolist()
    sizes = {f"{RECALL_PREFIX}{name}": count for name, count in zip(classes, counts, strict=True)}
    measures, undefined = measure(statistic, selection.groups, config, chance, sizes)
    return TaskResult(
        suite=suite,
        task=task,
        kind="classification",
        selection=selection,
        rows=selection.items,
        measures=measures,
        columns=classification_columns(targets, cosines),
        classes=classes,
        scores=cosines,
        undefined=undefined,
        details={"majority": majority_rate(targets)},
    )


def _score_multi_label(
    suite: str,
    task: ClassificationTask,
    selection: Selection,
    embedded: tuple[Singles, Texts],
    config: BootstrapConfig | None,
) -> TaskResult:
    images, texts = embedded
    classes, targets = task.class_ids, selection.targets.astype(np.int8)
    scores: Singles = images @ class_rows(task.all_prompts(), texts).T
    if pairs := bool(task.negative_prompts):
        denying = {name: task.negative_prompts[name] for name in classes}
        scores = scores - images @ class_rows(denying, texts).T
    measures, undefined = measure(
        multi_label_metrics(targets, scores, classes, pairs=pairs),
        selection.groups,
        config,
        multi_label_chance(targets),
    )
    return TaskResult(
        suite=suite,
        task=task,
        kind="multi_label",
        selection=selection,
        rows=selection.items,
        measures=measures,
        columns=multi_label_columns(targets, scores),
        classes=classes,
        scores=scores,
        undefined=undefined,
        details={"undefined_classes": undefined_classes(targets, classes)},
    )


def multi_label_metrics(
    targets: npt.NDArray[np.int8], scores: Singles, classes: Sequence[str], *, pairs: bool = False
) -> Statistic:
    """Return the function from weights (B, n) to macro metrics and those of each class, as `auroc` and `auroc/mass`."""
    of_class = class_statistic(targets, scores, pairs=pairs)

    def statistic(weights: Floats) -> dict[str, Floats]:
        by_class = of_class(weights)
        macro = {MACRO_NAMES.get(name, name): mean_defined(values) for name, values in by_class.items()}
        single = {f"{name}/{of}": values[:, at] for name, values in by_class.items() for at, of in enumerate(classes)}
        return macro | single

    return statistic


def class_rows(prompts: Mapping[str, Sequence[str]], texts: Texts) -> Singles:
    """Return the classifier's unit-length rows, shape (C, D)."""
    flat = [prompt for many in prompts.values() for prompt in many]
    return prompt_ensemble(texts.rows(flat), [len(many) for many in prompts.values()])


def measure(
    statistic: Statistic,
    groups: Sequence[str],
    config: BootstrapConfig | None,
    chance: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
) -> tuple[dict[str, Measure], tuple[str, ...]]:
    """Return every defined metric by name, and the names of those that the data leave undefined.

    Args:
        statistic: maps weights (B, n) to {metric: (B,)}.
        groups: the group of each of the n rows.
        config: how intervals are drawn; None draws none.
        chance: chance levels by metric, as far as there are any.
        sizes: what a metric is the mean of, where that is not the n rows.
    """
    values = statistic(np.ones((1, len(groups))))
    enough = config is not None and len(set(groups)) > 1
    replicates = bootstrap(statistic, groups, config) if enough and config is not None else {}
    nothing = np.empty(0)
    defined = {
        metric: Measure(
            float(value[0]),
            _finite(chance.get(metric)),
            replicates.get(metric, nothing),
            (sizes or {}).get(metric),
        )
        for metric, value in values.items()
        if not np.isnan(value[0])
    }
    return defined, tuple(sorted(values.keys() - defined.keys()))


def mean(measures: Sequence[Measure]) -> Measure:
    """Return the plain mean of measures, with the mean of their replicates."""
    have_replicates = all(len(one.replicates) for one in measures)
    chances = [one.chance for one in measures if one.chance is not None]
    return Measure(
        float(np.mean([one.value for one in measures])),
        float(np.mean(chances)) if len(chances) == len(measures) else None,
        np.mean([one.replicates for one in measures], axis=0) if have_replicates else np.empty(0),
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
