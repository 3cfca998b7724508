"""How much the scores of a checkpoint's zero-shot tasks depend on the words of their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroshot_eval.classification import classification_statistic
from zeroshot_eval.prompt_sensitivity import PromptSensitivity, PromptTable, prompt_sensitivity
from zeroshot_eval.scoring import TaskResult, Texts
from zeroshot_eval.suite import ClassificationTask

Singles = npt.NDArray[np.float32]
FALLBACK = "balanced_accuracy"  # where a task is judged by a metric of single classes


def spread_metric(task: ClassificationTask) -> str:
    """Return the metric that a task's prompts are compared by."""
    return FALLBACK if "/" in task.main else task.main


def prompt_spread(result: TaskResult, images: Singles, texts: Texts, seed: int) -> PromptSensitivity | None:
    """Return what a single-label task scores with other choices among its prompts; None where there is no choice.

    Args:
        result: the scored task.
        images: the embeddings of its samples, shape (n, D).
        texts: the checkpoint's texts.
        seed: of the choices.
    """
    task = result.task
    if not isinstance(task, ClassificationTask) or task.kind != "single":
        return None
    prompts, metric = task.all_prompts(), spread_metric(task)
    counts = [len(many) for many in prompts.values()]
    if max(counts) == 1 or metric not in result.measures:
        return None
    targets = result.selection.targets.astype(np.int64)
    ones = np.ones((1, len(targets)))

    def score(cosines: Singles) -> float:
        statistic = classification_statistic(targets, cosines, texts.logit_scale, ordinal=task.ordinal, only=(metric,))
        return float(statistic(ones)[metric][0])

    table = PromptTable.of(images, texts.rows([prompt for many in prompts.values() for prompt in many]), counts)
    return prompt_sensitivity(table, score, template_of_prompt=_templates(task), seed=seed)


def spread_json(found: PromptSensitivity, task: ClassificationTask) -> Mapping[str, Any]:
    """Return a spread as scores.json holds it."""
    return {
        "metric": spread_metric(task),
        "ensemble": found.ensemble,
        "templates": {task.templates[number]: value for number, value in found.templates.items()},
        "one_prompt_a_class": {"median": found.samples.median, "quartiles": list(found.samples.quartiles)},
        "prompts_a_class": {
            str(size): {"median": spread.median, "quartiles": list(spread.quartiles)}
            for size, spread in found.curve.items()
        },
    }


def _templates(task: ClassificationTask) -> npt.NDArray[np.int64]:
    """Return the number of the template that each prompt was made of, -1 for a sentence of its class's own."""
    return np.asarray(
        [
            at % len(task.templates) if at < len(task.classes[class_id]) * len(task.templates) else -1
            for class_id, many in task.all_prompts().items()
            for at in range(len(many))
        ],
        dtype=np.int64,
    )
