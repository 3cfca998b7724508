"""Kinds of figures: medical images, plots, diagrams."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from clipmed.images import ArrayHWC
from dataset_builders.figures.config import KindConfig


class FigureKind(StrEnum):
    """What a figure shows."""

    MEDICAL = "medical"
    """radiographs, CT, MRI, ultrasound, microscopy, histology, dermoscopy, fundus, endoscopy, clinical photographs"""
    PLOT = "plot"
    """charts, curves, bars, heat maps"""
    DIAGRAM = "diagram"
    """drawings, flow charts, tables and text, structures"""
    OTHER = "other"
    """blots, maps, and what is none of these or cannot be told"""


class KindClassifier(Protocol):
    """Tells a figure's kind; the same for the same pixels, wherever it runs."""

    name: str
    """what told the kind, as provenance records it"""

    def kind_of(self, image: ArrayHWC) -> tuple[FigureKind, float]:
        """Return the kind of an RGB image of any size, uint8 of shape (H, W, 3), and how sure it is, from 0 to 1."""
        ...


def open_classifier(config: KindConfig) -> KindClassifier | None:
    """Return the classifier that a config names; None for method "none".

    Raises:
        DataError: the classifier's folder is not one that training wrote.
    """
    if config.method == "classifier":
        from dataset_builders.figures.kind_classifier import Classifier

        assert config.classifier is not None
        return Classifier(config.classifier)
    if config.method == "rules":
        from dataset_builders.figures.kind_rules import Rules

        return Rules()
    return None
