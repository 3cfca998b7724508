"""The rectangle that a panel of a compound figure takes, and what is computed from rectangles alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are the first pixels outside"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel of a figure: `box` in pixels of the whole image, the letter read beside it ("" for none), and a score.

    The score says how certain box and letter are, from 0 to 1.
    """

    box: Box
    letter: str = ""
    score: float = 1.0


def area(box: Box) -> int:
    """Return the number of pixels in a box, 0 for an empty one."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def intersection(first: Box, second: Box) -> int:
    """Return the number of pixels that two boxes share."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    return area((left, top, min(first[2], second[2]), min(first[3], second[3])))


def overlap(first: Box, second: Box) -> float:
    """Return intersection over union, from 0 to 1."""
    shared = intersection(first, second)
    return shared / max(area(first) + area(second) - shared, 1)


def bounds(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around one or more boxes."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def scaled(box: Box, factor: tuple[float, float], size: tuple[int, int]) -> Box:
    """Return a box multiplied by (x, y) factors, rounded, and cut at `size` (width, height)."""
    left, right = (min(max(round(edge * factor[0]), 0), size[0]) for edge in box[::2])
    top, bottom = (min(max(round(edge * factor[1]), 0), size[1]) for edge in box[1::2])
    return left, top, right, bottom


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Return the indices of boxes as a page is read: row by row, and in a row column by column.

    Rows are parted where a horizontal line passes between boxes, else blocks where a vertical one does; columns that
    share their rows are one block. So a tall panel at the left of a grid comes first, and the grid follows row by row.

    >>> reading_order([(50, 60, 90, 100), (50, 0, 90, 40), (0, 0, 40, 100)])
    [2, 1, 0]
    """
    return _ordered(boxes, list(range(len(boxes))))


def _ordered(boxes: Sequence[Box], chosen: list[int]) -> list[int]:
    if len(chosen) < 2:
        return chosen
    groups = _bands(boxes, chosen, 1, 3)
    if len(groups) == 1:
        groups = _blocks(boxes, _bands(boxes, chosen, 0, 2))
    if len(groups) == 1:
        return sorted(chosen, key=lambda index: (boxes[index][1], boxes[index][0]))
    return [index for group in groups for index in _ordered(boxes, group)]


def _blocks(boxes: Sequence[Box], columns: Sequence[list[int]]) -> list[list[int]]:
    """Return neighbouring columns joined where a horizontal line parts all that is in them."""
    blocks = [columns[0]]
    for column in columns[1:]:
        if len(_bands(boxes, [*blocks[-1], *column], 1, 3)) > 1:
            blocks[-1] = [*blocks[-1], *column]
        else:
            blocks.append(column)
    return blocks


def _bands(boxes: Sequence[Box], chosen: Sequence[int], low: int, high: int) -> list[list[int]]:
    """Return boxes grouped where a line parts them along one axis; they may overlap it by a tenth of their length."""
    groups: list[list[int]] = []
    end = 0.0
    for index in sorted(chosen, key=lambda index: (boxes[index][low], boxes[index][high], index)):
        slack = (boxes[index][high] - boxes[index][low]) / 10
        if groups and boxes[index][low] + slack < end:
            groups[-1].append(index)
        else:
            groups.append([index])
        end = max(end, boxes[index][high] - slack)
    return groups
