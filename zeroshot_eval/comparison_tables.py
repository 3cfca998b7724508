"""A comparison as JSON, Markdown and tables for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipmed.files import write_json, write_text
from zeroshot_eval.cells import Cells, bounds, joined, p_text
from zeroshot_eval.comparison import Comparison, TaskDifference
from zeroshot_eval.grid import number, signed
from zeroshot_eval.naming import metric_name, modality_name
from zeroshot_eval.pairing import named
from zeroshot_eval.tables import escape_markdown

JSON_FILE = "comparison.json"
MARKDOWN_FILE = "comparison.md"
COMPARISON_VERSION = 1
VERDICTS = {"win": "better", "tie": "no difference shown", "loss": "worse"}
TESTS = {"bootstrap": "bootstrap", "mcnemar": "McNemar", "delong": "DeLong"}


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write comparison.json and comparison.md into a folder, atomically; return the path of the Markdown."""
    write_json(folder / JSON_FILE, comparison_json(comparison))
    path = folder / MARKDOWN_FILE
    title = escape_markdown(f"{comparison.second.name} compared with {comparison.first.name}")
    write_text(path, f"# {title}\n\n{joined(comparison_tables(comparison))}")
    return path


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data, replicates left out."""
    tasks = [{name: value for name, value in asdict(task).items() if name != "replicates"} for task in comparison.tasks]
    return {
        "schema_version": COMPARISON_VERSION,
        "first": asdict(comparison.first),
        "second": asdict(comparison.second),
        "settings": asdict(comparison.settings),
        "counts": comparison.counts,
        "tasks": tasks,
        "averages": [asdict(one) for one in comparison.averages],
        "flips": [asdict(flip) for flip in comparison.flips],
        "skipped": comparison.skipped,
    }


def comparison_tables(comparison: Comparison) -> list[Cells]:
    """Return a comparison as tables: the tasks, and the means over them."""
    percent = f"{100 * (1 - comparison.settings.alpha):g} %"
    columns = ("first", "second", "difference", percent, "n")
    tables = [
        Cells(
            title=_headline(comparison),
            columns=("task", "metric", *columns, "p", "test", "p (Holm)", "second is"),
            rows=tuple(_task_row(task) for task in comparison.tasks),
            notes=tuple(_notes(comparison)),
        )
    ]
    if comparison.averages:
        rows = [
            (
                "mean over modalities" if one.task == "overall" else modality_name(one.task),
                metric_name(one.metric),
                number(one.first),
                number(one.second),
                signed(one.difference),
                bounds(one.low, one.high, difference=True),
                f"{one.n:,} ({one.num_tasks} task{'s' if one.num_tasks > 1 else ''})",
                p_text(one.p_value),
            )
            for one in comparison.averages
        ]
        tables.append(
            Cells(
                title="means over tasks",
                columns=("mean", "metric", *columns, "p"),
                rows=tuple(rows),
                notes=("Each task of a modality weighs the same, and each modality.",),
            )
        )
    return tables


def _headline(comparison: Comparison) -> str:
    counts = comparison.counts
    return (
        f"{comparison.second.name} against {comparison.first.name}: {counts['win']} better, {counts['loss']} worse, "
        f"{counts['tie']} without a difference shown"
    )


def _task_row(task: TaskDifference) -> tuple[str, ...]:
    return (
        task.task + (" (held out)" if task.held_out else ""),
        metric_name(task.metric),
        number(task.first, task.metric),
        number(task.second, task.metric),
        signed(task.difference),
        bounds(task.low, task.high, difference=True),
        f"{task.n:,}" if task.groups == task.n else f"{task.n:,} in {task.groups:,} groups",
        p_text(task.p_value),
        TESTS[task.test],
        p_text(task.adjusted),
        VERDICTS[task.verdict],
    )


def _notes(comparison: Comparison) -> list[str]:
    notes = [
        "Differences are the second's value less the first's, on the same samples; intervals and p-values draw whole "
        "groups. p (Holm) is corrected for the number of tasks."
    ]
    for task in comparison.tasks:
        for side, keys in (("first", task.unpaired_first), ("second", task.unpaired_second)):
            if keys:
                notes.append(f"{task.task}: {len(keys):,} samples of the {side} alone were left out: {named(keys)}")
    return notes + [f"{name} was not compared: {reason}" for name, reason in comparison.skipped.items()]
