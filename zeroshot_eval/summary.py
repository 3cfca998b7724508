"""A scores file as grids: main metrics by task, means by modality and overall, and every metric of one task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zeroshot_eval.grid import Chip, Estimate, Grid, Line, number, span
from zeroshot_eval.naming import lower_is_better, metric_name, modality_name, spaced
from zeroshot_eval.scoring import Score

HELD_OUT = "Held-out combinations"
RETRIEVAL = "Retrieval"
MEANS = "All modalities"
HEADLINE = "balanced_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricCell:
    """One checkpoint's value in a table of metrics, printed."""

    value: str
    span: str
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLine:
    """One line of a table of metrics, printed."""

    title: str
    lower: bool
    chance: str
    sizes: str
    groups: str
    cells: tuple[MetricCell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTable:
    """Metrics by checkpoint; `first` heads the column of names."""

    first: str
    lines: tuple[MetricLine, ...]


class ScoreIndex:
    """Finds rows by checkpoint, level, task, modality and metric."""

    def __init__(self, rows: Iterable[Score], checkpoints: Sequence[str]) -> None:
        self.rows = tuple(rows)
        self.checkpoints = tuple(checkpoints)
        self._found: dict[tuple[str, str, str | None, str | None, str], Score] = {
            (row.checkpoint, row.level, row.task, self._where(row), row.metric): row for row in self.rows
        }

    def estimates(
        self, metric: str, level: str, task: str | None = None, where: str | None = None
    ) -> tuple[Estimate | None, ...]:
        """Return a metric for every checkpoint; `where` is the modality or dataset of a mean."""
        return tuple(estimate(self._found.get((name, level, task, where, metric))) for name in self.checkpoints)

    def of_suite(self, suite: str) -> ScoreIndex:
        """Return the rows of one suite: means are over its tasks."""
        return ScoreIndex([row for row in self.rows if row.suite == suite], self.checkpoints)

    def metrics(self, task: str) -> list[str]:
        """Return the metrics of a task, in the order of the file."""
        return list(dict.fromkeys(row.metric for row in self.rows if row.level == "task" and row.task == task))

    def means(self, level: str, metric: str) -> list[str]:
        """Return the modalities or datasets that have a mean of a metric, in the order of the file."""
        found = (self._where(row) for row in self.rows if row.level == level and row.metric == metric)
        return list(dict.fromkeys(where for where in found if where is not None))

    def row(self, task: str) -> Score | None:
        """Return any row of a task: what is the same for its metrics."""
        return next((row for row in self.rows if row.level == "task" and row.task == task), None)

    @staticmethod
    def _where(row: Score) -> str | None:
        return {"modality": row.modality, "dataset": row.dataset}.get(row.level)


def estimate(row: Score | None) -> Estimate | None:
    """Return a row as an estimate."""
    if row is None:
        return None
    return Estimate(value=row.value, low=row.low, high=row.high, n=row.n, groups=row.groups, chance=row.chance)


def task_grid(
    index: ScoreIndex, main: Mapping[str, str], best: Mapping[str, int], chips: Mapping[str, Sequence[Chip]]
) -> Grid:
    """Return the main metric of every task that has one, grouped by modality; held-out ones and retrieval last.

    Args:
        index: the scores.
        main: the main metric of each task, in the order of the suite.
        best: the checkpoint that paired tests put first, for the tasks where there is one.
        chips: the warnings of each task.
    """
    lines = []
    for task, metric in main.items():
        found = index.estimates(metric, "task", task)
        row = index.row(task)
        if row is None or not any(found):
            continue
        lines.append(
            Line(
                key=task,
                title=spaced(task),
                group=_group(row, metric),
                metric=metric_name(metric),
                estimates=found,
                best=best.get(task),
                marks=tuple(chips.get(task, ())),
            )
        )
    last = (RETRIEVAL, HELD_OUT)
    return Grid(
        checkpoints=index.checkpoints,
        lines=tuple(sorted(lines, key=lambda line: last.index(line.group) if line.group in last else -1)),
    )


def mean_grid(index: ScoreIndex, level: str, metric: str = HEADLINE, group: str = "") -> Grid:
    """Return the means of a metric over modalities or datasets, one a line."""
    lines = []
    for where in index.means(level, metric):
        title = modality_name(where) if level == "modality" else where.replace("+", " + ")
        lines.append(
            Line(
                key=where,
                title=title,
                group=group,
                metric=metric_name(metric),
                estimates=index.estimates(metric, level, None, where),
            )
        )
    return Grid(checkpoints=index.checkpoints, lines=tuple(lines))


def overall_line(index: ScoreIndex, metric: str) -> Line:
    """Return the mean of a metric over modalities, each weighing the same."""
    return Line(
        key="overall",
        title="Mean over modalities",
        group=MEANS,
        metric=metric_name(metric),
        estimates=index.estimates(metric, "overall"),
    )


def metric_table(
    index: ScoreIndex, task: str, metrics: Sequence[str], first: str = "metric", best: Mapping[str, int] | None = None
) -> MetricTable:
    """Return a table of a task's metrics, a line a metric; `best` names the winning checkpoint of a metric."""
    lines = []
    for metric in metrics:
        found = index.estimates(metric, "task", task)
        line = Line(key=metric, title=metric, group="", metric=metric, estimates=found, best=(best or {}).get(metric))
        lines.append(metric_line(line, metric_name(metric)))
    return MetricTable(first=first, lines=tuple(lines))


def metric_line(line: Line, title: str) -> MetricLine:
    """Return a line as it is printed."""
    groups = sorted({each.groups for each in line.known})
    return MetricLine(
        title=title,
        lower=lower_is_better(line.metric),
        chance=number(line.chance, line.metric),
        sizes=line.sizes,
        groups=" / ".join(f"{count:,}" for count in groups) or "–",
        cells=tuple(_cell(line, place) for place in range(len(line.estimates))),
    )


def _cell(line: Line, place: int) -> MetricCell | None:
    found = line.estimates[place]
    if found is None:
        return None
    return MetricCell(value=number(found.value, line.metric), span=span(found, line.metric), best=place == line.best)


def _group(row: Score, metric: str) -> str:
    if row.held_out:
        return HELD_OUT
    return RETRIEVAL if metric.startswith(("image_to_text/", "text_to_image/")) else modality_name(row.modality)
