from __future__ import annotations

import re

import pytest
import yaml

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError
from clipmed.records import Modality
from dataset_builders.captions.bank import BANKS, TemplateBank, load_bank, shipped_banks
from dataset_builders.captions.facts import CaptionFacts, Finding
from dataset_builders.captions.sampler import article, captions_for


def finding(class_id: str, name: str = "", **more: object) -> Finding:
    return Finding(task="t", class_id=class_id, name=name or class_id, **more)  # type: ignore[arg-type]


def facts_of(modality: str, *present: Finding, **more: object) -> CaptionFacts:
    return CaptionFacts(modality=modality, present=present, **more)  # type: ignore[arg-type]


PNEUMONIA = finding("pneumonia", synonyms=("a pulmonary infection", "findings of pneumonia"))
FACTS = facts_of("xray", PNEUMONIA, body_part="chest")


def bank_of(**changes: object) -> TemplateBank:
    content = {
        "name": "tiny",
        "version": 3,
        "modality_phrases": {"xray": ["X-ray", "radiograph"], "mri": ["MRI scan"]},
        "finding_phrases": {"mass": ["a mass", "a mass in the {body_part}"], "mri/mass": ["a tumor"]},
        "templates": {"default": ["A {modality} showing {finding}", "{finding} on a {modality} of the {body_part}"]},
        **changes,
    }
    return from_dict(TemplateBank, content, "tiny.yaml")


def texts(facts: CaptionFacts, bank: TemplateBank, key: str = "k", number: int = 5) -> list[str]:
    return [caption.text for caption in captions_for(facts, bank, key, number)]


def test_captions_are_a_fixed_varied_choice_of_the_key() -> None:
    bank = load_bank("general")
    chosen = [texts(FACTS, bank, f"key-{number}") for number in range(60)]
    assert chosen == [texts(FACTS, bank, f"key-{number}") for number in range(60)]
    assert all(len(set(captions)) == 5 for captions in chosen)
    assert len({tuple(captions) for captions in chosen}) == 60
    assert len({text for captions in chosen for text in captions}) > 100


def test_captions_name_their_bank_and_version() -> None:
    caption = captions_for(FACTS, load_bank("general"), "key")[0]
    assert (caption.origin, caption.model, caption.prompt) == ("template", "general", "v2")


@pytest.mark.parametrize("modality", [str(modality) for modality in Modality])
def test_the_general_bank_words_every_modality_with_at_least_eight_templates(modality: str) -> None:
    bank = load_bank("general")
    for kind in ("finding", "plain"):
        sentences = bank.sentences(modality, kind)  # type: ignore[arg-type]
        assert len(sentences) >= 8
    facts = facts_of(modality, finding("unheard_of", "a rare thing"), body_part="hand", view="frontal")
    found = texts(facts, bank, number=15)
    assert len(found) == 15
    for text in found:
        assert "a rare thing" in text.lower()
        assert any(phrase.lower() in text.lower() for phrase in bank.modality_phrases[modality])


def test_every_caption_that_the_shipped_banks_can_make_is_tidy() -> None:
    for name in shipped_banks():
        bank = load_bank(name)
        for modality in bank.modality_phrases:
            keys = [key for key in bank.finding_phrases if "/" not in key or key.startswith(f"{modality}/")]
            for key in [*keys, "an ulcer"]:
                facts = facts_of(modality, finding(key.rpartition("/")[2]), body_part="hand")
                for text in texts(facts, bank, number=400):
                    assert text[0].isupper() or not text[0].isalpha(), text
                    assert text.endswith("."), text
                    assert not re.search(r"[{}]|  |\.\.|\ba [aeio]|\ban [bcdfghjkmpqtvwyz]| [,.;:]", text), text


def test_a_finding_of_the_modality_comes_before_the_general_one() -> None:
    assert texts(facts_of("mri", finding("mass")), bank_of()) == ["An MRI scan showing a tumor."]
    assert set(texts(facts_of("xray", finding("mass")), bank_of())) == {
        "An X-ray showing a mass.",
        "A radiograph showing a mass.",
    }


def test_the_body_part_is_used_only_where_it_is_known() -> None:
    known = texts(facts_of("mri", finding("other"), body_part="brain"), bank_of())
    assert set(known) == {"An MRI scan showing other.", "Other on an MRI scan of the brain."}
    assert texts(facts_of("mri", finding("other")), bank_of()) == ["An MRI scan showing other."]


