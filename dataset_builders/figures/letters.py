"""Finds and reads the letters of panels: A, b, (c), D) in corners of pictures or beside them, dark or bright.

No character recognition of running text: a panel's letter stands alone, so single glyphs of one height that form an
alphabetical row are looked for among connected components. Glyphs are compared with letters drawn from the fonts that
Pillow and OpenCV carry; what single readings leave open, the sequence decides (Viterbi, 1967).
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dataset_builders.figures.gutters import Grey
from dataset_builders.figures.panel_boxes import Box

Floats = npt.NDArray[np.float32]

GLYPH_SIDE = 16  # glyphs are compared as pictures of this many pixels
DARK, BRIGHT = 110, 175  # grey below and above which pixels may be ink
MIN_HEIGHT, MAX_HEIGHT = 0.009, 0.07  # of a letter, as a share of the figure's longer side
MAX_GLYPHS = 160
MAX_READINGS = 8  # glyphs that are tried for one letter
MAX_GAP = 4  # steps in the alphabet from one letter read to the next
GOOD = 0.66  # similarity to a drawn letter, from 0 to 1, from which a reading speaks for the letter
BAR = 0.1  # what glyphs that are hardly more than a stroke lose: I, l, 1, a tick, a bracket
MISSING = -0.5  # what a gap in the sequence costs
ALIGNED = 0.35  # what standing in line with the letter before gives
DISORDER = -1.2  # what standing above and left of the letter before costs
MIN_TOTAL = 1.4  # what a sequence must reach to be believed
MIN_TOTAL_COMPOUND = 1.1  # the same where gutters show several panels
MIN_TOTAL_EXPECTED = 0.7  # the same where the caption names the letters


@dataclass(frozen=True, slots=True)
class PanelLetter:
    """A letter read in a figure: its glyph's box in pixels, and a score from 0 to 1."""

    letter: str
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a glyph; `cap_height` is how high a capital of the same font would be, in pixels."""

    letter: str
    box: Box
    score: float
    cap_height: float


@dataclass(frozen=True, slots=True)
class _Font:
    """Drawn letters, pen by pen: pictures (P * L, GLYPH_SIDE²) with mean 0 and norm 1, and their shapes (P * L,)."""

    pictures: Floats
    letters: str
    """the L letters that every pen draws"""
    aspects: Floats
    """logarithm of width / height"""
    heights: Floats
    """height over that of a capital A in the same font"""


@dataclass(frozen=True, slots=True)
class _Pen:
    """How letters 64 pixels high are drawn: added weight, slant, and length of serifs, in pixels."""

    stroke: int
    slant: float
    serif: int


PENS = (
    *(_Pen(0, 0.0, 0), _Pen(2, 0.0, 0), _Pen(4, 0.0, 0), _Pen(2, 0.2, 0)),
    *(_Pen(0, 0.0, 6), _Pen(2, 0.0, 7), _Pen(4, 0.0, 6)),
)
STEM = 18  # ends of strokes wider than this, in pixels of a letter 64 high, get no serifs


def distinct_letters(names: Sequence[str]) -> tuple[str, ...]:
    """Return the panels that a caption names, each once, in alphabetical order.

    >>> distinct_letters(["B", "A", "B"])
    ('A', 'B')
    """
    return tuple(sorted(set(filter(None, names)), key=lambda name: (len(name), name.lower(), name)))


def find_letters(grey: Grey, expected: Sequence[str] = (), *, compound: bool = False) -> list[PanelLetter]:
    """Return the panel letters of a figure, shape (H, W), in alphabetical order; none where no sequence convinces.

    `expected` are the letters that the caption names; `compound` says that gutters show several panels.
    Work at about 1,000 pixels: letters below 8 pixels are not read.
    """
    glyphs = _glyphs(grey)
    if not glyphs:
        return []
    readings = _read(grey, glyphs)
    alphabets = [string.ascii_uppercase, string.ascii_lowercase]
    if expected:
        alphabets = [
            "".join(dict.fromkeys(fold(name) for name in expected if len(name) == 1)) for fold in (str.upper, str.lower)
        ]
    best: tuple[float, list[_Reading]] = (0.0, [])
    for alphabet in alphabets:
        best = max(best, _best_sequence(readings, alphabet), key=lambda found: found[0])
    total, chosen = best
    needed = MIN_TOTAL_EXPECTED if expected else MIN_TOTAL_COMPOUND if compound else MIN_TOTAL
    if len(chosen) < 2 or total < needed:
        return []
    return [PanelLetter(one.letter, one.box, min(max(one.score, 0.0), 1.0)) for one in chosen]


def _glyphs(grey: Grey) -> list[tuple[Box, bool]]:
    """Return the boxes of components that could be letters standing alone, and whether they are dark."""
    import cv2

    side = max(grey.shape)
    low, high = max(MIN_HEIGHT * side, 7), max(MAX_HEIGHT * side, 14)
    found: list[tuple[Box, bool]] = []
    for dark in (True, False):
        mask = cv2.threshold(grey, DARK if dark else BRIGHT, 1, cv2.THRESH_BINARY_INV if dark else cv2.THRESH_BINARY)[1]
        stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]
        width, height, ink = stats.T[2:]
        plausible = (height <= 1.3 * high) & (height >= 0.6 * low) & (width <= 2 * high) & (ink >= 8)
        stats = stats[plausible]
        keep = _alone(stats) & (stats[:, 3] >= low) & (stats[:, 3] <= high)
        keep &= (stats[:, 2] >= 0.1 * stats[:, 3]) & (stats[:, 2] <= 1.5 * stats[:, 3])
        found += [((x, y, x + w, y + h), dark) for x, y, w, h, _ in stats[keep].tolist()]
    found.sort(key=lambda glyph: (glyph[0][1] - glyph[0][3], glyph[0]))
    return found[:MAX_GLYPHS]


def _alone(stats: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return which components (left, top, width, height, area) have no neighbour of their size, brackets apart."""
    left, top, width, height = stats[:, :4].T.astype(np.float32)
    alone = np.ones(len(stats), np.bool_)
    for start in range(0, len(stats), 256):  # blocks, so that memory stays small in crowded figures
        part = slice(start, start + 256)
        reach = height[part, None]
        beside = np.maximum(left[None] - (left + width)[part, None], left[part, None] - (left + width)[None])
        above = np.maximum(top[None] - (top + height)[part, None], top[part, None] - (top + height)[None])
        alike = (height[None] > 0.55 * reach) & (height[None] < 1.8 * reach)
        bracket = (width[None] < 0.45 * height[None]) & (height[None] >= 1.05 * reach)
        near = alike & ~bracket & (beside < 0.45 * reach) & (above < -0.3 * reach)
        near |= alike & (above < 0.3 * reach) & (beside < -0.3 * reach) & (width[None] > 0.4 * width[part, None])
        near[np.arange(near.shape[0]), np.arange(start, start + near.shape[0])] = False
        alone[part] = ~near.any(axis=1)
    return alone


