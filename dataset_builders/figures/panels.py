"""The panels of compound figures behind one interface: by gutters and letters, or by a learned detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from clipmed.images import ArrayHWC
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.gutters import WHITE, Grey, cut_grid, cut_pieces, working_copy
from dataset_builders.figures.letters import PanelLetter, distinct_letters, find_letters
from dataset_builders.figures.panel_boxes import Box, Panel, reading_order, scaled
from dataset_builders.figures.panel_layout import (
    divide,
    erase,
    fill_letters,
    is_complete,
    label_pieces,
    letter_pieces,
    with_surroundings,
)

__all__ = ["GutterDetector", "Panel", "PanelDetector", "open_detector"]

MIN_WHITE = 0.05  # share of white from which letters are looked for in figures that gutters alone do not cut


class PanelDetector(Protocol):
    """Finds the panels of figures; safe to call from several threads."""

    name: str

    def detect(self, image: ArrayHWC, expected: Sequence[str] = ()) -> list[Panel]:
        """Return the panels of a figure in reading order; one panel, the whole image, where the figure is not compound.

        `image` is (H, W, 3), RGB. `expected` are the letters that the caption names, as a hint.
        """
        ...


class GutterDetector:
    """Panels by the empty space between them and by their letters."""

    name = "gutters"

    def detect(self, image: ArrayHWC, expected: Sequence[str] = ()) -> list[Panel]:
        """Return the panels of a figure in reading order, boxes in pixels of `image`, shape (H, W, 3), RGB."""
        height, width = image.shape[:2]
        grey = working_copy(image)
        factors = (width / grey.shape[1], height / grey.shape[0])
        found = _find(grey, distinct_letters(expected))
        if len(found) < 2:
            return [Panel(box=(0, 0, width, height))]
        order = reading_order([panel.box for panel in found])
        return [replace(found[index], box=scaled(found[index].box, factors, (width, height))) for index in order]


def _find(grey: Grey, expected: Sequence[str]) -> list[Panel]:
    """Return the panels of a working copy, boxes in its pixels, in no order."""
    pieces = cut_pieces(grey)
    if len(pieces) == 1 and not expected and float((grey >= WHITE).mean()) < MIN_WHITE:
        return []
    letters = find_letters(grey, expected, compound=len(pieces) > 1)
    clean = erase(grey, letters)
    pieces = cut_pieces(clean) if letters else pieces
    labelled = label_pieces(pieces, letters, expected)
    if len(letters) < 2:
        return labelled or letter_pieces(pieces, letters)
    divided = fill_letters(divide(clean, letters, forced=len(expected) > 1), pieces, expected)
    if labelled:
        return with_surroundings(grey, labelled, divided) if is_complete(letters, expected) else labelled
    return _surest(clean, pieces, letters, divided, expected)


def _surest(
    clean: Grey, pieces: list[Box], letters: list[PanelLetter], divided: list[Panel], expected: Sequence[str]
) -> list[Panel]:
    """Return panels where the pieces of a figure are not its panels, or where not all of its letters were read."""
    lettered = letter_pieces(pieces, letters)
    if len(divided) > 1 and is_complete(letters, expected):
        return divided
    grid = label_pieces(cut_grid(clean, len(expected)), letters, expected) if expected else []
    if grid:
        return grid
    if len(divided) < 2:
        return lettered
    if len(pieces) <= len(letters):
        return divided
    closer = abs(len(divided) - len(expected)) < abs(len(lettered) - len(expected))
    return divided if expected and closer else lettered


def open_detector(config: PanelConfig) -> PanelDetector | None:
    """Return the detector that a config names; None where figures stay whole."""
    if config.detector == "none":
        return None
    if config.model is not None:
        from dataset_builders.figures.detector import ModelDetector

        return ModelDetector(config.model)
    return GutterDetector()