def test_several_findings_are_all_stated() -> None:
    facts = facts_of("mri", finding("mass"), finding("edema"), finding("cyst", "a cyst"))
    assert texts(facts, bank_of()) == ["An MRI scan showing a tumor, edema and a cyst."]


def test_a_finding_without_phrases_of_the_bank_goes_by_all_its_names() -> None:
    found = texts(facts_of("mri", finding("x", "a cyst", synonyms=("a fluid-filled cavity",))), bank_of())
    assert set(found) == {"An MRI scan showing a cyst.", "An MRI scan showing a fluid-filled cavity."}


def test_where_nothing_is_present_up_to_two_absent_findings_are_denied() -> None:
    absent = (finding("mass", "a mass"), finding("edema"), finding("cyst", "a cyst"))
    nothing = finding("normal", "no abnormality", is_negative=True)
    found = texts(facts_of("mri", absent=(*absent, nothing)), bank_of(), number=50)
    assert found
    for text in found:
        assert 1 <= len(re.findall(r"\bno \w+", text)) <= 2
        assert "no a " not in text
        assert "no no" not in text


def test_no_finding_takes_the_plain_templates_and_says_when_there_are_none() -> None:
    plain = bank_of(templates={"default": ["A {modality}: {finding}"], "plain": ["this is a {modality}"]})
    assert texts(facts_of("mri"), plain) == ["This is an MRI scan."]
    with pytest.raises(ConfigError, match=r"bank tiny has no templates\.plain; it has: default"):
        texts(facts_of("mri"), bank_of())
    with pytest.raises(ConfigError, match=r"no modality_phrases for 'ct'; it has: mri, xray"):
        texts(facts_of("ct", finding("mass")), bank_of())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("X-ray", "an"),
        ("MRI scan", "an"),
        ("H&E-stained tile", "an"),
        ("OCT scan", "an"),
        ("CT scan", "a"),
        ("US image", "a"),
        ("SPECT scan", "a"),
        ("T1-weighted image", "a"),
        ("ultrasound image", "an"),
        ("unilateral effusion", "a"),
        ("uninvolved lung", "an"),
        ("ulcer", "an"),
        ("urothelial carcinoma", "a"),
        ("endoscopy frame", "an"),
        ("radiograph", "a"),
    ],
)
def test_article(words: str, expected: str) -> None:
    assert article(words) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": {"default": ["A {modality} showing {findings}"]}},
         r"templates\.default: unknown placeholder {findings}"),
        ({"templates": {"default": ["A {modality}"]}}, r"templates\.default: 'A {modality}' lacks {finding}"),
        ({"templates": {"default": ["A {modality} {finding}"], "plain": ["A {modality} {finding}"]}},
         r"templates\.plain: unknown placeholder {finding}"),
        ({"templates": {"default": ["A {modality} {finding}", " "]}}, r"templates\.default\[1\]: got an empty text"),
        ({"templates": {"default": ["A {modality} {finding"]}}, r"is not a template: .*close every brace"),
        ({"templates": {"default": ["{modality} {finding} {body_part}"]}}, r"every text holds {body_part}"),
        ({"templates": {"mri": ["{modality} {finding}"]}}, r"templates\.default is missing"),
        ({"templates": {"default": ["{modality} {finding}"], "mir": ["{modality} {finding}"]}},
         r"templates\.mir: unknown name 'mir'; did you mean 'mri'"),
        ({"finding_phrases": {"mass": []}}, r"finding_phrases\.mass: got an empty list"),
        ({"finding_phrases": {"mass": ["a mass", "a mass"]}}, r"finding_phrases\.mass: 'a mass' comes twice"),
        ({"finding_phrases": {"mass": ["a {modality} mass"]}},
         r"finding_phrases\.mass: unknown placeholder {modality}"),
        ({"finding_phrases": {"mrt/mass": ["a mass"]}}, r"finding_phrases\.mrt/mass: unknown name 'mrt'"),
        ({"modality_phrases": {"xray": [""]}}, r"modality_phrases\.xray\[0\]: got an empty text"),
        ({"version": 0}, r"version 0; allowed: 1 or more"),
        ({"phrases": {}}, r"unknown key 'phrases'; did you mean"),
    ],
)  # fmt: skip
def test_a_faulty_bank_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bank_of(**changes)


def test_an_unknown_bank_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no template bank 'genral'; did you mean 'general'"):
        load_bank("genral")


def test_bank_files_are_named_as_they_say() -> None:
    for path in BANKS.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["name"] == path.stem
