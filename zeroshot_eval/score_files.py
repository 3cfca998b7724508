"""What an evaluation leaves in its folder: scores.json, scores.parquet, predictions/ and config.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmed.configuration import save_yaml, to_dict
from clipmed.files import atomic_file, write_text
from zeroshot_eval.bootstrap import METHOD
from zeroshot_eval.evaluation import CheckpointRun, Evaluation
from zeroshot_eval.predictions import Header, make_predictions, replace_predictions
from zeroshot_eval.scores import LEVEL, data_digest, dataset_name
from zeroshot_eval.scoring import Score, TaskResult
from zeroshot_eval.suite import ClassificationTask

SCORES_FILE = "scores.json"
SCORES_TABLE = "scores.parquet"
CONFIG_FILE = "config.yaml"
SCORES_VERSION = 2

_ARROW = {"float": pa.float64(), "float | None": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}


def write_scores(evaluation: Evaluation) -> Path:
    """Write everything but the report, atomically, scores.json last; return its path.

    scores.json has no NaN: what is not defined is null, or named under `undefined`.
    """
    out = evaluation.config.out
    save_yaml(evaluation.config, out / CONFIG_FILE)
    replace_predictions(
        out,
        [
            make_predictions(header(evaluation, run, result), result.rows, result.columns)
            for run in evaluation.runs
            for result in run.results
            if result.columns
        ],
    )
    with atomic_file(out / SCORES_TABLE) as temporary:
        pq.write_table(scores_table(evaluation.rows), temporary)
    path = out / SCORES_FILE
    write_text(path, _one_a_line(scores_json(evaluation)))
    return path


def scores_table(rows: Sequence[Score]) -> pa.Table:
    """Return scores as a table, one column a field."""
    columns = {
        one.name: pa.array([getattr(row, one.name) for row in rows], _ARROW.get(str(one.type), pa.string()))
        for one in fields(Score)
    }
    return pa.table(columns)


def scores_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of scores.json."""
    return {
        "schema_version": SCORES_VERSION,
        "suites": [to_dict(suite) for suite in evaluation.suites],
        "phantom": evaluation.phantom,
        "checkpoints": [
            {"location": run.location} | {name: getattr(run.facts, name) for name in run.facts.__slots__}
            for run in evaluation.runs
        ],
        "sets": [
            {"location": collection.location, "digest": collection.digest, "images": len(collection)}
            for collection in evaluation.collections
        ],
        "interval": {
            "level": LEVEL,
            "method": METHOD,
            "samples": evaluation.config.bootstrap_samples,
        },
        "rows": [{name: getattr(row, name) for name in Score.__slots__} for row in evaluation.rows],
        "tasks": {result.task.name: _task(result) for result in evaluation.runs[0].results},
        "confusion": _by_checkpoint(evaluation, _confusion),
        "details": _by_checkpoint(evaluation, lambda result: result.details),
        "undefined": _by_checkpoint(evaluation, lambda result: list(result.undefined)),
        "prompts": {run.facts.name: _prompts(run) for run in evaluation.runs} if evaluation.config.report else {},
        "excluded": {
            result.task.name: result.selection.excluded
            for result in evaluation.runs[0].results
            if result.selection.excluded
        },
        "repeated_samples": evaluation.repeated,
        "skipped": [asdict(skipped) for skipped in evaluation.skipped],
    }


def header(evaluation: Evaluation, run: CheckpointRun, result: TaskResult) -> Header:
    """Return the header of a task's predictions."""
    task = result.task
    digests = [collection.digest for collection in evaluation.collections]
    return Header(
        suite=result.suite,
        task=task.name,
        kind=result.kind,
        checkpoint=run.facts.name,
        checkpoint_digest=run.facts.digest,
        data_digest=data_digest([result], digests),
        logit_scale=1.0 if result.kind == "probe" else run.facts.logit_scale,
        modality=result.modality,
        main_metric=task.main,
        classes=result.classes,
        ordinal=bool(getattr(task, "ordinal", False)),
        held_out=result.held_out,
        pairs=isinstance(task, ClassificationTask) and bool(task.negative_prompts),
        dataset=dataset_name(result),
    )


def _one_a_line(content: dict[str, Any]) -> str:
    """Return JSON with a line for every row, set and task, so that a reader finds it and differences are short."""
    dump = partial(json.dumps, sort_keys=True, ensure_ascii=False, allow_nan=False)
    parts = []
    for name, value in sorted(content.items()):
        if isinstance(value, list):
            text = "[" + ",".join(f"\n{dump(one)}" for one in value) + "]"
        elif isinstance(value, dict):
            text = "{" + ",".join(f"\n{dump(key)}: {dump(one)}" for key, one in sorted(value.items())) + "}"
        else:
            text = dump(value)
        parts.append(f"{dump(name)}: {text}")
    return "{" + ",\n".join(parts) + "}\n"


def _task(result: TaskResult) -> dict[str, Any]:
    task = result.task
    return {
        "suite": result.suite,
        "kind": result.kind,
        "main_metric": task.main,
        "modality": result.modality,
        "dataset": dataset_name(result),
        "classes": list(result.classes),
        "held_out": result.held_out,
        "tags": list(task.tags),
        "note": task.note,
        "images": len(result.selection.items),
        "groups": len(set(result.selection.groups)),
    }


def _confusion(result: TaskResult) -> dict[str, Any] | None:
    counts = result.confusion
    return None if counts is None else {"classes": list(result.classes), "counts": counts.tolist()}


def _prompts(run: CheckpointRun) -> dict[str, Any]:
    """Return how much the scores of tasks depend on their prompts."""
    from zeroshot_eval.prompt_spread import spread_json

    tasks = {result.task.name: result.task for result in run.results}
    return {
        name: spread_json(spread, task)
        for name, spread in run.prompt_spreads.items()
        if isinstance(task := tasks[name], ClassificationTask)
    }


def _by_checkpoint(evaluation: Evaluation, what: Callable[[TaskResult], Any]) -> dict[str, dict[str, Any]]:
    """Return something of every result by checkpoint and task, as far as it holds anything."""
    return {
        run.facts.name: {result.task.name: found for result in run.results if (found := what(result))}
        for run in evaluation.runs
    }
