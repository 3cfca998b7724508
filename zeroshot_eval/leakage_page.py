"""What the report says of training data among the samples: the audits that lie beside the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from zeroshot_eval.cells import bounds
from zeroshot_eval.evaluation import Evaluation
from zeroshot_eval.figures import key
from zeroshot_eval.grid import Chip, number, signed
from zeroshot_eval.leakage_files import FOLDER, RULES, read_warnings
from zeroshot_eval.naming import metric_name, spaced
from zeroshot_eval.predictions import slug


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One marked task of an audit, printed."""

    task: str
    title: str
    leaked: str
    metric: str
    whole: str
    clean: str
    inflation: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPart:
    """The audit of one checkpoint; `words` says what was looked for where, and how much was found."""

    key: Markup
    name: str
    words: str
    rows: tuple[AuditRow, ...]


def leak_chips(evaluation: Evaluation) -> dict[str, list[Chip]]:
    """Return the warnings of the audits, by task, with the checkpoints that they are about."""
    told = read_warnings(evaluation.config.out)
    places: dict[str, list[int]] = {}
    for place, run in enumerate(evaluation.runs):
        for task in told.get(run.facts.digest, {}):
            places.setdefault(task, []).append(place)
    return {
        task: [Chip(text="leakage", alarm=True, words=" ".join(leak_sentences(evaluation, task)), places=tuple(found))]
        for task, found in places.items()
    }


def leak_sentences(evaluation: Evaluation, task: str) -> list[str]:
    """Return what stands before the figures of a task that an audit has marked."""
    told = read_warnings(evaluation.config.out)
    found: dict[str, list[str]] = {}
    for run in evaluation.runs:
        if warning := told.get(run.facts.digest, {}).get(task):
            found.setdefault(warning, []).append(run.facts.name)
    return [f"Leakage ({', '.join(names)}): {warning}." for warning, names in found.items()]


def audit_parts(evaluation: Evaluation) -> list[AuditPart]:
    """Return the audits of the checkpoints that have one."""
    parts = []
    read_warnings(evaluation.config.out)  # refuses what is no audit
    for place, run in enumerate(evaluation.runs):
        path = evaluation.config.out / FOLDER / f"{slug(run.facts.name)}.json"
        audit = _of(path, run.facts.digest)
        if audit is not None:
            tasks = [task for task in audit["tasks"] if any(one.task.name == task["task"] for one in run.results)]
            rows = tuple(_row(task) for task in tasks if task["marked"])
            parts.append(AuditPart(key=key(place), name=run.facts.name, words=_words(audit, tasks), rows=rows))
    return parts


def not_audited(evaluation: Evaluation) -> list[str]:
    """Return the names of the checkpoints whose training data were not looked for among the samples."""
    told = read_warnings(evaluation.config.out)
    return [run.facts.name for run in evaluation.runs if run.facts.digest not in told]


def _of(path: Path, digest: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    audit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return audit if audit["checkpoint"]["digest"] == digest else None


def _words(audit: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> str:
    sets = [f"{one['location']} ({one['samples']:,} samples)" for one in audit["training"]]
    marked = sum(task["marked"] for task in tasks)
    return (
        f"{marked} of {len(tasks)} tasks have training data among their samples. "
        f"Looked for in {', '.join([*sets, *audit['trained_on']])}."
    )


def _row(task: Mapping[str, Any]) -> AuditRow:
    change = task["inflation"]
    rules = [f"{count:,} {RULES.get(rule, rule)}" for rule, count in task["by_rule"].items()]
    return AuditRow(
        task=task["task"],
        title=spaced(task["task"]),
        leaked=f"{task['leaked']:,} of {task['samples']:,}",
        metric=metric_name(task["metric"]),
        whole=_figure(task["whole"], task["metric"]),
        clean=_figure(task["clean"], task["metric"]) if task["leaked"] else "as on all",
        inflation="–"
        if change is None
        else f"{signed(change['value'])} ({bounds(change['low'], change['high'], difference=True)})",
        why="; ".join([*rules, *task["names"]]),
    )


def _figure(figure: Mapping[str, Any] | None, metric: str) -> str:
    if figure is None:
        return "not defined"
    return f"{number(figure['value'], metric)} ({bounds(figure['low'], figure['high'])}), n {figure['n']:,}"
