"""What the report shows as a whole: tiles, heat map, differences, means, sections of tasks, and how it was made."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import yaml
from markupsafe import Markup

from clipmed.configuration import to_dict
from zeroshot_eval.charts import dots, forest, heat_map
from zeroshot_eval.evaluation import EvalConfig, Evaluation
from zeroshot_eval.figures import EMPTY, key
from zeroshot_eval.findings import Findings, overall_key
from zeroshot_eval.grid import Estimate, Grid, Line, number, span
from zeroshot_eval.naming import spaced
from zeroshot_eval.scores import dataset_name
from zeroshot_eval.summary import HEADLINE, MEANS, RETRIEVAL, ScoreIndex, mean_grid, overall_line, task_grid
from zeroshot_eval.task_pages import TaskPage

TILES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
TILE_RECALLS = 2  # retrieval tasks that have a tile
SECTIONS = {
    "classification": ("classification", "Classification"),
    "multi_label": ("classification", "Classification"),
    "retrieval": ("retrieval", "Retrieval"),
    "choice": ("choices", "Questions with options"),
    "probe": ("probes", "Probes on image embeddings"),
}
NOTES = {
    "classification": "Images are drawn at random by the seed; bars are probabilities, the softmax of the cosines "
    "times the checkpoint’s learned scale (scores where an image may have several labels).",
    "held-out": "Combinations of modality and finding that the training data never show. They enter none of the "
    "averages above.",
    "retrieval": "Searches among the samples of a split, in both directions. Ties count against the model.",
    "choices": "The text of every option is embedded; the option nearest to the image is the answer.",
    "probes": "Logistic regression on frozen image embeddings; its penalty is chosen without the test images.",
}
HELD_OUT = ("held-out", "Held-out combinations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A headline figure of a checkpoint, printed."""

    name: str
    value: str
    span: str
    chance: str
    n: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A checkpoint with its mark, its headline figures and its provenance."""

    key: Markup
    name: str
    location: str
    digest: str
    tiles: tuple[Tile, ...]
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSection:
    """Tasks of one kind."""

    anchor: str
    title: str
    note: str
    pages: tuple[TaskPage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """The differences of one checkpoint from the first."""

    key: Markup
    name: str
    summary: str
    body: Markup


def checkpoint_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the checkpoints' names, in the order in which they were given."""
    return tuple(run.facts.name for run in evaluation.runs)


def main_metrics(evaluation: Evaluation) -> dict[str, str]:
    """Return the main metric of every scored task, in the order of the suites."""
    scored = {result.task.name: result.task.main for run in evaluation.runs for result in run.results}
    every = [task.name for suite in evaluation.suites for task in suite.all_tasks()]
    return {name: scored[name] for name in every if name in scored}


def heat_grid(evaluation: Evaluation, index: ScoreIndex, findings: Findings) -> Grid:
    """Return the main metrics of all tasks, with the means over modalities at the end."""
    grid = task_grid(index, main_metrics(evaluation), findings.best, findings.chips)
    means = []
    for suite in evaluation.suites:
        line = overall_line(index.of_suite(suite.name), HEADLINE)
        if line.known:
            title = line.title if len(evaluation.suites) == 1 else f"{line.title}, {suite.title}"
            means.append(
                Line(
                    key=overall_key(suite.name),
                    title=title,
                    group=line.group,
                    metric=line.metric,
                    estimates=line.estimates,
                    best=findings.best.get(overall_key(suite.name)),
                )
            )
    return Grid(checkpoints=grid.checkpoints, lines=(*means, *grid.lines))


def columns(evaluation: Evaluation, index: ScoreIndex) -> list[Column]:
    """Return every checkpoint with its tiles."""
    lines = _tile_lines(evaluation, index)
    return [
        Column(
            key=key(place),
            name=run.facts.name,
            location=run.location,
            digest=run.facts.digest,
            tiles=tuple(_tile(line, found) for line in lines if (found := line.estimates[place]) is not None),
            facts=(
                f"sees images by {run.facts.preprocessing}",
                f"reads texts by {run.facts.tokenization}",
                f"scale of cosines {run.facts.logit_scale:.2f}",
            ),
        )
        for place, run in enumerate(evaluation.runs)
    ]


def modality_plot(evaluation: Evaluation, index: ScoreIndex) -> Markup:
    """Return the means by modality as dots, a suite after the other."""
    return _mean_plot(evaluation, index, "modality", 1)


