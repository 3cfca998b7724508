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
    """Return the indices of boxes row by row, from left to right.

    A box belongs to the row of the topmost box left when their heights overlap by half of the smaller; so a tall panel
    beside a column of small ones comes first when it stands at the left, and the small ones follow from top to bottom.

    >>> reading_order([(50, 60, 90, 100), (50, 0, 90, 40), (0, 0, 40, 100)])
    [2, 1, 0]
    """
    left = sorted(range(len(boxes)), key=lambda index: (boxes[index][1], boxes[index][0]))
    order: list[int] = []
    while left:
        first = boxes[left[0]]
        row = [index for index in left if _same_row(first, boxes[index])]
        order += sorted(row, key=lambda index: (boxes[index][0], boxes[index][1]))
        left = [index for index in left if index not in row]
    return order


def _same_row(first: Box, second: Box) -> bool:
    shared = min(first[3], second[3]) - max(first[1], second[1])
    return shared * 2 > min(first[3] - first[1], second[3] - second[1])
