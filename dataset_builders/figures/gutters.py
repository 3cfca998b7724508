"""Cuts a figure along its gutters: lines of one even colour that run through a whole region.

Recursive guillotine cuts (Nagy and Seth, "Hierarchical representation of optically scanned documents", 1984), with the
evidence that figures give: a gutter counts when a picture's straight edge lies along it, so that the empty parts of a
plot and the black around an anatomy are no gutters. Panel letters, where they were read, say which gutters matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmed.images import ArrayHWC
from dataset_builders.figures.panel_boxes import Box

Grey = npt.NDArray[np.uint8]
Axis = Literal[0, 1]  # 0: lines are rows, cuts are horizontal; 1: lines are columns, cuts are vertical

WORK_SIDE = 1024  # longest side, in pixels, at which gutters and letters are looked for
MAX_DEVIATION = 9.0  # standard deviation of grey along an even line; JPEG leaves 2 to 6
GRAIN = 2.5  # standard deviation of grey above which an even stretch is part of a picture
MAX_RANGE = 96  # largest difference of grey along an even line
MAX_STEP = 20  # difference of mean grey between neighbouring lines of one gutter
EDGE = 28  # difference of grey between a gutter and a picture
REACH = 4  # how many lines beyond a gutter the picture's edge is looked for
BLUR = 3  # lines that scaling and JPEG leave between two even runs
STRAIGHT = 0.55  # share of a gutter's length along which a picture's edge must lie
SOFT = 0.15  # the same for the other side of gutters that are not white
WHOLE = 0.85  # the same where gutters that are not white have a straight edge at one side alone
ALIKE = 0.35  # size of pieces beside gutters that are not white, as a share of the largest piece beside them
SMALL_SIDE = 0.07  # pieces shorter than this share of the figure are text or lines
REGULAR = 0.5  # size of the smallest row or column of a grid of plots over the largest, at least
MIN_SHARE = 0.2  # pieces whose shorter side is below this share of the largest such side are text or lines
DEBRIS = 0.006  # of the figure's longer side: lines at a border that are no content
MAX_DEPTH = 12
WHITE = 232


@dataclass(frozen=True, slots=True)
class Gutter:
    """A run of even lines of one colour: position along the axis, mean grey, and the straight edges at both sides."""

    axis: Axis
    start: int
    stop: int
    level: float
    before: float
    """share of the gutter's length along which a picture ends at its start"""
    after: float
    """share of the gutter's length along which a picture begins at its end"""

    @property
    def width(self) -> int:
        """Number of lines."""
        return self.stop - self.start

    @property
    def is_hard(self) -> bool:
        """Whether a picture ends along it; where it is not white, along all of it, or one begins behind it too."""
        edges = sorted((self.before, self.after))
        if self.level >= WHITE:
            return edges[1] >= STRAIGHT
        return edges[1] >= WHOLE or (edges[1] >= STRAIGHT and edges[0] >= SOFT)


def working_copy(image: ArrayHWC) -> Grey:
    """Return an RGB image, shape (H, W, 3), in grey, (h, w), scaled down to WORK_SIDE: for gutters and letters."""
    import cv2

    height, width = image.shape[:2]
    factor = WORK_SIDE / max(height, width)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if factor < 1:
        size = max(round(width * factor), 1), max(round(height * factor), 1)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, dtype=np.uint8)