def dataset_plot(evaluation: Evaluation, index: ScoreIndex) -> Markup:
    """Return the means by dataset as dots, where a dataset has several tasks: else they say what the tasks do."""
    datasets = Counter(
        dataset_name(result)
        for result in evaluation.runs[0].results
        if result.kind != "retrieval" and not result.held_out
    )
    return _mean_plot(evaluation, index, "dataset", 2) if max(datasets.values(), default=0) > 1 else EMPTY


def forests(evaluation: Evaluation, findings: Findings) -> list[Forest]:
    """Return a forest plot for each checkpoint that was compared with the first."""
    titles = {name: spaced(name) for name in main_metrics(evaluation)}
    titles |= {overall_key(suite.name): "Mean over modalities" for suite in evaluation.suites}
    found = []
    for place, name in enumerate(checkpoint_names(evaluation)):
        rows = findings.differences.get(name, ())
        if rows:
            counts = Counter(row.verdict for row in rows if row.task in main_metrics(evaluation))
            summary = f"tasks: better on {counts['win']}, worse on {counts['loss']}, tied on {counts['tie']}"
            body = forest(rows, titles, checkpoint_names(evaluation)[0], place)
            found.append(Forest(key=key(place), name=name, summary=summary, body=body))
    return found


def task_sections(pages: Sequence[TaskPage]) -> list[TaskSection]:
    """Return the tasks by kind, held-out ones apart."""
    found: dict[tuple[str, str], list[TaskPage]] = {}
    for page in pages:
        found.setdefault(HELD_OUT if page.held_out else SECTIONS[page.kind], []).append(page)
    order = list(dict.fromkeys([SECTIONS["classification"], HELD_OUT, *SECTIONS.values()]))
    return [
        TaskSection(anchor=where[0], title=where[1], note=NOTES[where[0]], pages=tuple(found[where]))
        for where in order
        if where in found
    ]


def legend(evaluation: Evaluation) -> Markup:
    """Return the marks of the checkpoints with their names, and the stroke of chance."""
    names = checkpoint_names(evaluation)
    marks = EMPTY.join(Markup("<span>{} {}</span> ").format(key(place), name) for place, name in enumerate(names))
    return Markup(
        '<p class="legend">{}<span><svg width="26" height="10" aria-hidden="true"><line class="interval c0" x1="3" '
        'x2="23" y1="5" y2="5"/></svg> 95 % interval</span> <span><svg width="8" height="14" aria-hidden="true">'
        '<line class="chance" x1="4" x2="4" y1="0" y2="14"/></svg> chance</span></p>'
    ).format(marks)


def command(config: EvalConfig) -> str:
    """Return the command line that makes these scores again; options at their defaults are left out."""
    defaults = {each.name: each.default for each in fields(EvalConfig)}
    parts = ["python", "-m", "zeroshot_eval", "score", *config.checkpoints]
    parts += ["--suite", *config.suite, "--sets", *config.sets, "--out", str(config.out)]
    for name in ("tasks", "bootstrap_samples", "seed", "dtype"):
        value = getattr(config, name)
        if value != defaults[name]:
            values = value if isinstance(value, tuple) else (value,)
            parts += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(parts)


def config_text(config: EvalConfig) -> str:
    """Return the resolved config as YAML."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def heat(grid: Grid) -> Markup:
    """Return the heat map, every task linked to its details."""
    return heat_map(grid, {line.key: f"#task-{line.key}" for line in grid.lines if line.group != MEANS})


def _mean_plot(evaluation: Evaluation, index: ScoreIndex, level: str, fewest: int) -> Markup:
    lines: list[Line] = []
    for suite in evaluation.suites:
        group = suite.title if len(evaluation.suites) > 1 else ""
        lines += mean_grid(index.of_suite(suite.name), level, group=group).lines
    return dots(Grid(checkpoints=checkpoint_names(evaluation), lines=tuple(lines))) if len(lines) >= fewest else EMPTY


def _tile_lines(evaluation: Evaluation, index: ScoreIndex) -> list[Line]:
    lines = []
    for suite in evaluation.suites:
        for metric, name in TILES.items():
            line = overall_line(index.of_suite(suite.name), metric)
            title = name if len(evaluation.suites) == 1 else f"{name}, {suite.title}"
            lines.append(Line(key=metric, title=title, group="", metric=metric, estimates=line.estimates))
    retrieval = [line for line in task_grid(index, main_metrics(evaluation), {}, {}).lines if line.group == RETRIEVAL]
    return [line for line in [*lines, *retrieval[:TILE_RECALLS]] if line.known]


def _tile(line: Line, found: Estimate) -> Tile:
    name = f"{line.metric}, {line.title}" if line.group == RETRIEVAL else line.title
    return Tile(name=name, value=number(found.value), span=span(found), chance=number(found.chance), n=f"{found.n:,}")
