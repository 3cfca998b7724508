"""An audit as JSON, Markdown and a table for the terminal, and the warnings that stand beside scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipmed.configuration import to_dict
from clipmed.errors import DataError
from clipmed.files import write_json, write_text
from zeroshot_eval.cells import Cells, bounds
from zeroshot_eval.grid import number, signed
from zeroshot_eval.leakage import Audit, Figure, TaskAudit
from zeroshot_eval.naming import metric_name
from zeroshot_eval.predictions import slug

FOLDER = "leakage"
AUDIT_VERSION = 1
RULES = {
    "bytes": "same bytes",
    "picture": "same picture",
    "key": "same sample",
    "article": "same article",
    "group": "same patient or group",
    "same_group": "group of a leaked sample",
}


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write <folder>/leakage/<checkpoint>.json and .md, atomically; return the path of the JSON."""
    path = folder / FOLDER / f"{slug(audit.checkpoint)}.json"
    write_text(path.with_suffix(".md"), audit_table(audit).markdown())
    write_json(path, audit_json(audit))
    return path


def audit_json(audit: Audit) -> dict[str, Any]:
    """Return an audit as plain data: a row a task, with the scores on all and on clean samples."""
    return {
        "schema_version": AUDIT_VERSION,
        "checkpoint": {"name": audit.checkpoint, "digest": audit.checkpoint_digest},
        "training": list(audit.training),
        "trained_on": list(audit.trained_on),
        "settings": to_dict(audit.settings),
        "tasks": [asdict(task) | {"marked": task.marked, "warning": warning(task)} for task in audit.tasks],
    }


def audit_table(audit: Audit) -> Cells:
    """Return an audit as a table; what the columns do not say stands beneath it."""
    marked = sum(task.marked for task in audit.tasks)
    sets = [f"{one['location']} ({one['samples']:,} samples)" for one in audit.training]
    notes = [f"Looked for in: {', '.join([*sets, *audit.trained_on])}."]
    notes += [
        f"{task.task}: {task.not_looked_at:,} of {task.samples:,} pictures were not compared"
        for task in audit.tasks
        if audit.training and task.not_looked_at
    ]
    return Cells(
        title=f"{audit.checkpoint}: {marked} of {len(audit.tasks)} tasks have training data among their samples",
        columns=("task", "metric", "samples", "leaked", "on all", "on clean", "all less clean", "why"),
        rows=tuple(_row(task) for task in audit.tasks),
        notes=tuple(notes),
    )


def warning(task: TaskAudit) -> str:
    """Return what stands beside the score of a task, empty where nothing was found."""
    parts = [f"{task.leaked:,} of {task.samples:,} samples are in the training data"] if task.leaked else []
    return "; ".join([*parts, *task.names])


def read_warnings(folder: Path) -> dict[str, dict[str, str]]:
    """Return the warnings of an evaluation's audits, by checkpoint digest and task; empty where none was made.

    Raises:
        DataError: an audit that cannot be read, or of another version.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            audit = json.loads(path.read_text(encoding="utf-8"))
            if audit["schema_version"] != AUDIT_VERSION:
                raise DataError(f"{path} has schema version {audit['schema_version']}; allowed: {AUDIT_VERSION}")
            told = {task["task"]: task["warning"] for task in audit["tasks"] if task["warning"]}
            found[audit["checkpoint"]["digest"]] = told
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is no audit: {error}; run `python -m zeroshot_eval audit` again") from error
    return found


def _row(task: TaskAudit) -> tuple[str, ...]:
    rules = [f"{count:,} {RULES.get(rule, rule)}" for rule, count in task.by_rule.items()]
    change = task.inflation
    return (
        task.task,
        metric_name(task.metric),
        f"{task.samples:,}",
        f"{task.leaked:,}" if task.leaked else "–",
        _cell(task.whole, task.metric),
        _cell(task.clean, task.metric) if task.leaked else "as on all",
        "–" if change is None else f"{signed(change.value)} ({bounds(change.low, change.high, difference=True)})",
        "; ".join([*rules, *task.names]) or "nothing found",
    )


def _cell(figure: Figure | None, metric: str) -> str:
    if figure is None:
        return "not defined"
    return f"{number(figure.value, metric)} ({bounds(figure.low, figure.high)}), n {figure.n:,}"