def _read(grey: Grey, glyphs: Sequence[tuple[Box, bool]]) -> list[_Reading]:
    """Return every reading of every glyph that is not plainly wrong."""
    font = _font()
    pictures = np.stack([_picture(_ink(grey, box, dark)) for box, dark in glyphs])
    aspects = np.array([math.log((box[2] - box[0]) / (box[3] - box[1])) for box, _ in glyphs], np.float32)
    scores = pictures @ font.pictures.T - 0.35 * np.abs(aspects[:, None] - font.aspects[None])
    by_pen = scores.reshape(len(glyphs), len(PENS), -1)
    pens, best = by_pen.argmax(axis=1), by_pen.max(axis=1)
    best -= 0.5 * (best.max(axis=1, keepdims=True) - best)
    readings = []
    for glyph, letter in np.argwhere(best > GOOD - 0.15).tolist():
        if font.letters[letter].isalpha():
            left, top, right, bottom = box = glyphs[glyph][0]
            score = float(best[glyph, letter]) - (BAR if right - left < 0.35 * (bottom - top) else 0.0)
            height = float(font.heights[pens[glyph, letter] * len(font.letters) + letter])
            readings.append(_Reading(font.letters[letter], box, score, (bottom - top) / height))
    return readings


def _ink(grey: Grey, box: Box, dark: bool) -> Floats:
    """Return a glyph's ink, from 0 to 1."""
    crop = grey[box[1] : box[3], box[0] : box[2]].astype(np.float32)
    low, high = float(crop.min()), float(crop.max())
    return (high - crop if dark else crop - low) / max(high - low, 1.0)


def _picture(ink: Floats) -> Floats:
    """Return a glyph stretched to GLYPH_SIDE squared, flat, with mean 0 and norm 1."""
    import cv2

    small = cv2.resize(ink, (GLYPH_SIDE, GLYPH_SIDE), interpolation=cv2.INTER_AREA)
    flat = cv2.GaussianBlur(small, (3, 3), 0.8).ravel()
    flat = flat - flat.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6), dtype=np.float32)


