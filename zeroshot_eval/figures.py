"""Plots as inline SVG: interval tracks whose x positions are percentages, so that they fit any width, and line charts.

Colours come from the page's style sheet through classes, so that one plot serves light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
Series = Mapping[str, Sequence[tuple[float, float]]]


def interval_track(value: float, bounds: tuple[float, float] | None, chance: float, label: str) -> Markup:
    """Return a 0 … 1 axis with the value as a dot, its interval as a bar and chance as a tick."""
    bar = Markup()
    if bounds is not None:
        low, high = bounds
        bar = Markup('<line class="interval" x1="{}%" x2="{}%" y1="13" y2="13"/>').format(_percent(low), _percent(high))
    grid = Markup("").join(
        Markup('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="26"/>').format(place)
        for place in (0, 25, 50, 75, 100)
    )
    return Markup(
        '<svg class="track" role="img" aria-label="{}" height="26">{}'
        '<line class="chance" x1="{}%" x2="{}%" y1="3" y2="23"/>{}<circle class="dot" cx="{}%" cy="13" r="5"/></svg>'
    ).format(label, grid, _percent(chance), _percent(chance), bar, _percent(value))


def line_chart(series: Series, x_label: str, label: str) -> Markup:
    """Return a line chart of up to four named series of (x, y) points, with axes and ticks."""
    points = [point for line in series.values() for point in line]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    x_ticks = [tick for tick in nice_ticks(x_low, x_high) if x_low <= tick <= x_high]
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_y_tick(tick, place(x_low, tick)[1]) for tick in y_ticks]
    parts += [_x_tick(tick, place(tick, y_low)[0]) for tick in x_ticks]
    for number, line in enumerate(series.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(Markup('<polyline class="line line{}" points="{}"/>').format(number, path))
        if len(line) == 1:
            x, y = place(*line[0])
            parts.append(Markup('<circle class="line{}" cx="{}" cy="{}" r="3"/>').format(number, x, y))
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 4, x_label))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers whose range covers low … high."""
    span = high - low or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / count))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if span / (factor * magnitude) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _percent(fraction: float) -> str:
    return f"{100 * min(max(fraction, 0.0), 1.0):.2f}"


def _y_tick(tick: float, y: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 5, y + 4, f"{tick:g}")


def _x_tick(tick: float, x: float) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, HEIGHT - BOTTOM + 15, f"{tick:g}")
