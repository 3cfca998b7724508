"""Sentences in the right words that describe no image: of images in general, of none, of a thing as itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dataset_builders.captions.facts import CaptionFacts
from dataset_builders.captions.guard.codes import GuardCode, Refusal
from dataset_builders.captions.guard.lexicon import Lexicon, stems
from dataset_builders.captions.guard.text import Token, words_of

_GENERAL = re.compile(
    r"\b(?:can|could|may|might) be (?:used|done|found by|performed|made)|\b(?:is|are) (?:\w+ )?(?:useful|popular|"
    r"common|invasive|non-?invasive|painless|expensive|used|needed|required|available)\b|\b(?:popular|common|good) "
    r"(?:way|site|tool|method)|\binconclusive\b|\bnot (?:available|performed|been confirmed)|\bimaging "
    r"(?:technique|technology|device)s?\b|\bthis technology\b|"
    r"\b(?:scan|test|imaging)? ?results? (?:are|is|obtained|of)\b|\bno results?\b|"
    r"\bmissing image\b|\bno (?:modality|image|device)\b",
    re.I,
)
_ARTICLES = words_of("a an the this that")
_BETWEEN = _ARTICLES | words_of("in on by of from with")
_DENIALS = words_of("no not isn't aren't without")
_REPEATED = 5  # stems in a row that a caption may say once


def check_soundness(text: str, tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield why a caption whose words fit describes no image."""
    if found := _GENERAL.search(text):
        yield Refusal(GuardCode.NOT_A_CAPTION, f"{found.group(0).strip()!r} is of no image")
    if repeated := _repetition(tokens):
        yield Refusal(GuardCode.NOT_A_CAPTION, f"says {repeated!r} twice")
    images = [match for match in lexicon.modalities.find(tokens) if match.name == facts.modality]
    part = frozenset(stems(facts.body_part or ""))
    for match in images:
        if _word_before(tokens, match.start, part) in _DENIALS:
            yield Refusal(GuardCode.NOT_A_CAPTION, f"denies the {facts.modality}")
            break
    yield from _equations(tokens, lexicon)


def _repetition(tokens: list[Token]) -> str:
    seen: set[tuple[str, ...]] = set()
    for place in range(len(tokens) - _REPEATED + 1):
        words = tuple(token.stem for token in tokens[place : place + _REPEATED])
        if words in seen and not set(words) <= _BETWEEN:
            return " ".join(words)
        seen.add(words)
    return ""


def _word_before(tokens: list[Token], place: int, part: frozenset[str]) -> str:
    """Return the word before a place; articles, prepositions and the part of the body are passed over."""
    before = reversed(tokens[max(0, place - 5) : place])
    return next((token.word for token in before if token.word not in _BETWEEN and token.stem not in part), "")


def _equations(tokens: list[Token], lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield that a thing is called itself, or an image a finding: "the radiograph is a radiograph"."""
    named = {match.start: match.name for match in lexicon.concepts.find(tokens)}
    images = {match.start: match for match in lexicon.modalities.find(tokens)}
    for place in range(len(tokens) - 2):
        if tokens[place].word not in {"is", "are"} or tokens[place + 1].word not in _ARTICLES:
            continue
        after = range(place + 2, min(place + 5, len(tokens)))
        things = {named[place + 2]} if place + 2 in named else set()
        if things & {name for start, name in named.items() if start < place}:
            yield Refusal(GuardCode.NOT_A_CAPTION, "says that a finding is itself")
        before = {match.name for match in images.values() if match.end <= place}
        if before & {images[start].name for start in after if start in images}:
            yield Refusal(GuardCode.NOT_A_CAPTION, "says that an image is itself")
        if things and any(match.end == place for match in images.values()):
            yield Refusal(GuardCode.NOT_A_CAPTION, "says that an image is a finding")
