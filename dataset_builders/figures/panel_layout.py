"""From letters and gutters to panels: cuts between letters, and letters that were not read filled in."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from dataset_builders.figures.gutters import WHITE, Grey, Gutter, find_gutters, is_small, split, trim
from dataset_builders.figures.letters import PanelLetter
from dataset_builders.figures.panel_boxes import Box, Panel, area, bounds, intersection, reading_order

EVEN_RING = 40  # range of grey around a letter that lies on plain ground
NEAR = 0.05  # distance of letter and gutter that halves the trust in a cut, as a share of the longer side
WIDE = 0.03  # gutters of this share of the longer side, or more, are as wide as can be
MAX_SIDES = 12  # how many cuts that part off no letter are tried
AGREEING_COUNTED = 0.5  # the same where there are as many pieces as the caption names panels
AGREEING = 0.7  # share of letters that must stand where their place in the alphabet says
UNREAD = 0.7  # score of panels whose letter follows from its place alone
FORCED_SPREAD = 32.0  # deviation of grey along a line up to which a forced cut may go through it
PLOT_WHITE = 0.5  # share of white from which a panel is a plot
REACH = 0.6  # how far a letter may stand over the gutter before its panel, in heights of the letter


@dataclass(frozen=True, slots=True)
class _Corner:
    """Where in their panels the letters of a figure stand."""

    at_bottom: bool
    at_right: bool


def erase(grey: Grey, letters: Sequence[PanelLetter]) -> Grey:
    """Return a copy without the letters, with the brackets and dots around those that lie on plain ground."""
    clean = grey.copy()
    for letter in letters:
        left, top, right, bottom = letter.box
        height = bottom - top
        wide = left - height, top - height // 3 - 1, right + height, bottom + height // 3 + 1
        ring = _ring(grey, wide)
        if int(ring.max()) - int(ring.min()) > EVEN_RING:
            wide = left - 2, top - 2, right + 2, bottom + 2
            ring = _ring(grey, wide)
        clean[max(wide[1], 0) : wide[3], max(wide[0], 0) : wide[2]] = int(np.median(ring))
    return clean


def _ring(grey: Grey, box: Box) -> Grey:
    """Return the pixels along the sides of a box that lie in the image; white where none do."""
    left, top, right, bottom = box
    columns, rows = slice(max(left, 0), right), slice(max(top, 0), bottom)
    sides = [grey[row, columns] for row in (top, bottom - 1) if 0 <= row < grey.shape[0]]
    sides += [grey[rows, column] for column in (left, right - 1) if 0 <= column < grey.shape[1]]
    return np.concatenate(sides) if sides else np.full(1, 255, np.uint8)


def divide(grey: Grey, letters: Sequence[PanelLetter], *, forced: bool) -> list[Panel]:
    """Return a panel for each letter of a figure whose letters are erased; fewer where the letters cannot be cut apart.

    `forced`: cut through the line with the least on it where there is no gutter between two letters.
    """
    height, width = grey.shape
    whole = trim(grey, (0, 0, width, height))
    boxes = [letter.box for letter in letters]
    left, top, right, bottom = bounds(boxes)
    ends = bounds([whole, *boxes])
    corner = _Corner(at_bottom=ends[3] - bottom < top - ends[1], at_right=ends[2] - right < left - ends[0])
    return _Divider(grey, corner, forced).panels(whole, letters)


class _Divider:
    def __init__(self, grey: Grey, corner: _Corner, forced: bool) -> None:
        self._grey = grey
        self._corner = corner
        self._forced = forced
        self._side = int(max(grey.shape))

    def panels(self, region: Box, letters: Sequence[PanelLetter]) -> list[Panel]:
        """Return the panels of a region that holds these letters."""
        if len(letters) == 1:
            box = trim(self._grey, region)
            return (
                [] if is_small(box, self._side) else [Panel(box=box, letter=letters[0].letter, score=letters[0].score)]
            )
        gutters = [*find_gutters(self._grey, region, 0), *find_gutters(self._grey, region, 1)]
        cut = self._best(gutters, letters) or self._after_trimming(gutters, region, letters)
        if cut is None:
            return []
        if isinstance(cut, tuple):
            return self.panels(cut, letters)
        before, after = split(region, cut)
        later = [letter for letter in letters if self._is_after(letter, cut)]
        earlier = [letter for letter in letters if not self._is_after(letter, cut)]
        return [*self.panels(before, earlier), *self.panels(after, later)]

    def _is_after(self, letter: PanelLetter, gutter: Gutter) -> bool:
        start, stop = _extent(letter.box, gutter.axis)
        return (start + stop) / 2 >= gutter.start - REACH * (letter.box[3] - letter.box[1])

    def _best(self, gutters: Sequence[Gutter], letters: Sequence[PanelLetter]) -> Gutter | None:
        """Return the gutter that tells letters apart best."""
        trust = {gutter: self._trust(gutter, letters) for gutter in gutters}
        return (
            max(trust, key=lambda gutter: (trust[gutter], gutter.width), default=None)
            if any(value > 0 for value in trust.values())
            else None
        )

    def _trust(self, gutter: Gutter, letters: Sequence[PanelLetter]) -> float:
        """Return how well a gutter lies between letters; 0 when all are at one side of it."""
        after = [letter for letter in letters if self._is_after(letter, gutter)]
        before = [letter for letter in letters if not self._is_after(letter, gutter)]
        if not after or not before:
            return 0.0
        if self._corner.at_bottom if gutter.axis == 0 else self._corner.at_right:
            distance = min(gutter.start - _extent(letter.box, gutter.axis)[1] for letter in before)
        else:
            distance = min(_extent(letter.box, gutter.axis)[0] - gutter.stop for letter in after)
        near = math.exp2(-max(distance, 0) / (NEAR * self._side))
        wide = min(gutter.width / (WIDE * self._side), 1.0)
        return near + 0.6 * wide + (0.4 if gutter.is_hard else 0.0)

    def _after_trimming(
        self, gutters: Sequence[Gutter], region: Box, letters: Sequence[PanelLetter]
    ) -> Box | Gutter | None:
        """Return the region less a side without letters, when that opens a gutter; else a forced cut, if allowed."""
        sides = []
        for gutter in gutters:
            before, after = split(region, gutter)
            sides.append(before if not self._is_after(letters[0], gutter) else after)
        for side in sorted(sides, key=area, reverse=True)[:MAX_SIDES]:
            inner = [*find_gutters(self._grey, side, 0), *find_gutters(self._grey, side, 1)]
            if self._best(inner, letters):
                return side
        return self._emptiest(region, letters) if self._forced else None

    def _emptiest(self, region: Box, letters: Sequence[PanelLetter]) -> Gutter | None:
        """Return the line between two neighbouring letters with the least on it, as if it were a gutter."""
        found = []
        left, top, right, bottom = region
        part = self._grey[top:bottom, left:right]
        for axis, offset in ((0, top), (1, left)):
            spread = part.std(axis=1 - axis, dtype=np.float32)
            extents = sorted(_extent(letter.box, axis) for letter in letters)
            for (_, stop), (start, _) in pairwise(extents):
                lines = spread[stop - offset : start - offset]
                if start - stop > 0.05 * self._side and len(lines):
                    line = stop + int(np.flatnonzero(lines <= lines.min() + 1)[-1])
                    found.append((float(lines.min()), Gutter(0 if axis == 0 else 1, line, line + 1, 255.0, 0.0, 0.0)))
        spread, cut = min(found, key=lambda pair: pair[0], default=(math.inf, None))
        return cut if spread <= FORCED_SPREAD else None


def _extent(box: Box, axis: int) -> tuple[int, int]:
    return (box[1], box[3]) if axis == 0 else (box[0], box[2])


def label_pieces(pieces: Sequence[Box], letters: Sequence[PanelLetter], expected: Sequence[str]) -> list[Panel]:
    """Return the pieces of a figure with letters by their place, when the letters that were read agree with it.

    In a figure whose pieces are its panels, the n-th letter stands at the n-th piece, row by row or column by column.
    Some letters may disagree: they were misread, and unread ones follow from their place. None where too many do, or
    where the caption names another number of panels.
    """
    if len(pieces) < 2 or (len(pieces) != len(expected) if expected else len(letters) < 2):
        return []
    alphabet = _alphabet(letters[0].letter if letters else expected[0], expected)
    if len(pieces) > len(alphabet):
        return []
    at = [_piece_of(letter, pieces) for letter in letters]
    orders = reading_order(pieces), _column_order(pieces)
    agreeing = [
        sum(alphabet[order.index(one)] == two.letter for one, two in zip(at, letters, strict=True)) for order in orders
    ]
    order = orders[int(agreeing[1] > agreeing[0])]
    needed = AGREEING_COUNTED * len(letters) if expected else max(AGREEING * len(letters), 2)
    if max(agreeing) < needed:
        return []
    score = {letter.letter: letter.score for letter in letters}
    return [
        Panel(box=pieces[index], letter=letter, score=score.get(letter, UNREAD))
        for index, letter in zip(order, alphabet, strict=False)
    ]


def letter_pieces(pieces: Sequence[Box], letters: Sequence[PanelLetter]) -> list[Panel]:
    """Return the pieces of a figure, each with the surest letter that stands at it, or with none."""
    best: dict[int, PanelLetter] = {}
    for letter in letters:
        index = _piece_of(letter, pieces)
        best[index] = max(best.get(index, letter), letter, key=lambda one: one.score)
    return [
        Panel(box=box, letter=best[index].letter if index in best else "", score=UNREAD)
        for index, box in enumerate(pieces)
    ]


def with_surroundings(grey: Grey, panels: Sequence[Panel], divided: Sequence[Panel]) -> list[Panel]:
    """Return panels that are plots, white for the most part, in their wider boxes: with ticks, titles and legends."""
    wide = {panel.letter: panel.box for panel in divided}
    found = []
    for panel in panels:
        left, top, right, bottom = panel.box
        plot = float((grey[top:bottom, left:right] >= WHITE).mean()) > PLOT_WHITE
        holds = intersection(wide.get(panel.letter, (0, 0, 0, 0)), panel.box) == area(panel.box)
        found.append(replace(panel, box=wide[panel.letter]) if plot and holds else panel)
    return found


def is_complete(letters: Sequence[PanelLetter], expected: Sequence[str]) -> bool:
    """Whether no letter is missing: of those that the caption names, or between the first and the last read."""
    if not letters:
        return False
    return [letter.letter for letter in letters] == _alphabet(letters[0].letter, expected)[
        : len(expected) or len(letters)
    ]


def _alphabet(example: str, expected: Sequence[str]) -> list[str]:
    """Return the letters that panels can have, in order and in the case of an example."""
    return [name.upper() if example.isupper() else name.lower() for name in expected or string.ascii_uppercase]


def _column_order(pieces: Sequence[Box]) -> list[int]:
    return reading_order([(top, left, bottom, right) for left, top, right, bottom in pieces])


def _piece_of(letter: PanelLetter, pieces: Sequence[Box]) -> int:
    """Return the index of the piece that a letter lies in, or whose upper left corner is the nearest."""
    left, top, right, bottom = letter.box
    middle = (left + right) / 2, (top + bottom) / 2
    for index, box in enumerate(pieces):
        if box[0] <= middle[0] < box[2] and box[1] <= middle[1] < box[3]:
            return index
    return min(range(len(pieces)), key=lambda index: math.dist(middle, pieces[index][:2]))


def fill_letters(panels: Sequence[Panel], pieces: Sequence[Box], expected: Sequence[str]) -> list[Panel]:
    """Split panels that hold several pieces of the figure where unread letters of the alphabet account for them.

    `pieces` are the pictures that gutters show. A panel with k pieces is split when the letters around its own that
    nobody else has are enough, and either the caption's letters are used up by it or all other panels are one piece.
    """
    if not panels:
        return []
    alphabet = _alphabet(panels[0].letter, expected)
    inside = [_within(panel.box, pieces) for panel in panels]
    taken = {panel.letter for panel in panels}
    found: list[Panel] = []
    for number, panel in enumerate(panels):
        own = inside[number]
        others_single = all(len(boxes) <= 1 for index, boxes in enumerate(inside) if index != number)
        letters = _letters_for(panel, own, alphabet, taken) if len(own) > 1 and others_single else []
        if letters:
            found += [
                Panel(box=box, letter=letter, score=panel.score * (1.0 if letter == panel.letter else 0.8))
                for box, letter in zip(own, letters, strict=True)
            ]
        else:
            found.append(panel)
    return found


def _within(box: Box, pieces: Sequence[Box]) -> list[Box]:
    inside = [piece for piece in pieces if intersection(piece, box) > 0.5 * area(piece)]
    largest = max(map(area, inside), default=0)
    inside = [piece for piece in inside if area(piece) > 0.3 * largest]
    return [inside[index] for index in reading_order(inside)]


def _letters_for(panel: Panel, own: Sequence[Box], alphabet: Sequence[str], taken: set[str]) -> list[str]:
    """Return letters for the pieces of a panel: its own for the first, those that follow for the rest."""
    if panel.letter not in alphabet:
        return []
    start = alphabet.index(panel.letter)
    letters = list(alphabet[start : start + len(own)])
    if len(letters) < len(own) or any(letter in taken for letter in letters[1:]):
        return []
    return letters