def even_lines(grey: Grey, axis: Axis) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return for every row (axis 0) or column (axis 1) whether it has one colour, and its mean grey."""
    import cv2

    mean = np.asarray(cv2.reduce(grey, 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel(), dtype=np.float32)
    low, high = (bound.astype(np.int16) for bound in (grey.min(axis=1 - axis), grey.max(axis=1 - axis)))
    even = high - low <= MAX_RANGE
    doubtful = np.flatnonzero(even & (high - low > MAX_DEVIATION))
    if doubtful.size:
        lines = grey[doubtful] if axis == 0 else grey[:, doubtful]
        even[doubtful] = lines.std(axis=1 - axis, dtype=np.float32) <= MAX_DEVIATION
    return even, mean


def find_gutters(grey: Grey, region: Box, axis: Axis) -> list[Gutter]:
    """Return the gutters inside a region of a grey image, those at its border left out, from first to last.

    Of even runs that touch, such as a white gutter and the black margin of the picture beside it, one is the gutter:
    the one that is drawn and no picture, which has grain; of two drawn ones, the brighter.
    """
    left, top, right, bottom = region
    part = grey[top:bottom, left:right]
    even, mean = even_lines(part, axis)
    offset = top if axis == 0 else left
    found: list[Gutter] = []
    for start, stop in _runs(even, mean):
        if start <= BLUR or stop >= len(even) - BLUR:
            continue
        level = float(mean[start:stop].mean())
        before, after = _edge(part, axis, start, -1, level), _edge(part, axis, stop, 1, level)
        gutter = Gutter(axis, start + offset, stop + offset, level, before, after)
        if found and gutter.start - found[-1].stop <= BLUR:
            found[-1] = max(found[-1], gutter, key=lambda touching: (_is_drawn(grey, region, touching), touching.level))
        else:
            found.append(gutter)
    return found


def _is_drawn(grey: Grey, region: Box, gutter: Gutter) -> bool:
    left, top, right, bottom = region
    lines = slice(gutter.start, gutter.stop)
    run = grey[lines, left:right] if gutter.axis == 0 else grey[top:bottom, lines]
    return float(run.std()) <= GRAIN


def _runs(even: npt.NDArray[np.bool_], mean: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return the runs of even lines whose colour does not jump."""
    if not even.any():
        return []
    joined = even[1:] & even[:-1] & (np.abs(np.diff(mean)) <= MAX_STEP)
    starts = np.flatnonzero(even & np.concatenate(([True], ~joined)))
    stops = np.flatnonzero(even & np.concatenate((~joined, [True]))) + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _edge(part: Grey, axis: Axis, line: int, step: Literal[-1, 1], level: float) -> float:
    """Return the share of a line's length along which something other than the gutter's colour begins within REACH."""
    lines = slice(line, line + REACH) if step == 1 else slice(max(line - REACH, 0), line)
    strip = part[lines] if axis == 0 else part[:, lines]
    if strip.size == 0:
        return 0.0
    inside = (strip.min(axis=axis) < level - EDGE) | (strip.max(axis=axis) > level + EDGE)
    return float(inside.mean())


def trim(grey: Grey, region: Box, level: float | None = None) -> Box:
    """Return a region without the even lines of a colour at its borders; without a colour, of white.

    With them go page rules and other specks of a few pixels that the empty space parts from the rest.
    """
    debris = max(round(DEBRIS * max(grey.shape)), 2)
    axes: tuple[Axis, ...] = (0, 1, 0, 1)
    for axis in axes:
        left, top, right, bottom = region
        part = grey[top:bottom, left:right]
        if part.size == 0:
            return region
        even, mean = even_lines(part, axis)
        empty = even & (mean >= WHITE if level is None else np.abs(mean - level) <= MAX_STEP)
        first, last = _content(empty, debris)
        region = (left, top + first, right, top + last) if axis == 0 else (left + first, top, left + last, bottom)
    return region


def _content(empty: npt.NDArray[np.bool_], debris: int) -> tuple[int, int]:
    """Return where the lines that are not empty begin and end, thin debris at either end left out."""
    content = np.flatnonzero(~empty)
    while content.size:
        breaks = np.flatnonzero(np.diff(content) > 2)
        if breaks.size and breaks[0] + 1 <= debris:
            content = content[breaks[0] + 1 :]
        elif breaks.size and content.size - breaks[-1] - 1 <= debris:
            content = content[: breaks[-1] + 1]
        else:
            return int(content[0]), int(content[-1]) + 1
    return 0, 0


def split(region: Box, gutter: Gutter) -> tuple[Box, Box]:
    """Return the two sides of a gutter, the gutter itself left out."""
    left, top, right, bottom = region
    if gutter.axis == 0:
        return (left, top, right, gutter.start), (left, gutter.stop, right, bottom)
    return (left, top, gutter.start, bottom), (gutter.stop, top, right, bottom)


