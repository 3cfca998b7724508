"""From embeddings to scores: each task's metrics with their replicates, then averages over datasets and modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap, interval
from zeroshot_eval.classification import classification_metrics, confusion_matrix, prompt_ensemble, recalls
from zeroshot_eval.retrieval import chance_metrics, image_to_text_ranks, retrieval_metrics, text_to_image_ranks
from zeroshot_eval.selection import Item, Selection
from zeroshot_eval.suite import MIXED, ClassificationTask, RetrievalTask

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Level = Literal["task", "dataset", "modality", "overall"]
Embed = Callable[[Sequence[Item]], Singles]

AVERAGED = ("accuracy", "balanced_accuracy", "auroc", "auroc_cosine")
DIRECTIONS = {"image_to_text": image_to_text_ranks, "text_to_image": text_to_image_ranks}


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: its value, the value expected by chance, and its bootstrap replicates (none for a single group)."""

    value: float
    chance: float
    replicates: Floats = field(repr=False)

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the percentile interval, or None where the data do not allow one."""
        return interval(self.replicates, level) if len(self.replicates) else None


@dataclass(frozen=True, slots=True)
class Texts:
    """The text side of a checkpoint: the unit-length embedding (D,) of every text, and the learned scale of cosines."""

    embeddings: Mapping[str, Singles]
    logit_scale: float


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """A scored classification task. `cosines` is (n, C); `confusion` (C, C) has a row a true class."""

    task: ClassificationTask
    selection: Selection
    cosines: Singles = field(repr=False)
    measures: dict[str, Measure]

    @property
    def predicted(self) -> Ints:
        """Predicted class indices, shape (n,)."""
        predicted: Ints = self.cosines.argmax(axis=1).astype(np.int64)
        return predicted

    @property
    def confusion(self) -> Ints:
        """Counts of true and predicted classes."""
        return confusion_matrix(self.selection.targets.astype(np.int64), self.predicted, self.cosines.shape[1])

    @property
    def majority(self) -> float:
        """The accuracy of always answering the most frequent class."""
        return float(np.bincount(self.selection.targets).max() / len(self.selection.targets))


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """A scored retrieval task; `shared` counts the images whose caption another image has too."""

    task: RetrievalTask
    selection: Selection
    measures: dict[str, Measure]
    distinct: int
    shared: int

    @property
    def modality(self) -> str:
        """The task's modality, or `mixed`."""
        return self.task.modality or MIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure of scores.json. `low` and `high` bound the interval; null where one group alone was scored."""

    suite: str
    level: Level
    task: str | None
    dataset: str | None
    dataset_digest: str | None
    checkpoint_digest: str
    modality: str | None
    held_out: bool
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    chance: float


def score_classification(
    task: ClassificationTask,
    selection: Selection,
    images: Singles,
    texts: Texts,
    config: BootstrapConfig,
) -> ClassificationResult:
    """Score one classification task."""
    prompts = task.all_prompts()
    rows = np.stack([texts.embeddings[prompt] for many in prompts.values() for prompt in many])
    cosines: Singles = images @ prompt_ensemble(rows, [len(many) for many in prompts.values()]).T
    targets, classes = selection.targets.astype(np.int64), list(task.classes)

    def statistic(weights: Floats) -> dict[str, Floats]:
        found = classification_metrics(targets, cosines, weights, texts.logit_scale)
        by_class = recalls(targets, cosines.argmax(axis=1), weights, len(classes))
        return found | {f"recall/{name}": by_class[:, index] for index, name in enumerate(classes)}

    chance = dict.fromkeys(["auroc", "auroc_cosine"], 0.5)
    measures = _measures(statistic, selection.groups, config, lambda metric: chance.get(metric, 1 / len(classes)))
    return ClassificationResult(task, selection, cosines, measures)


def score_retrieval(
    task: RetrievalTask, selection: Selection, images: Singles, texts: Texts, config: BootstrapConfig
) -> RetrievalResult:
    """Score one retrieval task both ways, one caption (the first) an image."""
    captions, text_of_image = np.unique([item.captions[0] for item in selection.items], return_inverse=True)
    distinct = np.stack([texts.embeddings[str(caption)] for caption in captions])
    copies = np.bincount(text_of_image)
    chance = chance_metrics(text_of_image)
    measures: dict[str, Measure] = {}
    for direction, rank in DIRECTIONS.items():
        ranks = rank(images, distinct, text_of_image)
        found = _measures(_retrieval_statistic(ranks), selection.groups, config, chance.__getitem__)
        measures |= {f"{direction}/{metric}": measure for metric, measure in found.items()}
    return RetrievalResult(task, selection, measures, len(captions), int(copies[copies > 1].sum()))


def average(results: Sequence[ClassificationResult], metric: str) -> Measure | None:
    """Return the plain mean of a metric over tasks, with the mean of their replicates; None where one is undefined."""
    measures = [result.measures.get(metric) for result in results]
    defined = [measure for measure in measures if measure is not None]
    if not defined or len(defined) < len(measures):
        return None
    return _mean(defined)


def overall(by_modality: Iterable[Measure]) -> Measure:
    """Return the plain mean over modalities of their averages: each modality weighs the same."""
    return _mean(list(by_modality))


def averaged_results(results: Sequence[ClassificationResult]) -> dict[str, list[ClassificationResult]]:
    """Return the results that enter averages by modality: neither held-out nor of mixed modality."""
    grouped: dict[str, list[ClassificationResult]] = {}
    for result in results:
        if not result.task.held_out and result.task.modality != MIXED:
            grouped.setdefault(result.task.modality, []).append(result)
    return grouped


def _retrieval_statistic(ranks: Ints) -> Callable[[Floats], dict[str, Floats]]:
    return lambda weights: retrieval_metrics(ranks, weights)


def _measures(
    statistic: Callable[[Floats], dict[str, Floats]],
    groups: Sequence[str],
    config: BootstrapConfig,
    chance: Callable[[str], float],
) -> dict[str, Measure]:
    values = statistic(np.ones((1, len(groups))))
    enough = len(set(groups)) > 1
    replicates = bootstrap(statistic, groups, config) if enough else {}
    nothing = np.empty(0)
    return {
        metric: Measure(float(value[0]), chance(metric), replicates.get(metric, nothing))
        for metric, value in values.items()
        if not np.isnan(value[0])
    }


def _mean(measures: Sequence[Measure]) -> Measure:
    have_replicates = all(len(measure.replicates) for measure in measures)
    return Measure(
        float(np.mean([measure.value for measure in measures])),
        float(np.mean([measure.chance for measure in measures])),
        np.mean([measure.replicates for measure in measures], axis=0) if have_replicates else np.empty(0),
    )
