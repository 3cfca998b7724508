"""Panels and parts of the caption: matched by letter, and less certain where either side is."""

from __future__ import annotations

from benchmarks.pmc_subcaptions import drawn_cases, score_alignment
from dataset_builders.figures.alignment import align
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.panels import Panel, open_detector
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
    missing = [align([panel("A", score=score)], whole, SIZE)[0].confidence for score in (1.0, 0.5)]
    assert missing[1] < missing[0] < best  # a panel is missing; and the letter is hard to read
    assert align([panel("A"), panel("C", 60)], holed, SIZE)[0].confidence < best  # a part is missing


def grid(letters: str, columns: int) -> list[Panel]:
    """Panels of 50 x 100 in a grid, "." for a letter that was not read."""
    boxes = [(60 * (n % columns), 110 * (n // columns)) for n in range(len(letters))]
    return [
        Panel(box=(left, top, left + 50, top + 100), letter=letter.strip("."))
        for letter, (left, top) in zip(letters, boxes, strict=True)
    ]


FOUR = "(A) Axial. (B) Coronal. (C) Sagittal. (D) Oblique."


def texts(panels: list[Panel], caption: str) -> list[str]:
    return [item.text for item in align(panels, RuleSplitter().split(caption), SIZE)]


def test_letters_that_were_not_read_follow_from_the_order():
    assert texts(grid("A..D", 4), FOUR) == ["Axial.", "Coronal.", "Sagittal.", "Oblique."]
    assert texts(grid("AB..", 2), FOUR) == ["Axial.", "Coronal.", "Sagittal.", "Oblique."]
    assert texts(grid("AC..", 2), FOUR) == ["Axial.", "Sagittal.", "Coronal.", "Oblique."]  # counted down the columns


def test_order_alone_is_surer_in_a_row_than_in_a_grid():
    parts = RuleSplitter().split(FOUR)
    row, square, read = (align(grid(*case), parts, SIZE) for case in (("....", 4), ("....", 2), ("ABCD", 2)))
    assert [item.text for item in square] == ["Axial.", "Coronal.", "Sagittal.", "Oblique."]
    assert square[0].confidence < 0.6 < row[0].confidence < read[0].confidence


def test_order_says_nothing_where_counts_differ_or_letters_disagree():
    assert texts(grid("A..", 3), FOUR) == ["Axial.", "", ""]
    assert texts(grid("D..A", 4), FOUR) == ["Oblique.", "", "", "Axial."]


def test_panels_are_matched_by_place_where_the_caption_has_no_letters():
    caption = "Axial (left) and coronal (right) CT."
    right, left = Panel(box=(60, 0, 110, 100)), Panel(box=(0, 0, 50, 100))
    below = Panel(box=(0, 110, 50, 200))
    assert texts([right, left], caption) == ["coronal CT.", "Axial CT."]
    assert texts([left, below], caption) == ["", ""]  # not side by side
    assert texts([left, right, below], caption) == ["", "", ""]


def test_a_panel_of_numbered_parts_gets_all_of_their_texts():
    parts = RuleSplitter().split("A1. Whole cell. A2. Its nucleus. B. Control.")
    found = align([panel("A"), panel("B", 60)], parts, SIZE)
    assert [(item.letters, item.text) for item in found] == [
        (("A1", "A2"), "Whole cell. Its nucleus."),
        (("B",), "Control."),
    ]


def test_generated_figures_are_right_where_the_match_is_called_certain():
    detector = open_detector(PanelConfig())
    assert detector is not None
    rows = score_alignment(detector, RuleSplitter(), drawn_cases(3, 40))
    taken = [right for confidence, right in rows if confidence >= 0.6]
    assert len(taken) > 60
    assert sum(taken) >= 0.9 * len(taken)
