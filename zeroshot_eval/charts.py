"""The charts of a report: heat map, forest plot, dots with intervals, reliability and prompt sensitivity.

A chart is rows of HTML with one SVG track each, whose x positions are percentages: it needs no script, its words wrap
and are never scaled, and it fits a telephone as well as a wide screen. Every row says in words what it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

from zeroshot_eval.figures import (
    EMPTY,
    NUM_COLOURS,
    UNIT,
    Scale,
    axis,
    grid_lines,
    key,
    mark,
    nice_ticks,
    stretch,
    track,
    upright,
)
from zeroshot_eval.grid import Estimate, Grid, Line, number, signed, skill, span

LANE = 20  # pixels of height of one checkpoint in a row
HEAT_STEPS = 10
NO_TRACK = "–"
VERDICTS = {"win": "better", "loss": "worse", "tie": "tie"}
PLOT_SIDE = 240
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 38, 10, 10, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A paired difference, a second checkpoint's value less the first's, so that above zero the second is better."""

    task: str
    difference: float
    low: float | None
    high: float | None
    verdict: str
    """`win`, `tie` or `loss` of the second checkpoint"""
    note: str = ""
    """such as the p-value"""


class Bin(Protocol):
    """One bin of a reliability diagram."""

    @property
    def confidence(self) -> float | None:
        """Mean confidence of its images; None where it is empty."""

    @property
    def accuracy(self) -> float | None:
        """Share of them that is right; None where it is empty."""

    @property
    def count(self) -> int:
        """Number of its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpread:
    """How much the prompts matter to one checkpoint on one task.

    Attributes:
        singles: (template, metric with that template alone).
        median, low, high: median and quartiles over sampled sets of templates; None where none were sampled.
        ensemble: the metric with all templates, as scored.
    """

    singles: tuple[tuple[str, float], ...]
    ensemble: float
    median: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """What the row draws, said."""
        said = [f"all prompts {number(self.ensemble)}"]
        if values := [value for _, value in self.singles]:
            said.append(f"{len(values)} single templates {number(min(values))} – {number(max(values))}")
        if self.median is not None:
            said.append(
                f"sampled sets: median {number(self.median)}, quartiles {number(self.low)} – {number(self.high)}"
            )
        return "; ".join(said)


def heat_map(grid: Grid, links: Mapping[str, str] | None = None) -> Markup:
    """Return tasks × checkpoints as a table of coloured cells: value, interval, n, with chance as the scale's zero.

    Args:
        grid: the scores; its groups head the blocks of rows.
        links: where a task's title leads, by the line's key.
    """
    head = EMPTY.join(
        Markup('<th scope="col" class="model">{} {}</th>').format(key(place), name)
        for place, name in enumerate(grid.checkpoints)
    )
    width = len(grid.checkpoints) + 1
    body = [
        Markup('<tr class="group"><th scope="colgroup" colspan="{}">{}</th></tr>{}').format(
            width, group, EMPTY.join(_heat_row(grid, line, (links or {}).get(line.key)) for line in lines)
        )
        for group, lines in grid.by_group.items()
    ]
    table = Markup(
        '<div class="scroll"><table class="heat" style="--k:{}"><thead><tr><th scope="col">task</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(len(grid.checkpoints), head, EMPTY.join(body))
    return table + _heat_legend(grid)


def heat_class(value: float, chance: float | None) -> str:
    """Return the class of a cell: h0 at chance up to h10 at perfect, b1 … b10 below chance."""
    found = skill(value, chance)
    step = min(HEAT_STEPS, round(abs(found) * HEAT_STEPS))
    return f"b{step}" if found < 0 and step else f"h{step}"


def dots(grid: Grid, scale: Scale = UNIT, links: Mapping[str, str] | None = None) -> Markup:
    """Return one row a line: every checkpoint's value as a mark with its interval, chance as a stroke."""
    rows = [_axis_row(scale)]
    for group, lines in grid.by_group.items():
        if group:
            rows.append(Markup('<p class="rowgroup">{}</p>').format(group))
        rows += [_dot_row(grid, line, scale, (links or {}).get(line.key)) for line in lines]
    return Markup('<div class="plot">{}</div>').format(EMPTY.join(rows))