def is_small(box: Box, side: int) -> bool:
    """Whether a piece of a figure whose longer side is `side` is no panel: a line of text, a scale, a stray mark."""
    return _thickness(box) < max(SMALL_SIDE * side, 12)


def cut_pieces(grey: Grey) -> list[Box]:
    """Return the pictures of a figure that straight edges and gutters show, small pieces left out; at least one."""
    height, width = grey.shape
    whole = trim(grey, (0, 0, width, height))
    pieces = _cut(grey, whole, max(height, width), 0)
    thickest = max(map(_thickness, pieces), default=0)
    return [piece for piece in pieces if _thickness(piece) >= MIN_SHARE * thickest] or [(0, 0, width, height)]


def _thickness(box: Box) -> int:
    return min(box[2] - box[0], box[3] - box[1])


def _cut(grey: Grey, region: Box, side: int, depth: int) -> list[Box]:
    if is_small(region, side):
        return []
    if depth == MAX_DEPTH:
        return [region]
    gutters = max((_hard_gutters(grey, region, axis) for axis in (0, 1)), key=_strength)
    if not gutters:
        return [region]
    found: list[Box] = []
    rest = region
    for gutter in gutters:
        first, rest = split(rest, gutter)
        found += _cut(grey, trim(grey, first, gutter.level), side, depth + 1)
    found += _cut(grey, trim(grey, rest, gutters[-1].level), side, depth + 1)
    return found


def cut_grid(grey: Grey, count: int) -> list[Box]:
    """Return the cells of the most regular grid of `count` cells that a figure's gutters allow; none without one.

    For plots, which have no straight edges: the widest gutters count, if they leave rows and columns of like size.
    """
    height, width = grey.shape
    whole = trim(grey, (0, 0, width, height))
    best: tuple[float, list[Box]] = (REGULAR, [])
    for rows in range(1, count + 1):
        if count % rows == 0:
            best = max(best, _grid(grey, whole, rows, count // rows), key=lambda grid: grid[0])
    cells = [trim(grey, cell) for cell in best[1]]
    return [] if any(is_small(cell, max(height, width)) for cell in cells) else cells


def _grid(grey: Grey, whole: Box, rows: int, columns: int) -> tuple[float, list[Box]]:
    """Return the cells of a grid, and how regular it is, from 0 to 1."""
    bands, regular = _widest_cuts(grey, whole, 0, rows)
    cells: list[Box] = []
    for band in bands:
        found, likeness = _widest_cuts(grey, trim(grey, band), 1, columns)
        cells += found
        regular = min(regular, likeness)
    return regular, cells


def _widest_cuts(grey: Grey, region: Box, axis: Axis, count: int) -> tuple[list[Box], float]:
    """Return a region in `count` parts, cut at its widest gutters, and the smallest part's size over the largest's."""
    if count == 1:
        return [region], 1.0
    gutters = sorted(find_gutters(grey, region, axis), key=lambda gutter: -gutter.width)[: count - 1]
    parts, rest = [], region
    for gutter in sorted(gutters, key=lambda gutter: gutter.start):
        part, rest = split(rest, gutter)
        parts.append(part)
    parts.append(rest)
    sizes = [part[3] - part[1] if axis == 0 else part[2] - part[0] for part in parts]
    return parts, min(sizes) / max(*sizes, 1) if len(parts) == count else 0.0


def _strength(gutters: Sequence[Gutter]) -> float:
    return sum(gutter.before + gutter.after for gutter in gutters)


def _hard_gutters(grey: Grey, region: Box, axis: Axis) -> list[Gutter]:
    """Return the gutters along which a region is cut; those that are not white part pieces of like size alone."""
    hard = [gutter for gutter in find_gutters(grey, region, axis) if gutter.is_hard]
    low, high = (region[1], region[3]) if axis == 0 else (region[0], region[2])
    starts, stops = [low, *(gutter.stop for gutter in hard)], [*(gutter.start for gutter in hard), high]
    lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return [
        gutter
        for index, gutter in enumerate(hard)
        if gutter.level >= WHITE or min(lengths[index : index + 2]) >= ALIKE * max(lengths)
    ]
