"""Credit lines in captions: third parties' figures are found, and words that only look like a credit are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipmed.licenses import LicenseGroup, license_group
from dataset_builders.pmc.credits import CreditKind, find_credit
from dataset_builders.pmc.licensing import combined_license


@pytest.mark.parametrize(
    "caption",
    [
        "Reprinted with permission from Elsevier.",
        "Chest film (reproduced from [13], The AIDS Reader).",
        "Adapted from Smith et al. [12], with permission.",
        "A scan. © Elsevier 2011",
        "A scan. Copyright 2017 Nature Publishing Group",
        "Image used by kind permission of the Royal College of Physicians of Ireland.",
        "Portrait. © Andrew Lichtenstein/Corbis",
        "Photograph reprinted courtesy of the National Library of Medicine.",
        "Image reproduced from Chu et al, 2012.",
        "Pump. Image provided courtesy of Boston Scientific. All rights reserved.",
        "Membranes with different magnificationsReproduced with permission from [173] Copyright 2019 Wiley",
        "A hand (from Wikipedia).",
        "Image taken from Smith et al. [3].",
        "Source: Shutterstock.com",
        "Tongue. (Published in Br J Dermatol 1981;104:587-91)",
    ],
)
def test_third_party_figures_are_found_and_leave_the_gate(caption: str):
    credit = find_credit(caption)
    assert credit is not None
    assert (credit.kind, credit.license) == (CreditKind.THIRD_PARTY, None)
    assert license_group(combined_license(["CC-BY-4.0", "CC-BY-4.0"], credit)) is LicenseGroup.OTHER


@pytest.mark.parametrize(
    ("caption", "kind", "license_id"),
    [
        ("Reproduced from Wu et al. [3] under CC BY 4.0.", CreditKind.THIRD_PARTY, "CC-BY-4.0"),
        ("Reproduced from [3]. Licensed under CC BY-NC 3.0 by the authors.", CreditKind.THIRD_PARTY, "CC-BY-NC-3.0"),
        ("Image from Wikimedia Commons (public domain).", CreditKind.THIRD_PARTY, "LicenseRef-public-domain"),
        ("A mouse by G. Favalora. Licensed under CC BY-SA 3.0 via Commons.", CreditKind.OWN_LICENSE, "CC-BY-SA-3.0"),
        ("All images are CC-BY and from phylopic.org.", CreditKind.OWN_LICENSE, "CC-BY-4.0"),
        ("Cataract (courtesy of Choun-Ki Joo).", CreditKind.COURTESY, None),
        ("Courtesy: Pr Albert Hagege, Paris, France.", CreditKind.COURTESY, None),
        ("Liver. (Figure kindly provided by Dr. Maria Sellars)", CreditKind.COURTESY, None),
        ("Photo by James Eklund.", CreditKind.COURTESY, None),
        ("The diagram was adapted from Burton and Weiss (2010).", CreditKind.ADAPTED, None),
        ("Pathways. Redrawn from Isoe and Scaraffia [9].", CreditKind.ADAPTED, None),
    ],
)
def test_other_credits_say_what_they_are(caption: str, kind: CreditKind, license_id: str | None):
    credit = find_credit(caption)
    assert credit is not None
    assert (credit.kind, credit.license) == (kind, license_id)


@pytest.mark.parametrize(
    "caption",
    [
        "Lenses of eyes adapted to dark, and courtesy visits by the nurse.",
        "Samples were taken with permission of the ethics committee.",
        "Photographs are shown with permission of the patient.",
        "The angiogram was taken with permission from our patient",
        "Animals were captured with permission from the park.",
        "Scores by a method modified from the method of Smith.",
        "Assay adapted from the protocol in [3].",
        "Lengths measured by OsiriX©: axial length of the eyeball (AL).",
        "(A) Before. (B) After. (c) 2011 patients. (C) Controls.",
        "© The Author(s) 2012. Reproducible staining; data were obtained from the Census Bureau [12].",
        "CT image taken from a patient with Pneumocystis; reproduction of the virus; a public domain database.",
        "",
    ],
)
def test_false_friends_are_no_credit(caption: str):
    assert find_credit(caption) is None


def test_an_unlicensed_part_decides_over_a_licensed_one():
    credit = find_credit("a Reproduced from [1] under CC BY 4.0. b Reproduced with permission from [2], Elsevier.")
    assert credit is not None
    assert (credit.kind, credit.license) == (CreditKind.THIRD_PARTY, None)
    assert "Elsevier" in credit.text


def test_courtesies_and_adaptations_leave_the_articles_licence():
    for caption in ("Courtesy of Dr Lee.", "Adapted from Lee et al. [3]."):
        assert combined_license(["CC-BY-4.0", None], find_credit(caption)) == "CC-BY-4.0"


def test_a_stated_licence_counts_with_the_articles_own():
    shared = find_credit("Licensed under CC BY-SA 3.0 via Commons.")
    assert combined_license(["CC-BY-4.0"], shared) == "CC-BY-SA-3.0"
    limited = find_credit("Reproduced from [3], CC BY-NC 4.0.")
    assert combined_license(["CC-BY-4.0"], limited) == "CC-BY-NC-4.0"


def test_the_text_shown_holds_the_credit_of_a_long_caption():
    credit = find_credit("A very long list of things " * 40 + "reprinted with permission from Elsevier")
    assert credit is not None
    assert len(credit.text) <= 300
    assert "reprinted with permission" in credit.text


@pytest.mark.real_data
def test_real_captions_have_credits_about_as_often_as_counted_by_hand(real_data: Path):
    lines = (real_data / "pairs" / "roco_captions_textonly" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    found = [credit for line in lines if (credit := find_credit(json.loads(line)["caption"]))]
    kinds = [credit.kind for credit in found]
    assert 75 <= kinds.count(CreditKind.THIRD_PARTY) <= 100
    assert 55 <= kinds.count(CreditKind.COURTESY) <= 75
