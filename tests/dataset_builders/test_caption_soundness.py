"""Sentences in the right words that describe no image, as small language models write them."""

from __future__ import annotations

import pytest

from dataset_builders.captions.facts import CaptionFacts, Finding
from dataset_builders.captions.guard import Guard

CT = CaptionFacts(modality="ct", body_part="head")
HAND = CaptionFacts(modality="xray", body_part="hand")
POLYP = CaptionFacts(
    modality="endoscopy", body_part="colon", present=(Finding(task="t", class_id="polyp", name="a polyp"),)
)
NORMAL = CaptionFacts(
    modality="xray",
    body_part="chest",
    present=(Finding(task="t", class_id="normal", name="no abnormality", is_negative=True),),
    absent=(Finding(task="t", class_id="pneumonia", name="pneumonia"),),
)


@pytest.mark.parametrize(
    ("text", "facts", "code"),
    [
        ("CT scans can be used to visualize the brain.", CT, "not_a_caption"),
        ("Head CT scans are a popular way to look at the brain.", CT, "not_a_caption"),
        ("The results obtained on the head CT scan are inconclusive.", CT, "not_a_caption"),
        ("No head CT scan.", CT, "not_a_caption"),
        ("The hand is not on this X-ray of the hand.", HAND, "not_a_caption"),
        ("The hand radiograph is a radiograph.", HAND, "not_a_caption"),
        ("Normal hand radiograph.", HAND, "finding_unknown"),
        ("No fracture is seen on this X-ray of the hand.", HAND, "finding_unknown"),
        ("This endoscope is a polyp.", POLYP, "not_a_caption"),
        ("The polyp found on this endoscopy image of the colon is a polyp.", POLYP, "not_a_caption"),
        ("Endoscopy of the colon, a polyp; does not say that a polyp is absent.", POLYP, "prompt_leak"),
        ("A polyp is seen on this endoscopy image, a polyp is seen on this endoscopy image.", POLYP, "not_a_caption"),
    ],
)
def test_what_describes_no_image_is_refused(text: str, facts: CaptionFacts, code: str) -> None:
    assert code in {str(refusal.code) for refusal in Guard().check(text, facts)}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("CT of the head.", CT),
        ("This is an axial CT scan of the brain.", CT),
        ("A radiograph of a hand.", HAND),
        ("A polyp is visible on this endoscopic image of the colon.", POLYP),
        ("Endoscopy image; the lesion in the colon is a polyp.", POLYP),
        ("Normal chest radiograph, no pneumonia.", NORMAL),
        ("No abnormality is seen on this X-ray of the chest.", NORMAL),
    ],
)
def test_plain_captions_pass(text: str, facts: CaptionFacts) -> None:
    assert Guard().check(text, facts) == ()