def forest(differences: Sequence[PairedDifference], titles: Mapping[str, str], against: str, place: int = 1) -> Markup:
    """Return a forest plot of paired differences, zero in the middle; right of it the second checkpoint is better.

    Args:
        differences: one a row, in their order.
        titles: how a task is called, by its name; the name itself where none is given.
        against: name of the first checkpoint, for the axis.
        place: the second checkpoint's number, which gives colour and shape.
    """
    reach = max((abs(end) for row in differences for end in _ends(row)), default=0.1) or 0.1
    limit = nice_ticks(0, reach)[-1]
    scale = Scale(-limit, limit)
    rows = [_axis_row(scale, Markup("<i>← {} better</i><i>better than {} →</i>").format(against, against))]
    rows += [_forest_row(row, titles.get(row.task, row.task), scale, place) for row in differences]
    return Markup('<div class="plot forest">{}</div>').format(EMPTY.join(rows))


def reliability(bins: Sequence[Bin], label: str, number_: int = 0) -> Markup:
    """Return a reliability diagram: accuracy over confidence by bin, the diagonal, and each bin's share of images."""
    used = [
        _Point(each.confidence, each.accuracy, each.count)
        for each in bins
        if each.confidence is not None and each.accuracy is not None and each.count
    ]
    total, largest = sum(each.count for each in used), max((each.count for each in used), default=1)
    line = " ".join(f"{_x(each.confidence)},{_y(each.accuracy)}" for each in used)
    parts = [_reliability_ticks(tick) for tick in (0, 0.5, 1)]
    parts += [
        Markup('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_x(0), _y(0), _x(1), _y(1)),
        Markup('<polyline class="line c{}" points="{}"/>').format(number_ % NUM_COLOURS, line),
        *(_reliability_point(each, total, largest, number_) for each in used),
        Markup('<text x="{}" y="{}" text-anchor="middle">confidence</text>').format(_x(0.5), PLOT_SIDE - 4),
        Markup('<text x="{}" y="{}">right</text>').format(PLOT_LEFT + 5, PLOT_TOP + 10),
    ]
    return Markup(
        '<svg class="square" viewBox="0 0 {0} {0}" width="{0}" height="{0}" role="img" aria-label="{1}">{2}</svg>'
    ).format(PLOT_SIDE, label, EMPTY.join(parts))


def prompt_strip(spreads: Mapping[str, PromptSpread], chance: float | None, scale: Scale = UNIT) -> Markup:
    """Return one row a checkpoint: dots for single templates, box and median of sampled sets, the ensemble's mark."""
    rows = [_axis_row(scale)]
    for place, (name, spread) in enumerate(spreads.items()):
        drawing = _strip(spread, place, chance, scale, f"{name}: {spread.words}")
        rows.append(_row(Markup("{} {}").format(key(place), name), drawing, _spread_words(spread)))
    return Markup('<div class="plot">{}</div>').format(EMPTY.join(rows))


def _row(name: str | Markup, drawing: Markup, words: Markup) -> Markup:
    return Markup(
        '<div class="row"><span class="name">{}</span><span>{}</span><span class="read">{}</span></div>'
    ).format(name, drawing, words)


def _axis_row(scale: Scale, ends: Markup = EMPTY) -> Markup:
    if ends:
        ends = Markup('<span class="ends">{}</span>').format(ends)
    return Markup('<div class="row axis"><span></span><span>{}{}</span><span></span></div>').format(
        ends, axis(scale, signed=scale.low < 0)
    )


def _heat_row(grid: Grid, line: Line, link: str | None) -> Markup:
    cells = [
        _heat_cell(name, line, estimate, place)
        for place, (name, estimate) in enumerate(zip(grid.checkpoints, line.estimates, strict=True))
    ]
    detail = f"{line.metric} · n {line.sizes} · chance {number(line.chance)}"
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(_titled(line, detail, link), EMPTY.join(cells))


def _heat_cell(name: str, line: Line, estimate: Estimate | None, place: int) -> Markup:
    if estimate is None:
        return Markup('<td class="none" title="{}: not scored">–</td>').format(f"{name}, {line.title}")
    classes = [heat_class(estimate.value, estimate.chance)]
    classes += ["unsure"] if estimate.above_chance is False else []
    classes += ["best"] if line.best == place else []
    alarms = [mark for mark in line.marks if mark.alarm and mark.is_about(place)]
    sign = Markup('<i class="alarmed" role="img" aria-label="{0}" title="{0}">⚠</i> ').format(
        " ".join(mark.said for mark in alarms)
    )
    return Markup('<td class="{}" title="{}">{}<b>{}</b><small>{}</small></td>').format(
        " ".join(classes),
        _in_words(name, line, estimate),
        sign if alarms else EMPTY,
        number(estimate.value),
        span(estimate),
    )


def _heat_legend(grid: Grid) -> Markup:
    swatches = EMPTY.join(
        Markup('<i class="{}"></i>').format(name)
        for name in (*(f"b{step}" for step in (10, 5)), *(f"h{step}" for step in (0, 2, 4, 6, 8, 10)))
    )
    parts = [
        Markup('worse than chance <span class="swatches" aria-hidden="true">{}</span> perfect.').format(swatches),
        "The pale cell is chance, whatever the task’s chance is.",
        Markup('<span class="sample unsure">0.5</span> the interval does not lie above chance.'),
    ]
    if len(grid.checkpoints) > 1:
        parts.append(
            Markup('<span class="sample best">0.9</span> better than every other checkpoint by a paired test.')
        )
    if any(mark.alarm for line in grid.lines for mark in line.marks):
        parts.append(Markup('<i class="alarmed" aria-hidden="true">⚠</i> training data are among the images.'))
    return Markup('<p class="legend">{}</p>').format(Markup(" ").join(parts))


def _in_words(name: str, line: Line, estimate: Estimate) -> str:
    return (
        f"{name}, {line.title}: {line.metric} {number(estimate.value)}, 95 % interval {span(estimate)}, "
        f"chance {number(estimate.chance)}, n {estimate.n:,}, groups {estimate.groups:,}"
    )


def _dot_row(grid: Grid, line: Line, scale: Scale, link: str | None) -> Markup:
    height = LANE * len(grid.checkpoints)
    parts, words, read = [grid_lines(scale, height)], [], []
    if line.chance is not None:
        parts.append(upright("chance", scale(line.chance), 0, height))
    for place, (name, estimate) in enumerate(zip(grid.checkpoints, line.estimates, strict=True)):
        middle = LANE * (place + 0.5)
        if estimate is None:
            read.append(Markup("<span>–</span>"))
            continue
        words.append(_in_words(name, line, estimate))
        if (bounds := estimate.bounds) is not None:
            parts.append(stretch(f"interval c{place % NUM_COLOURS}", scale(bounds[0]), scale(bounds[1]), middle))
        parts.append(mark(place, scale(estimate.value), middle))
        sign = key(place) if len(grid.checkpoints) > 1 else EMPTY
        read.append(
            Markup("<span>{}<b>{}</b> <small>{}</small></span>").format(sign, number(estimate.value), span(estimate))
        )
    drawing = track(parts, height, "; ".join(words) or f"{line.title}: not scored")
    return _row(_titled(line, f"n {line.sizes}", link), drawing, EMPTY.join(read))


def _titled(line: Line, detail: str, link: str | None) -> Markup:
    """Return a line's title with its link, its warnings and a smaller detail beneath."""
    title = Markup('<a href="{}">{}</a>').format(link, line.title) if link else line.title
    marks = EMPTY.join(
        Markup(' <em class="chip{}" title="{}">{}</em>').format(" alarm" if mark.alarm else "", mark.said, mark.text)
        for mark in line.marks
    )
    return Markup("{}{}<small>{}</small>").format(title, marks, detail)


def _ends(row: PairedDifference) -> list[float]:
    return [end for end in (row.difference, row.low, row.high) if end is not None]


def _forest_row(row: PairedDifference, title: str, scale: Scale, place: int) -> Markup:
    verdict = VERDICTS.get(row.verdict, row.verdict)
    bounds = NO_TRACK if row.low is None or row.high is None else f"{signed(row.low)} … {signed(row.high)}"
    parts = [grid_lines(scale, LANE), upright("zero", scale(0), 0, LANE)]
    if row.low is not None and row.high is not None:
        parts.append(stretch(f"interval c{place % NUM_COLOURS}", scale(row.low), scale(row.high), LANE / 2))
    parts.append(mark(place, scale(row.difference), LANE / 2))
    words = f"{title}: difference {signed(row.difference)}, 95 % interval {bounds}, {verdict}"
    read = Markup('<span><b>{}</b> <small>{}</small> <em class="verdict {}">{}</em> <small>{}</small></span>').format(
        signed(row.difference), bounds, row.verdict, verdict, row.note
    )
    return _row(title, track(parts, LANE, words), read)


@dataclass(frozen=True, slots=True)
class _Point:
    confidence: float
    accuracy: float
    count: int


def _x(fraction: float) -> str:
    return f"{PLOT_LEFT + fraction * (PLOT_SIDE - PLOT_LEFT - PLOT_RIGHT):.1f}"


def _y(fraction: float) -> str:
    return f"{PLOT_SIDE - PLOT_BOTTOM - fraction * (PLOT_SIDE - PLOT_TOP - PLOT_BOTTOM):.1f}"


def _reliability_ticks(tick: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text x="{}" y="{y}" dy="4" text-anchor="end">{tick}</text>'
        '<text x="{}" y="{}" text-anchor="middle">{tick}</text>'
    ).format(_x(0), _x(1), PLOT_LEFT - 5, _x(tick), PLOT_SIDE - PLOT_BOTTOM + 14, y=_y(tick), tick=f"{tick:g}")


def _reliability_point(each: _Point, total: int, largest: int, place: int) -> Markup:
    words = (
        f"confidence {number(each.confidence)}, right {number(each.accuracy)}, {each.count} images "
        f"({100 * each.count / total:.0f} %)"
    )
    radius = 2 + 5 * (each.count / largest) ** 0.5
    return Markup(
        '<line class="gap" x1="{x}" x2="{x}" y1="{}" y2="{}"/><circle class="c{}" cx="{x}" cy="{}" r="{}">'
        "<title>{}</title></circle>"
    ).format(
        _y(each.confidence),
        _y(each.accuracy),
        place % NUM_COLOURS,
        _y(each.accuracy),
        f"{radius:.1f}",
        words,
        x=_x(each.confidence),
    )


def _strip(spread: PromptSpread, place: int, chance: float | None, scale: Scale, words: str) -> Markup:
    height, middle = 2 * LANE, LANE
    parts = [grid_lines(scale, height)]
    if chance is not None:
        parts.append(upright("chance", scale(chance), 0, height))
    if spread.median is not None and spread.low is not None and spread.high is not None:
        parts.append(stretch(f"box c{place % NUM_COLOURS}", scale(spread.low), scale(spread.high), middle))
        parts.append(upright("median", scale(spread.median), middle - 7, middle + 7))
    parts += [
        Markup('<circle class="single c{}" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>').format(
            place % NUM_COLOURS, scale(value), middle + (-1) ** number_ * 12, template, number(value)
        )
        for number_, (template, value) in enumerate(spread.singles)
    ]
    parts.append(mark(place, scale(spread.ensemble), middle))
    return track(parts, height, words)


def _spread_words(spread: PromptSpread) -> Markup:
    read = Markup("<span><b>{}</b> <small>all prompts</small></span>").format(number(spread.ensemble))
    if spread.median is None:
        return read
    return read + Markup("<span><b>{}</b> <small>median, {} – {}</small></span>").format(
        number(spread.median), number(spread.low), number(spread.high)
    )
