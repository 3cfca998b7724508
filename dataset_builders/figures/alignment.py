"""Panels and the parts of their caption, matched by letter, with how certain the match is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dataset_builders.figures.panels import Panel
from dataset_builders.figures.subcaptions import Subcaption


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedPanel:
    """A panel with its part of the caption; empty text and confidence 0 where no part belongs to it.

    `confidence`, from 0 to 1, is the product of how surely the letter was read, how whole the caption's run of letters
    is, and which share of its letters was found in the image.
    """

    panel: Panel
    letters: tuple[str, ...]
    text: str
    confidence: float


def align(panels: Sequence[Panel], parts: Sequence[Subcaption], size: tuple[int, int]) -> list[AlignedPanel]:
    """Match panels with parts.

    Args:
        panels: of one figure, in reading order.
        parts: of its caption.
        size: width and height of the figure, in pixels.
    """
    by_letter = {letter: part for part in parts for letter in part.letters}
    read = Counter(panel.letter.upper() for panel in panels if panel.letter)
    share = sum(1 for letter in by_letter if read[letter]) / max(len(by_letter), 1)
    aligned = []
    for panel in panels:
        letter = panel.letter.upper()
        part = by_letter.get(letter)
        if part is None or read[letter] > 1:
            aligned.append(AlignedPanel(panel=panel, letters=(letter,) if letter else (), text="", confidence=0.0))
            continue
        certain = panel.score * part.confidence * share
        aligned.append(AlignedPanel(panel=panel, letters=(letter,), text=part.text, confidence=certain))
    return aligned