@lru_cache(maxsize=1)
def _font() -> _Font:
    """Draw letters, and figures and signs as what else may stand alone, in sans and serif faces of several weights."""
    letters = string.ascii_letters + string.digits + "+*#%?&"
    drawn = []
    for pen in PENS:
        capital = _tight(_drawn("A", pen)).shape[0]
        for letter in letters:
            glyph = _tight(_drawn(letter, pen))
            drawn.append((_picture(glyph), math.log(glyph.shape[1] / glyph.shape[0]), glyph.shape[0] / capital))
    pictures, aspects, heights = zip(*drawn, strict=True)
    return _Font(np.stack(pictures), letters, np.array(aspects, np.float32), np.array(heights, np.float32))


def _drawn(letter: str, pen: _Pen) -> Grey:
    """Draw a letter with the face that Pillow carries."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (160, 128))
    face = ImageFont.load_default(64)
    ImageDraw.Draw(page).text((48, 24), letter, fill=255, font=face, stroke_width=pen.stroke)
    page = page.transform(page.size, Image.Transform.AFFINE, (1, pen.slant, -pen.slant * 64, 0, 1, 0))
    pixels = np.array(page)
    if pen.serif:
        _add_serifs(pixels, pen.serif)
    return pixels


def _add_serifs(pixels: Grey, length: int) -> None:
    """Draw feet, in place, at the ends of all stems: narrow runs of ink in a letter's first and last rows."""
    rows = np.flatnonzero((pixels > 127).any(axis=1))
    for row, step in ((int(rows[0]) + 1, 1), (int(rows[-1]) - 1, -1)):
        ink = np.concatenate(([False], pixels[row] > 127, [False]))
        starts, stops = np.flatnonzero(ink[1:] & ~ink[:-1]), np.flatnonzero(ink[:-1] & ~ink[1:])
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if stop - start < STEM:
                band = slice(row, row + 4) if step == 1 else slice(row - 3, row + 1)
                pixels[band, max(start - length, 0) : stop + length] = 255


def _tight(page: Grey) -> Floats:
    """Return the largest part of a drawn letter, so that i and j lose their dots as components do."""
    import cv2

    stats = cv2.connectedComponentsWithStats((page > 127).astype(np.uint8), connectivity=8)[2][1:]
    left, top, width, height, _ = stats[int(np.argmax(stats[:, 4]))].tolist()
    return np.asarray(page[top : top + height, left : left + width] / 255, dtype=np.float32)


def _best_sequence(readings: Sequence[_Reading], alphabet: str) -> tuple[float, list[_Reading]]:
    """Return the most convincing run of letters of one height, with its total."""
    best: tuple[float, list[_Reading]] = (0.0, [])
    readings = sorted(readings, key=lambda reading: (-reading.score, reading.box))
    firsts = [one for one in readings if one.letter in alphabet[:2] and one.score > GOOD - 0.05]
    for size in _sizes(firsts):
        fitting = [one for one in readings if abs(math.log(one.cap_height / size)) < 0.17]
        columns = [[one for one in fitting if one.letter == letter][:MAX_READINGS] for letter in alphabet]
        best = max(best, _viterbi(columns), key=lambda found: found[0])
    return best


def _sizes(firsts: Sequence[_Reading]) -> list[float]:
    """Return the different heights of the best readings, at most eight."""
    sizes: list[float] = []
    for one in firsts:
        if all(abs(math.log(one.cap_height / size)) > 0.05 for size in sizes):
            sizes.append(one.cap_height)
    return sizes[:8]


def _viterbi(columns: Sequence[Sequence[_Reading]]) -> tuple[float, list[_Reading]]:
    """Return the best path through the letters' readings: each adds its score, gaps and disorder cost."""
    paths: list[tuple[float, int, tuple[_Reading, ...]]] = []
    for number, column in enumerate(columns):
        new = []
        for one in column:
            gain = (one.score - GOOD) / (1 - GOOD)
            start = (gain + MISSING * number, number, (one,))
            longer = (
                (total + gain + MISSING * (number - last - 1) + _relation(path[-1], one), number, (*path, one))
                for total, last, path in paths
                if number - last <= MAX_GAP and all(used.box != one.box for used in path)
            )
            new.append(max((start, *longer), key=lambda path: path[0]))
        paths += new
    if not paths:
        return 0.0, []
    total, _, path = max(paths, key=lambda path: path[0])
    return total, list(path)


def _relation(before: _Reading, after: _Reading) -> float:
    """Return what two letters that follow each other gain by standing in line, or lose by standing in disorder."""
    height = max(before.cap_height, 1.0)
    right, down = after.box[0] - before.box[0], after.box[3] - before.box[3]
    if right < -height / 2 and down < -height / 2:
        return DISORDER
    aligned = min(abs(right), abs(down)) < 0.4 * height
    return ALIGNED if aligned else 0.0
