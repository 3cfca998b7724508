"""Panels and parts of the caption: matched by letter, and less certain where either side is."""

from __future__ import annotations

from dataset_builders.figures.alignment import align
from dataset_builders.figures.panels import Panel
from dataset_builders.figures.subcaptions import RuleSplitter

SIZE = (200, 100)


def panel(letter: str, left: int = 0, score: float = 1.0) -> Panel:
    return Panel(box=(left, 0, left + 50, 100), letter=letter, score=score)


def test_panels_get_the_text_of_their_letter_whatever_the_case():
    parts = RuleSplitter().split("Views. (a) Axial. (b, c) Coronal.")
    found = align([panel("A"), panel("b", 60), panel("C", 120)], parts, SIZE)
    assert [(item.letters, item.text) for item in found] == [
        (("A",), "Views. Axial."),
        (("B",), "Views. Coronal."),
        (("C",), "Views. Coronal."),
    ]
    assert min(item.confidence for item in found) > 0.8


def test_panels_without_a_part_are_not_matched():
    parts = RuleSplitter().split("(A) Axial. (B) Coronal.")
    found = align([panel("A"), panel("D", 60), panel("", 120)], parts, SIZE)
    assert [(item.text, item.confidence > 0) for item in found] == [("Axial.", True), ("", False), ("", False)]


def test_a_letter_that_was_read_twice_matches_nothing():
    parts = RuleSplitter().split("(A) Axial. (B) Coronal.")
    found = align([panel("A"), panel("A", 60), panel("B", 120)], parts, SIZE)
    assert [item.text for item in found] == ["", "", "Coronal."]


def test_what_is_unsure_on_either_side_lowers_the_confidence():
    whole = RuleSplitter().split("(A) Axial. (B) Coronal.")
    holed = RuleSplitter().split("(A) Axial. (C) Coronal.")
    both = [panel("A"), panel("B", 60)]
    best = align(both, whole, SIZE)[0].confidence
    assert align([panel("A", score=0.5), panel("B", 60)], whole, SIZE)[0].confidence < best  # letter hard to read
    assert align([panel("A"), panel("", 60)], whole, SIZE)[0].confidence < best  # a panel is missing
    assert align([panel("A"), panel("C", 60)], holed, SIZE)[0].confidence < best  # a part is missing
