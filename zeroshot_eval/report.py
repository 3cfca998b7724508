"""The report: one self-contained HTML page with every score, its n, its interval and chance beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, DataError
from clipmed.files import write_text
from zeroshot_eval.attrition import set_attrition
from zeroshot_eval.curves import score_curves, training_curves
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate
from zeroshot_eval.findings import Findings, find
from zeroshot_eval.grid import Grid
from zeroshot_eval.leakage_page import audit_parts, not_audited
from zeroshot_eval.page import (
    checkpoint_names,
    columns,
    command,
    config_text,
    dataset_plot,
    forests,
    heat,
    heat_grid,
    legend,
    modality_plot,
    task_sections,
)
from zeroshot_eval.page_builder import PageBuilder, used_splits
from zeroshot_eval.pictures import Pictures
from zeroshot_eval.score_files import CONFIG_FILE
from zeroshot_eval.summary import ScoreIndex, mean_grid
from zeroshot_eval.tables import Section, write_tables

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """Draw the report of scored checkpoints again, from the config beside their scores and the embeddings it names."""

    out: Annotated[Path, tyro.conf.Positional]
    """folder that `score` wrote"""
    gallery_sources: tuple[str, ...] | None = None
    """sources whose images and captions the page may show; all if not given. The page holds small copies of them, so
    that what may not be passed on belongs left out"""


def read_config(out: Path) -> EvalConfig:
    """Return the config of an evaluation from its folder.

    Raises:
        DataError: no config there.
        ConfigError: one that is not sound.
    """
    path = out / CONFIG_FILE
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no {CONFIG_FILE} in {out}; `python -m zeroshot_eval score` writes it") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from error
    return from_dict(EvalConfig, data, str(path))


def redraw(config: ReportConfig) -> Path:
    """Write the report of a folder of scores again; embeddings come from its cache.

    Raises:
        ClipmedError: no config there, or checkpoints or data that are no longer where it says.
    """
    evaluation = evaluate(replace(read_config(config.out), out=config.out))
    return write_report(evaluation, config.gallery_sources)


def write_report(evaluation: Evaluation, sources: Sequence[str] | None = None) -> Path:
    """Write report.html, scores.md and scores.tex into the evaluation's folder, atomically.

    Args:
        evaluation: the scored checkpoints.
        sources: the sources whose images and captions the page may show; all if None.

    Returns: the page's path.
    """
    findings, out = find(evaluation), evaluation.config.out
    path = out / REPORT_FILE
    write_text(path, render_report(evaluation, findings, sources))
    title = "; ".join(suite.title for suite in evaluation.suites)
    write_tables(out, title, table_sections(evaluation, findings))
    return path


def render_report(
    evaluation: Evaluation, findings: Findings | None = None, sources: Sequence[str] | None = None
) -> str:
    """Return the page. It needs no network and no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zeroshot_eval", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(_context(evaluation, findings or find(evaluation), sources))


def table_sections(evaluation: Evaluation, findings: Findings) -> list[Section]:
    """Return the tables of scores.md and scores.tex: main metrics by task, then means by modality."""
    index = ScoreIndex(evaluation.rows, checkpoint_names(evaluation))
    sections = [Section(title="Main metric by task", grid=heat_grid(evaluation, index, findings))]
    for suite in evaluation.suites:
        grid: Grid = mean_grid(index.of_suite(suite.name), "modality")
        if grid.lines:
            sections.append(Section(title=f"Means by modality, {suite.title}", grid=grid))
    return sections


def _context(evaluation: Evaluation, findings: Findings, sources: Sequence[str] | None) -> dict[str, Any]:
    index = ScoreIndex(evaluation.rows, checkpoint_names(evaluation))
    results = [result for run in evaluation.runs for result in run.results]
    pictures = Pictures(evaluation.collections, used_splits(results), sources)
    sections = task_sections(PageBuilder(evaluation, index, findings, pictures).pages())
    grid = heat_grid(evaluation, index, findings)
    context = {
        "title": "; ".join(suite.title for suite in evaluation.suites),
        "phantom": evaluation.phantom,
        "notes": [suite.note for suite in evaluation.suites if suite.note],
        "lead": _lead(evaluation),
        "columns": columns(evaluation, index),
        "audits": audit_parts(evaluation),
        "not_audited": not_audited(evaluation),
        "skipped": evaluation.skipped,
        "repeated": evaluation.repeated,
        "heat": heat(grid) if grid.lines else "",
        "forests": forests(evaluation, findings),
        "modalities": modality_plot(evaluation, index),
        "datasets": dataset_plot(evaluation, index),
        "legend": legend(evaluation),
        "task_sections": sections,
        "score_curves": score_curves(evaluation.config.out, index.checkpoints),
        "curves": [curve for run in evaluation.runs for curve in training_curves(Path(run.location), run.facts.name)],
        "attrition": [
            set_attrition(each.location, each.attrition, len(each)) for each in evaluation.collections if each.attrition
        ],
        "command": command(evaluation.config),
        "config_yaml": config_text(evaluation.config),
        "sets": evaluation.collections,
        "bootstrap_samples": evaluation.config.bootstrap_samples,
        "withheld": sources is not None,
    }
    return context | {"index": _sections(context)}


def _lead(evaluation: Evaluation) -> str:
    checkpoints, tasks = len(evaluation.runs), len(evaluation.runs[0].results)
    who = "One checkpoint" if checkpoints == 1 else f"{checkpoints} checkpoints"
    return (
        f"{who} on {tasks} task{'s' if tasks != 1 else ''} and {evaluation.images_scored():,} images, scored without "
        "training on them: classes are told apart, and captions found, by comparing embeddings."
    )


def _sections(context: dict[str, Any]) -> dict[str, str]:
    """Return the titles of the sections that the page has, by anchor, in its order."""
    found = {
        "overview": "All tasks" if context["heat"] else "",
        "differences": "Differences" if context["forests"] else "",
        "curve": "Curve" if context["score_curves"] else "",
        "modalities": "By modality" if context["modalities"] else "",
        "datasets": "By dataset" if context["datasets"] else "",
        "leakage": "Leakage" if context["audits"] else "",
    }
    found |= {section.anchor: section.title for section in context["task_sections"]}
    found |= {
        "training": "Training" if context["curves"] else "",
        "attrition": "Data" if context["attrition"] else "",
        "method": "Method",
    }
    return {anchor: title for anchor, title in found.items() if title}
