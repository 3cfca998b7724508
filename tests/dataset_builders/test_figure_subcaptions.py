"""Captions of compound figures into their parts: every word somewhere, and nothing cut that is no list of panels."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pmc_subcaptions import load_captions, load_marked, score
from dataset_builders.figures.config import LlmConfig, PanelConfig
from dataset_builders.figures.subcaptions import RuleSplitter, open_splitter

SPLITTER = RuleSplitter()


def parts(caption: str) -> list[tuple[str, str]]:
    return [("".join(part.letters), part.text) for part in SPLITTER.split(caption)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("(A) Axial CT. (B) Coronal CT.", [("A", "Axial CT."), ("B", "Coronal CT.")]),
        ("(a) Axial CT; (b) coronal CT.", [("A", "Axial CT"), ("B", "coronal CT.")]),
        ("A) Eruption on the back. B) Biopsy.", [("A", "Eruption on the back."), ("B", "Biopsy.")]),
        ("A. Radiograph. B. MRI of the knee.", [("A", "Radiograph."), ("B", "MRI of the knee.")]),
        ("A: radiograph. B: MRI.", [("A", "radiograph."), ("B", "MRI.")]),
        ("Panel A shows the lesion. Panel B shows it later.", [("A", "shows the lesion."), ("B", "shows it later.")]),
        ("A, Fundus photograph; B, angiogram.", [("A", "Fundus photograph"), ("B", "angiogram.")]),
        (
            "MRI of a 45-year-old man. (A) T1. (B, C) T2 before and after contrast.",
            [("A", "MRI of a 45-year-old man. T1."), ("BC", "MRI of a 45-year-old man. T2 before and after contrast.")],
        ),
        ("(A–C) Three views. (D) A fourth.", [("ABC", "Three views."), ("D", "A fourth.")]),
        ("(A~C) Three views. (D and E) Two more.", [("ABC", "Three views."), ("DE", "Two more.")]),
        ("CT before (A) and after (B) treatment.", [("A", "CT before treatment."), ("B", "after treatment.")]),
        ("Heart: axial (A), sagittal (B).", [("A", "Heart: axial"), ("B", "Heart: sagittal")]),
        ("Axial CT (A) shows a mass. Its edge is sharp. Coronal CT (B) shows its stalk.",
         [("A", "Axial CT shows a mass. Its edge is sharp."), ("B", "Coronal CT shows its stalk.")]),
        ("Lizards: A. caspica sp. n. (A; photo by N. M.) and B. kamii (B).",
         [("A", "Lizards: A. caspica sp. n. (photo by N. M.)"), ("B", "Lizards: B. kamii")]),
        ("Patient 1 (A), patient 2 (B).", [("A", "Patient 1"), ("B", "patient 2")]),
        ("Cells. a Zona cut open. b Cells moved.", [("A", "Cells. Zona cut open."), ("B", "Cells. Cells moved.")]),
        ("A- Map of genes. B- Pattern.", [("A", "Map of genes."), ("B", "Pattern.")]),
        ("Taxa: a, eel; b, cod; and c, ray.", [("A", "Taxa: eel"), ("B", "Taxa: cod"), ("C", "Taxa: ray.")]),
        ("Lungs (A, C) and livers (B, D).", [("AC", "Lungs"), ("BD", "livers")]),
        ("(A)–(C) Three views. (D) and (E) Two more.", [("ABC", "Three views."), ("DE", "Two more.")]),
        ("(A, B) Radiographs. (A) Before. (B) After.", [("A", "Radiographs. Before."), ("B", "Radiographs. After.")]),
        ("a1. Cell. a2. Its nucleus. b. Control.", [("A1", "Cell."), ("A2", "Its nucleus."), ("B", "Control.")]),
        ("A. Cells with (a) one, (b) two, (c) three dyes. B. Controls.",
         [("A", "Cells with (a) one, (b) two, (c) three dyes."), ("B", "Controls.")]),
        ("(A) Scan, as in (C). (B) Scan. (C) Map.", [("A", "Scan, as in (C)."), ("B", "Scan."), ("C", "Map.")]),
        ("(A) One. (B) Two. CT, computed tomography.", [("A", "One."), ("B", "Two.")]),
        ("Thyroid(A) Normal.(B) Graves disease.", [("A", "Thyroid Normal."), ("B", "Thyroid Graves disease.")]),
        ("Scans. Panel (A) shows one. Panel (B) another.", [("A", "Scans. shows one."), ("B", "Scans. another.")]),
        (
            "Two mice. (A) Control group. (B) Treated group. Scale bar: 10 µm. *P < 0.05.",
            [("A", "Two mice. Control group."), ("B", "Two mice. Treated group.")],
        ),
        ("(A) Scan. (B) Scan; see arrow in (A).", [("A", "Scan."), ("B", "Scan; see arrow in (A).")]),
        ("(A) Slices (i) to (iii). (B) Volume.", [("A", "Slices (i) to (iii)."), ("B", "Volume.")]),
    ],
)  # fmt: skip
def test_parts_and_their_letters(caption: str, expected: list[tuple[str, str]]):
    assert parts(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "Axial CT of the chest.",
        "Effect of vitamin A. Hepatitis B. and influenza A.",
        "Patients of group A. were older than those of group B. in the trial.",
        "Data from Fig. 2A, B and Fig. 3C.",
        "Cornea (C), anterior chamber (AC), crystalline lens (L), iris (I) and angle (A).",
        "(B) Fundus angiography shows leakage.",
        "Curve of f(a) and f(b) over time.",
        "(A) Only one panel has a letter.",
        "Stage A: none. See Table B.",
        "The lesion (arrow A) lies beside the vessel (arrow B).",
        "Stenosis on the left. * Significant. a Significantly higher. b Significantly lower.",
        "Note (A) and (B), both normal.",
    ],
)
def test_captions_without_such_a_structure_stay_whole(caption: str):
    assert parts(caption) == []


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Left: axial CT. Right: coronal CT.", [("left", "axial CT."), ("right", "coronal CT.")]),
        ("Axial (left) and coronal (right) CT.", [("left", "Axial CT."), ("right", "coronal CT.")]),
        ("Upper panel: a map. Lower panel: its key.", [("top", "a map."), ("bottom", "its key.")]),
        ("Lung (left).", []),
        ("Left: by genes. Top: by samples.", []),
    ],
)
def test_parts_are_told_apart_by_place_where_there_are_no_letters(caption: str, expected: list[tuple[str, str]]):
    found = SPLITTER.split(caption)
    assert [(part.place, part.text) for part in found] == expected
    assert all(part.letters == () for part in found)


def test_a_hole_in_the_letters_lowers_the_confidence():
    whole = SPLITTER.split("(A) One. (B) Two. (C) Three.")
    holed = SPLITTER.split("(A) One. (C) Three.")
    assert [part.letters for part in holed] == [("A",), ("C",)]
    assert max(part.confidence for part in holed) < min(part.confidence for part in whole)


def test_a_marker_with_nothing_to_mark_makes_no_part():
    assert SPLITTER.split(" (A) . 0 (B) ") == []


_TEXT = st.text(alphabet="abcdefgh MRICT0123456789.,;:()-–\n", max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXT, min_size=1, max_size=6), st.sampled_from(["({})", "{})", "{}.", "{},", "{}:"]))
def test_parts_are_spans_of_the_caption_that_do_not_overlap(texts: list[str], style: str):
    caption = texts[0] + "".join(f" {style.format(chr(65 + n))} {text}" for n, text in enumerate(texts[1:]))
    found = SPLITTER.split(caption)
    for first, second in itertools.pairwise(found):
        assert first.start < first.end <= second.start
    for part in found:
        assert set(re.findall(r"\w+", part.text)) <= set(re.findall(r"\w+", caption))
        assert part.text.strip()
        assert 0 < part.confidence <= 1
        inside = caption[part.start : part.end]
        assert set(re.findall(r"[a-z]{2,}", inside)) <= set(re.findall(r"[a-z]+", part.text)) | {"to", "and", "or"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(alphabet="lesion scan view", min_size=8, max_size=40).filter(str.strip), min_size=2, max_size=8)
)
def test_every_word_of_a_plain_list_is_in_its_own_part(texts: list[str]):
    caption = " ".join(f"({chr(65 + number)}) {text.strip()}." for number, text in enumerate(texts))
    assert [part.text for part in SPLITTER.split(caption)] == [" ".join(f"{text.strip()}.".split()) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["axial view", "scan, late", "a lesion; see arrow", "T2 map"]), min_size=2, max_size=6))
def test_what_is_said_before_all_parts_is_in_every_part_and_what_is_said_after_all_is_in_none(texts: list[str]):
    body = " ".join(f"({chr(65 + number)}) {text}." for number, text in enumerate(texts))
    found = SPLITTER.split(f"Findings of one patient. {body} Scale bars: 5 mm.")
    assert [part.letters for part in found] == [(chr(65 + number),) for number in range(len(texts))]
    assert all(part.text == f"Findings of one patient. {text}." for part, text in zip(found, texts, strict=True))


def test_parts_of_published_captions(real_data: Path):
    marked = load_marked(load_captions(real_data))
    assert len(marked) > 150
    counts = score(SPLITTER, marked)
    assert counts["named"] >= 0.9 * counts["true"]
    assert counts["right"] >= 0.8 * counts["true"]
    assert counts["right"] >= 0.75 * counts["found"]
    assert counts["kept"] >= 0.85 * counts["whole"]


def test_the_config_names_the_splitter():
    assert open_splitter(PanelConfig()).name == "rules"
    assert open_splitter(PanelConfig(splitter="llm", llm=LlmConfig(model="m"))).name.startswith("rules+llm:m:")
