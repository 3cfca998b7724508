"""Line charts as inline SVG. Colours come from the page's style sheet; a long curve keeps its mean and its extremes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MAX_POINTS = 150
MAX_LINES = 8
MAX_TICKS = 5
ROUND_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What one chart shows: named curves of (step, value) points, in the order of their colours.

    `dashed` names reference levels. `percent` shows shares as percentages; `from_zero` begins the axis there.
    """

    title: str
    lines: Mapping[str, Points]
    dashed: frozenset[str] = frozenset()
    percent: bool = False
    from_zero: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnChart:
    """A chart for the page: `keys` are (name, class) of its curves, `data` what a reader's pointer is answered from."""

    title: str
    note: str
    keys: list[tuple[str, str]]
    svg: Markup
    data: str


class _Bucket(NamedTuple):
    """Neighbouring points as one: their mean place, and the range of their values."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values to places in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    percent: bool = field(default=False)

    def across(self, x: float) -> float:
        return PLOT_WIDTH * _fraction(x, *self.x)

    def down(self, y: float) -> float:
        return PLOT_HEIGHT * (1 - _fraction(y, *self.y))


def draw(chart: Chart) -> DrawnChart:
    """Draw a chart of one to `MAX_LINES` curves with one point or more each."""
    buckets = {name: thinned(points) for name, points in chart.lines.items()}
    classes = [f"line line{number}{' dashed' if name in chart.dashed else ''}" for number, name in enumerate(buckets)]
    frame = _frame(chart, buckets)
    drawn = [_curve(line, kind, frame) for line, kind in zip(buckets.values(), classes, strict=True)]
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<svg x="{}" y="{}" width="{}" height="{}">{}<line class="cursor" y1="0" y2="{}"/></svg></svg>'
    ).format(
        *(WIDTH, HEIGHT, f"{chart.title}: {', '.join(buckets)}", _axes(frame)),
        *(LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT, Markup("").join(drawn), PLOT_HEIGHT),
    )
    data = {
        "x": frame.x,
        "percent": chart.percent,
        "lines": {
            name: [[round(point.x), float(f"{point.y:.5g}")] for point in line] for name, line in buckets.items()
        },
    }
    return DrawnChart(
        title=chart.title,
        note=chart.note,
        keys=list(zip(buckets, classes, strict=True)),
        svg=svg,
        data=json.dumps(data, separators=(",", ":")),
    )


def thinned(points: Points) -> list[_Bucket]:
    """Return at most `MAX_POINTS` buckets of neighbouring points; the extremes inside each are kept."""
    size = -(-len(points) // MAX_POINTS)
    buckets = []
    for start in range(0, len(points), max(size, 1)):
        part = points[start : start + size]
        values = [y for _, y in part]
        place = sum(x for x, _ in part) / len(part)
        buckets.append(_Bucket(place, sum(values) / len(values), min(values), max(values)))
    return buckets


def round_ticks(low: float, high: float) -> list[float]:
    """Return at most `MAX_TICKS` + 1 round numbers inside low … high, evenly apart."""
    span = high - low
    if span <= 0:
        return [low]
    magnitude = 10.0 ** math.floor(math.log10(span / MAX_TICKS))
    step = next(magnitude * factor for factor in ROUND_STEPS if span / (magnitude * factor) <= MAX_TICKS)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def compact(value: float, digits: int = 4) -> str:
    """Return a number in few characters: 0.25, 1.5k, 2M, 5e-4."""
    size = abs(value)
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{value / factor:.{digits}g}{letter}"
    if 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def _fraction(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _frame(chart: Chart, buckets: Mapping[str, list[_Bucket]]) -> _Frame:
    points = [point for line in buckets.values() for point in line]
    xs = [x for line in chart.lines.values() for x, _ in line]
    low, high = _bounds([point.y for point in points])
    # A single spike far outside would flatten all else: what leaves the frame is cut off there.
    room = high - low or abs(high) or 1.0
    low = max(min(point.low for point in points), low - room / 4)
    high = min(max(point.high for point in points), high + room / 4)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
    bottom = 0.0 if chart.from_zero else low - margin
    return _Frame((min(xs), max(xs)), (bottom, high + margin), chart.percent)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of all but the most extreme fiftieth of the values on either side."""
    ordered = sorted(values)
    cut = len(ordered) // 50
    return ordered[cut], ordered[len(ordered) - 1 - cut]


def _axes(frame: _Frame) -> Markup:
    across = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    up = Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    )
    levels = [(TOP + frame.down(tick), tick) for tick in round_ticks(*frame.y)]
    parts = [
        up.format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, f"{100 * tick:.4g} %" if frame.percent else compact(tick))
        for y, tick in levels
    ]
    parts += [across.format(LEFT + frame.across(tick), HEIGHT - 8, compact(tick)) for tick in round_ticks(*frame.x)]
    return Markup("").join(parts)


def _curve(line: Sequence[_Bucket], kind: str, frame: _Frame) -> Markup:
    """Return one curve; where its points stand for several, with the band that they lie in."""
    if len(line) == 1:
        (point,) = line
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(
            kind, frame.across(point.x), frame.down(point.y)
        )
    path = " ".join(f"{frame.across(point.x):.1f},{frame.down(point.y):.1f}" for point in line)
    band = Markup()
    if any(point.low < point.high for point in line):
        upper = [(point.x, point.high) for point in line]
        lower = [(point.x, point.low) for point in reversed(line)]
        outline = " ".join(f"{frame.across(x):.1f},{frame.down(y):.1f}" for x, y in upper + lower)
        band = Markup('<polygon class="{} band" points="{}"/>').format(kind, outline)
    return band + Markup('<polyline class="{}" points="{}"/>').format(kind, path)
