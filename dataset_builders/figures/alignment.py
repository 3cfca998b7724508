"""Panels and the parts of their caption, matched by letter, by order or by place, with how certain the match is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_builders.figures.panel_boxes import Panel, reading_order
from dataset_builders.figures.panel_layout import UNREAD
from dataset_builders.figures.subcaptions import Subcaption

COMPLETE = 0.95  # every letter of the caption read once, in the order of reading
ORDERED = 0.85  # as many panels as letters, and letters that were read agree with the order
IN_LINE = 0.8  # as many panels as letters, none read, in one row or one column
IN_GRID = 0.6  # the same in a grid: row by row is likelier than column by column
BY_PLACE = 0.95  # as many panels as places, and they stand so
INCOMPLETE = 1.25  # how much surer a letter is, where others are missing, than its score times the share of those read


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedPanel:
    """A panel with its part of the caption; empty text and confidence 0 where no part belongs to it.

    `letters` are the panel's in the caption; where the caption has "A1" and "A2" and the figure one panel A, it gets
    the texts of both. `confidence`, from 0 to 1, is how certain the caption's part is times how certain the match is.
    """

    panel: Panel
    letters: tuple[str, ...]
    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class _Match:
    """Which of the caption's panels one of the figure's is ("" for none), and how certain that is, from 0 to 1."""

    name: str = ""
    certainty: float = 0.0


def align(panels: Sequence[Panel], parts: Sequence[Subcaption], size: tuple[int, int]) -> list[AlignedPanel]:
    """Match panels with parts: by the letters read; where some are missing, by the order of reading if counts agree.

    A letter that was read at two panels matches neither. Captions that name places instead of letters ("left", "right")
    are matched by where the panels stand.

    Args:
        panels: of one figure.
        parts: of its caption.
        size: width and height of the figure, in pixels.
    """
    if any(part.place for part in parts):
        matches = _by_place(panels, [part.place for part in parts], size)
        by_name = {part.place: [part] for part in parts}
    else:
        by_name = _by_name(parts, panels)
        matches = _by_letter(panels, list(by_name))
    return [_aligned(panel, match, by_name) for panel, match in zip(panels, matches, strict=True)]


def _aligned(panel: Panel, match: _Match, by_name: dict[str, list[Subcaption]]) -> AlignedPanel:
    parts = by_name.get(match.name, [])
    letters = tuple(name for part in parts for name in part.letters if name[:1] == match.name[:1])
    if not parts or match.certainty <= 0:
        return AlignedPanel(
            panel=panel, letters=(panel.letter.upper(),) if panel.letter else (), text="", confidence=0.0
        )
    return AlignedPanel(
        panel=panel,
        letters=(match.name,) if match.name in letters else letters,
        text=" ".join(dict.fromkeys(part.text for part in parts)),
        confidence=match.certainty * min(part.confidence for part in parts),
    )


def _by_name(parts: Sequence[Subcaption], panels: Sequence[Panel]) -> dict[str, list[Subcaption]]:
    """Return the parts of each panel that the caption names; "A1" and "A2" count as A unless the figure has those."""
    read = {panel.letter.upper() for panel in panels}
    names = {name for part in parts for name in part.letters}
    whole = {name[0] for name in names if len(name) > 1} if not any(len(name) > 1 for name in read) else set()
    found: dict[str, list[Subcaption]] = {}
    for part in parts:
        for name in part.letters:
            listed = found.setdefault(name[0] if name[0] in whole else name, [])
            if part not in listed:
                listed.append(part)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], len(item[0]), item[0])))


def _by_letter(panels: Sequence[Panel], names: Sequence[str]) -> list[_Match]:
    read = [panel.letter.upper() for panel in panels]
    counts = Counter(read)
    orders = [reading_order([panel.box for panel in panels]), _column_order(panels)]
    if sorted(read) == sorted(names) and all(panel.score <= UNREAD for panel in panels):
        read = [""] * len(panels)  # letters that a detector gave by order alone
    by_order = _by_order(names, read, orders) if len(panels) == len(names) and set(names) - set(read) else []
    if by_order:
        return by_order
    share = sum(counts[name] == 1 for name in names) / max(len(names), 1)
    known = {name: place for place, name in enumerate(names)}
    ordered = any(_rises([known[read[index]] for index in order if read[index] in known]) for order in orders)
    matches = []
    for panel, letter in zip(panels, read, strict=True):
        certainty = COMPLETE if share == 1 and ordered else min(INCOMPLETE * panel.score * share, COMPLETE)
        matches.append(_Match(letter, certainty) if letter in known and counts[letter] == 1 else _Match())
    return matches


def _by_order(names: Sequence[str], read: Sequence[str], orders: Sequence[list[int]]) -> list[_Match]:
    """Give the n-th panel the n-th name, row by row or column by column; none where letters that were read disagree."""
    known = [index for index, letter in enumerate(read) if letter]
    agreeing = [order for order in orders if all(names[order.index(index)] == read[index] for index in known)]
    if not agreeing:
        return []
    one_way = orders[0] == orders[1] or len(agreeing) == 1
    certainty = (ORDERED if known else IN_LINE) if one_way else IN_GRID
    return [_Match(names[agreeing[0].index(index)], certainty) for index in range(len(read))]


def _by_place(panels: Sequence[Panel], places: Sequence[str], size: tuple[int, int]) -> list[_Match]:
    """Match panels side by side with left and right, panels above each other with top and bottom."""
    axis = 0 if {"left", "right"} & set(places) else 1
    if len(panels) != len(places):
        return [_Match()] * len(panels)
    ranks = {"left": 0, "top": 0, "middle": 1, "right": 2, "bottom": 2}
    wanted = sorted(places, key=ranks.__getitem__)
    order = sorted(range(len(panels)), key=lambda index: panels[index].box[axis])
    ends = [panels[index].box[axis + 2] for index in order]
    starts = [panels[index].box[axis] for index in order]
    slack = 0.02 * size[axis]
    if any(end > start + slack for end, start in zip(ends, starts[1:], strict=False)):
        return [_Match()] * len(panels)  # they do not stand so
    named = dict(zip(order, wanted, strict=True))
    return [_Match(named[index], BY_PLACE) for index in range(len(panels))]


def _rises(numbers: Sequence[int]) -> bool:
    return list(numbers) == sorted(numbers)


def _column_order(panels: Sequence[Panel]) -> list[int]:
    """Return the order of reading column by column."""
    return reading_order([(top, left, bottom, right) for left, top, right, bottom in (panel.box for panel in panels)])
