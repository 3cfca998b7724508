"""Parts of plots as inline SVG: axes, tracks and marks whose x positions are percentages, so that they fit any width.

Colours come from the page's style sheet through classes, so that one plot serves light and dark pages. Checkpoints
differ by colour and by shape: class c0, c1, … and MARKS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 36
NUM_COLOURS = 6
MOST_POINTS = 24  # of a line that is drawn with its points
REFERENCE = "chance"  # name of the line that is a level to compare with, drawn grey and dashed
MARKS = (
    Markup('<circle r="5"/>'),
    Markup('<path d="M0-6 6 0 0 6-6 0Z"/>'),
    Markup('<rect x="-4.5" y="-4.5" width="9" height="9"/>'),
    Markup('<path d="M0-6 6 5-6 5Z"/>'),
    Markup('<path d="M0 6 6-5-6-5Z"/>'),
)
Series = Mapping[str, Sequence[tuple[float, float]]]
Bands = Mapping[str, Sequence[tuple[float, float, float]]]
EMPTY = Markup("")


class Scale:
    """Places values on a horizontal axis as percentages of its width; values beyond its ends are put at them."""

    def __init__(self, low: float, high: float) -> None:
        assert low < high
        self.low, self.high = low, high

    def __call__(self, value: float) -> str:
        """Return the place of a value, such as `37.5%`."""
        return f"{self.fraction(value) * 100:.2f}%"

    def fraction(self, value: float) -> float:
        """Return the place of a value between 0 and 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    @property
    def ticks(self) -> list[float]:
        """Round numbers from end to end."""
        return [tick for tick in nice_ticks(self.low, self.high) if self.low - 1e-9 <= tick <= self.high + 1e-9]


UNIT = Scale(0, 1)


def mark(number: int, x: str, y: float) -> Markup:
    """Return the mark of the checkpoint with this number, centred at x (a percentage) and y (pixels)."""
    shape = MARKS[(number + number // NUM_COLOURS) % len(MARKS)]
    return Markup('<svg x="{}" y="{}" class="mark c{}">{}</svg>').format(x, f"{y:g}", number % NUM_COLOURS, shape)


def key(number: int, name: str = "") -> Markup:
    """Return a checkpoint's mark alone, for legends and beside its name; a name given here is said, not written."""
    said = Markup('role="img" aria-label="{}"').format(name) if name else Markup('aria-hidden="true"')
    title = Markup("<title>{}</title>").format(name) if name else EMPTY
    return Markup('<svg class="key" width="14" height="14" {}>{}{}</svg>').format(said, title, mark(number, "50%", 7))


def grid_lines(scale: Scale, height: float) -> Markup:
    """Return the faint vertical lines at the ticks of an axis."""
    return EMPTY.join(
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(scale(tick), f"{height:g}")
        for tick in scale.ticks
    )


def upright(kind: str, x: str, top: float, bottom: float) -> Markup:
    """Return a vertical stroke of a class, such as chance."""
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>').format(kind, x, f"{top:g}", f"{bottom:g}")


def stretch(kind: str, low: str, high: str, y: float) -> Markup:
    """Return a horizontal stroke of a class, such as an interval."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(kind, low, high, y=f"{y:g}")


def axis(scale: Scale, signed: bool = False) -> Markup:
    """Return the tick labels of an axis, to stand above the tracks that share it."""
    labels = EMPTY.join(
        Markup('<text x="{}" y="11" text-anchor="middle">{}</text>').format(
            scale(tick), (f"{tick:+g}" if signed and abs(tick) > 1e-9 else f"{tick:g}").replace("-", "−")
        )
        for tick in scale.ticks
    )
    return Markup('<svg class="track ticks" height="14" aria-hidden="true">{}</svg>').format(labels)


def track(parts: Sequence[Markup], height: float, label: str) -> Markup:
    """Return one row of a plot, as wide as its place, with a label for those who do not see it."""
    return Markup('<svg class="track" role="img" aria-label="{0}" height="{1}"><title>{0}</title>{2}</svg>').format(
        label, f"{height:g}", EMPTY.join(parts)
    )


def line_chart(series: Series, x_label: str, label: str, bands: Bands | None = None) -> Markup:
    """Return a line chart of named series of (x, y) points, with axes and ticks.

    Args:
        series: the lines; their order gives their classes c0, c1, …; one called `chance` is drawn to compare with.
        x_label: what the x axis counts.
        label: what the chart shows, for those who do not see it.
        bands: for the lines that have one, (x, low, high) of the area behind it.
    """
    bands = bands or {}
    points = [point for line in series.values() for point in line]
    points += [(x, y) for band in bands.values() for x, low, high in band for y in (low, high)]
    place = _Plane([x for x, _ in points], [y for _, y in points])
    parts = [_y_tick(tick, place.y(tick)) for tick in place.y_ticks]
    parts += [_x_tick(tick, place.x(tick)) for tick in place.x_ticks]
    for number, (name, line) in enumerate(series.items()):
        kind = REFERENCE if name == REFERENCE else f"c{number % NUM_COLOURS}"
        parts.append(_band(kind, bands[name], place) if name in bands else EMPTY)
        path = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in line)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(kind, path))
        if len(line) <= MOST_POINTS and kind != REFERENCE:
            parts += [_point(kind, place.x(x), place.y(y)) for x, y in line]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 4, x_label))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, EMPTY.join(parts)
    )


class _Plane:
    """Places points in a chart's frame; the y axis ends at round numbers."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_low, self.x_high = min(xs), max(xs)
        self.y_ticks = nice_ticks(min(ys), max(ys))
        self.x_ticks = [tick for tick in nice_ticks(self.x_low, self.x_high) if self.x_low <= tick <= self.x_high]

    def x(self, value: float) -> float:
        across = (value - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers whose range covers low … high."""
    span = high - low or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / count))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if span / (factor * magnitude) <= count + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _band(kind: str, band: Sequence[tuple[float, float, float]], place: _Plane) -> Markup:
    there = [f"{place.x(x):.1f},{place.y(high):.1f}" for x, _, high in band]
    back = [f"{place.x(x):.1f},{place.y(low):.1f}" for x, low, _ in reversed(band)]
    return Markup('<polygon class="band {}" points="{}"/>').format(kind, " ".join(there + back))


def _point(kind: str, x: float, y: float) -> Markup:
    return Markup('<circle class="point {}" cx="{}" cy="{}" r="3"/>').format(kind, f"{x:.1f}", f"{y:.1f}")


def _y_tick(tick: float, y: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, f"{y:.1f}", f"{y:.1f}", LEFT - 5, f"{y + 4:.1f}", f"{tick:g}")


def _x_tick(tick: float, x: float) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
        f"{x:.1f}", HEIGHT - BOTTOM + 15, f"{tick:g}"
    )
