"""The kind of a figure by rules on a small version of it: paper, grain, axes, and the colours of charts.

What a lens or a scanner made has shades nearly everywhere, without paper between them. What was drawn has lines and
flat areas, mostly on white paper; a plot has axes, with labels in a row beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmed.images import ArrayHWC
from dataset_builders.figures.kinds import FigureKind

SIDE = 256
WHITE = 240
BLACK = 12
INK = 234
# Tuned on half of the figures of benchmarks/pmc_kinds.py. Less paper than this is a photograph, unless it has the axes
# or the hues of a chart; on more paper, so much shading is.
PAPER_OF_DRAWINGS = 0.3
SHADING_OF_PHOTOGRAPHS = 0.18
SHADING_OF_DRAWINGS = 0.12
SHADING_OF_CHARTS = 0.1
HUES_OF_CHARTS = 5
_AXIS = 30
_LABELS = 18
_MAX_LINES = 48
_Grey = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is measured of a figure. Shares are of its pixels, from 0 to 1."""

    paper: float
    """share of white"""
    shading: float
    """share with many shades around it, and no white among them, of what is not white"""
    hues: int
    """how many of twelve hues strong colours have, in more than 2 % of the pixels each"""
    axes: int
    """vertical lines that meet a horizontal one at their foot, both with labels in a row outside; counted where paper
    and shading do not say photograph already"""


class Rules:
    """Tells a figure's kind by rules; a `KindClassifier`."""

    name = "rules"

    def kind_of(self, image: ArrayHWC) -> tuple[FigureKind, float]:
        """Return the kind of an RGB image, uint8 of shape (H, W, 3), and how clear it is, from 0.5 to 1."""
        return judge(measure(image))


def judge(traits: Traits) -> tuple[FigureKind, float]:
    """Return the kind that traits speak for, and how clearly."""
    if traits.paper < PAPER_OF_DRAWINGS:
        drawn = traits.shading < SHADING_OF_CHARTS and (traits.axes > 0 or traits.hues >= HUES_OF_CHARTS)
    else:
        drawn = traits.shading < SHADING_OF_PHOTOGRAPHS or traits.hues >= HUES_OF_CHARTS or traits.axes > 1
    if not drawn:
        margin = max(PAPER_OF_DRAWINGS - traits.paper, traits.shading - SHADING_OF_PHOTOGRAPHS)
        return FigureKind.MEDICAL, _clearness(margin)
    if traits.axes or traits.hues >= HUES_OF_CHARTS:
        return FigureKind.PLOT, _clearness(0.1 * traits.axes + 0.05 * traits.hues)
    if traits.shading > SHADING_OF_DRAWINGS:
        return FigureKind.OTHER, 0.5
    return FigureKind.DIAGRAM, _clearness(SHADING_OF_DRAWINGS - traits.shading)


def _clearness(margin: float) -> float:
    return 0.5 + min(max(margin, 0.0), 0.25) * 2


def measure(image: ArrayHWC) -> Traits:
    """Return the traits of an RGB image, uint8 of shape (H, W, 3), scaled to a longest side of 256 pixels or less."""
    import cv2

    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    paper = float((grey >= WHITE).mean())
    near, far = np.ones((5, 5), np.uint8), np.ones((9, 9), np.uint8)
    low, high = cv2.erode(grey, near), cv2.dilate(grey, near)
    spread = cv2.subtract(high, low)
    grain = float(((spread > 9) & (spread < 120) & (cv2.dilate(grey, far) < 225) & (low > 3)).mean())
    shading = grain / max(1 - paper, 0.02) * (1 - _few_shades(grey))
    open_question = paper >= PAPER_OF_DRAWINGS or shading < SHADING_OF_CHARTS
    return Traits(paper=paper, shading=shading, hues=_hues(image), axes=_axes(grey) if open_question else 0)


def _few_shades(grey: _Grey) -> float:
    """The share that the six commonest of 64 shades have in what is neither white nor black."""
    counts = np.bincount(grey[(grey < WHITE) & (grey > BLACK)] // 4, minlength=64)
    return float(np.sort(counts)[-6:].sum() / max(counts.sum(), 1))


def _hues(image: ArrayHWC) -> int:
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    strong = (hsv[..., 1] > 90) & (hsv[..., 2] > 80)
    counts = np.bincount(hsv[..., 0][strong] // 15, minlength=12)
    return int((counts > 0.02 * strong.size).sum())


def _axes(grey: _Grey) -> int:
    import cv2

    light = np.median(grey) >= 128
    ink = ((grey < INK) if light else (grey > 60)).astype(np.uint8)
    across = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((1, _AXIS), np.uint8))
    upright = np.asarray(cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((_AXIS, 1), np.uint8)), np.uint8)
    return sum(_is_axis(ink.astype(bool), across.astype(bool), box) for box in _thin(upright))


def _thin(upright: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, int]]:
    """(x, top, bottom) of the upright lines."""
    import cv2

    _, _, boxes, _ = cv2.connectedComponentsWithStats(upright, connectivity=8)
    for left, top, width, height, _area in boxes[1 : _MAX_LINES + 1].tolist():
        if width <= 6:
            yield left, top, top + height


def _is_axis(ink: _Mask, across: _Mask, line: tuple[int, int, int]) -> bool:
    x, top, bottom = line
    foot = across[max(bottom - 5, 0) : bottom + 5, max(x - 3, 0) : x + _AXIS].any(axis=0)
    if foot.sum() < _AXIS // 2:
        return False
    left = np.any(ink[top:bottom, max(x - _LABELS, 0) : max(x - 4, 0)], axis=1)
    end = min(x + (bottom - top), ink.shape[1])
    below = np.any(ink[bottom + 3 : bottom + _LABELS, x:end], axis=0)
    return _runs(left) >= 3 and _runs(below) >= 2


def _runs(mask: npt.ArrayLike) -> int:
    """How many stretches of True a row has."""
    return int(np.count_nonzero(np.diff(np.pad(np.asarray(mask, np.int8), 1)) > 0))
