"""The report: one self-contained HTML page with every score, its n, its interval and chance beside it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from clipmed.configuration import to_dict
from clipmed.files import write_text
from zeroshot_eval.attrition import SetAttrition, set_attrition
from zeroshot_eval.curves import training_curves
from zeroshot_eval.evaluation import REPORT_FILE, EvalConfig, Evaluation
from zeroshot_eval.figures import interval_track
from zeroshot_eval.gallery import Example, choose_examples
from zeroshot_eval.scores import dataset_name
from zeroshot_eval.scoring import ClassificationResult, RetrievalResult, Score

TEMPLATE = "report.html.j2"
LEVEL = 0.95
HEADLINE = "balanced_accuracy"
HEADLINES = ("accuracy", "balanced_accuracy", "auroc")

METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "auroc_cosine": "AUROC of cosines",
    "mrr": "MRR",
    "median_rank": "median rank",
}
MODALITY_NAMES = {
    "xray": "X-ray",
    "ct": "CT",
    "mri": "MRI",
    "oct": "OCT",
    "nuclear": "Nuclear imaging",
    "mixed": "Mixed modalities",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One score as the page shows it."""

    name: str
    score: Score

    @property
    def value(self) -> str:
        """The value with three decimals, or one for ranks."""
        return _number(self.score.value, self.score.metric)

    @property
    def bounds(self) -> str:
        """The interval, or a dash."""
        if self.score.low is None or self.score.high is None:
            return "–"
        return f"{_number(self.score.low, self.score.metric)} – {_number(self.score.high, self.score.metric)}"

    @property
    def chance(self) -> str:
        """The chance level."""
        return _number(self.score.chance, self.score.metric)

    @property
    def times_chance(self) -> str:
        """How many times chance the value is; a dash for ranks, where less is better."""
        if self.score.metric.endswith("median_rank") or not self.score.chance:
            return "–"
        return f"{self.score.value / self.score.chance:.1f}×"

    @property
    def track(self) -> Markup:
        """The value, interval and chance on a 0 … 1 axis."""
        bounds = None if self.score.low is None or self.score.high is None else (self.score.low, self.score.high)
        label = f"{self.name}: {self.value}, interval {self.bounds}, chance {self.chance}"
        return interval_track(self.score.value, bounds, self.score.chance, label)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One classification task: its figures, its confusion matrix and its examples."""

    result: ClassificationResult
    title: str
    modality: str
    dataset: str
    figures: list[Figure]
    classes: list[dict[str, Any]]
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class RetrievalPage:
    """One retrieval task, with its figures by direction."""

    result: RetrievalResult
    dataset: str
    figures: list[Figure]


def write_report(evaluation: Evaluation) -> Path:
    """Write report.html into the evaluation's folder, atomically, and return its path."""
    path = evaluation.config.out / REPORT_FILE
    write_text(path, render_report(evaluation))
    return path


def render_report(evaluation: Evaluation) -> str:
    """Return the page. It needs no network and no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zeroshot_eval", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(_context(evaluation))


def modality_name(modality: str) -> str:
    """Return a modality as a reader writes it."""
    return MODALITY_NAMES.get(modality, modality.capitalize())


def _context(evaluation: Evaluation) -> dict[str, Any]:
    pages = [_task_page(evaluation, result) for result in evaluation.classification]
    rows = evaluation.rows
    return {
        "suite": evaluation.suite,
        "evaluation": evaluation,
        "images": evaluation.images_scored(),
        "overall": [
            Figure(METRIC_NAMES[row.metric], row) for row in rows if row.level == "overall" and row.metric in HEADLINES
        ],
        "retrieval_heads": _retrieval_heads(rows),
        "modalities": [
            Figure(modality_name(row.modality or ""), row)
            for row in rows
            if row.level == "modality" and row.metric == HEADLINE
        ],
        "datasets": _by_dataset(rows),
        "tasks": [page for page in pages if not page.result.task.held_out],
        "held_out": [page for page in pages if page.result.task.held_out],
        "retrieval": [_retrieval_page(evaluation, result) for result in evaluation.retrieval],
        "curves": training_curves(evaluation.checkpoint),
        "attrition": _attrition(evaluation),
        "command": _command(evaluation.config),
        "config_yaml": yaml.safe_dump(to_dict(evaluation.config), sort_keys=False, allow_unicode=True),
    }


def _task_page(evaluation: Evaluation, result: ClassificationResult) -> TaskPage:
    task = result.task
    rows = [row for row in evaluation.rows if row.task == task.name]
    return TaskPage(
        result=result,
        title=task.name.replace("_", " "),
        modality=modality_name(task.modality),
        dataset=_spaced(dataset_name(result)),
        figures=[Figure(METRIC_NAMES[row.metric], row) for row in rows if row.metric in METRIC_NAMES],
        classes=_classes(result, rows),
        examples=choose_examples(result, evaluation.sets, evaluation.logit_scale, evaluation.config.seed),
    )


def _classes(result: ClassificationResult, rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Return the lines of the confusion matrix: counts, shares of the row for the shading, and the class's recall."""
    recalls = {row.metric.removeprefix("recall/"): row for row in rows if row.metric.startswith("recall/")}
    counts = result.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        {
            "name": name.replace("_", " "),
            "cells": [
                {"count": int(count), "percent": round(100 * float(share)), "diagonal": column == index}
                for column, (count, share) in enumerate(zip(counts[index], shares[index], strict=True))
            ],
            "total": int(counts[index].sum()),
            "recall": Figure(name, recalls[name]) if name in recalls else None,
        }
        for index, name in enumerate(result.task.classes)
    ]


def _retrieval_page(evaluation: Evaluation, result: RetrievalResult) -> RetrievalPage:
    rows = [row for row in evaluation.rows if row.task == result.task.name]
    return RetrievalPage(
        result, _spaced(dataset_name(result)), [Figure(_retrieval_name(row.metric), row) for row in rows]
    )


def _retrieval_name(metric: str) -> str:
    direction, name = metric.split("/")
    return f"{direction.replace('_', ' ')}, {METRIC_NAMES.get(name, name)}"


def _retrieval_heads(rows: Sequence[Score]) -> list[Figure]:
    heads = [row for row in rows if row.level == "task" and row.metric == "image_to_text/recall@5"]
    return [Figure(f"image-to-text recall@5, {(row.task or '').replace('_', ' ')}", row) for row in heads]


def _by_dataset(rows: Sequence[Score]) -> list[Figure]:
    found = [row for row in rows if row.level == "dataset" and row.metric == HEADLINE]
    return [Figure(_spaced(row.dataset or ""), row) for row in found]


def _attrition(evaluation: Evaluation) -> list[SetAttrition]:
    return [
        set_attrition(str(path), shard_set.manifest.get("attrition", []), len(shard_set))
        for path, shard_set in zip(evaluation.config.sets, evaluation.sets, strict=True)
    ]


def _command(config: EvalConfig) -> str:
    """Return the command line that makes these scores again."""
    parts = ["python", "-m", "zeroshot_eval", config.checkpoint, config.suite, "--sets", *map(str, config.sets)]
    parts += [
        "--out",
        str(config.out),
        "--bootstrap-samples",
        str(config.bootstrap_samples),
        "--seed",
        str(config.seed),
    ]
    return shlex.join(parts)


def _spaced(dataset: str) -> str:
    """Let the line break between sources."""
    return dataset.replace("+", " + ")


def _number(value: float, metric: str) -> str:
    return f"{value:.1f}" if metric.endswith("median_rank") else f"{value:.3f}"
