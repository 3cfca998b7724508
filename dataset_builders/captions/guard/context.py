"""Everything but findings: kind of image, organ, view, side, numbers, stains, and what is told of the patient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from dataset_builders.captions.facts import CaptionFacts
from dataset_builders.captions.guard.codes import GuardCode, Refusal
from dataset_builders.captions.guard.lexicon import Lexicon, stems
from dataset_builders.captions.guard.text import Token, words_of

# Kinds of images whose words overlap: a histology slide is seen through a microscope.
_ALIKE = ({"histopathology", "microscopy"},)
_MEASURE = re.compile(
    r"\d+(?:\.\d+)?\s*(?:x|×|by)\s*\d|\d+(?:[.,]\d+)?\s*-?(?:mm|cm|ml|cc|µm|um|μm|micron|inch|kg|mg|hu|%|percent|"
    r"degree|year|month|week|day|dioptre|diopter|mmhg|fold|times|magnification)|\d+\s*x\b|\b\d+(?:\.\d+)?\b",
    re.I,
)
_COUNTED = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|couple of|pair of|half a)\s+(?:\w+\s+){0,2}?"
    r"(?:lesions?|nodules?|mass(?:es)?|tumou?rs?|polyps?|cysts?|spots?|foci|areas?|millimet\w*|centimet\w*|cm|mm|stones?|"
    r"cells?|opacities|fractures?|inch\w*|masses)\b",
    re.I,
)
_SIZES = words_of("small large tiny huge early late extensive massive diffuse multiple several numerous")
_TIMES = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|last|past|few|several)\s+(?:year|month|week|day|hour)s?\b",
    re.I,
)
_ONE_OF = re.compile(r"\bone\s", re.I)


def check_context(text: str, tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield what a caption says besides findings that the facts do not support."""
    yield from _modality(tokens, facts, lexicon)
    yield from _organ(tokens, facts, lexicon)
    yield from _view(tokens, facts, lexicon)
    known = known_words(facts)
    yield from _numbers(text, facts)
    for index, code, what in (
        (lexicon.sides, GuardCode.SIDE, "a side or place"),
        (lexicon.history, GuardCode.HISTORY, "of the patient"),
        (lexicon.severity, GuardCode.FINDING_UNKNOWN, "a grade or extent"),
        (lexicon.acquisition, GuardCode.FINDING_UNKNOWN, "a stain or sequence"),
    ):
        for match in index.find(tokens):
            if match.name in _SIZES and not _is_of_finding(tokens, match.start, lexicon):
                continue
            if match.name == "patient with" and {token.stem for token in tokens[match.end : match.end + 5]} & known:
                continue  # "in a patient with glioma", and not with something else
            is_denied = tokens[match.start].denied and code is not GuardCode.HISTORY
            if not set(stems(match.name)) <= known and not is_denied:
                yield Refusal(code, f"{match.name!r} is in no fact ({what})")


def _is_of_finding(tokens: list[Token], place: int, lexicon: Lexicon) -> bool:
    """Whether a size is one of a finding, and not of the bowel or of a picture."""
    return bool(lexicon.concepts.find(tokens[place + 1 : place + 4]))


@lru_cache(maxsize=20_000)
def known_words(facts: CaptionFacts) -> frozenset[str]:
    """Return the stems of every word that the facts hold."""
    texts = [facts.body_part or "", facts.view or "", *(words for _, words in facts.details)]
    texts += [name for finding in facts.present for name in finding.names]
    return frozenset(word for text in texts for word in stems(text))


def _modality(tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    allowed = {facts.modality}.union(*(alike for alike in _ALIKE if facts.modality in alike))
    if facts.modality == "other":
        return
    said: dict[tuple[int, int], set[str]] = {}
    for match in lexicon.modalities.find_all(tokens):
        said.setdefault((match.start, match.end), set()).add(match.name)
    weak = {match.name for match in lexicon.weak_modalities.find_all(tokens)}
    if not allowed & weak.union(*said.values()):
        yield Refusal(GuardCode.MODALITY_MISSING, f"does not say that it is {facts.modality}")
    known = known_words(facts)
    for (start, end), names in said.items():
        is_own = names & allowed or {token.stem for token in tokens[start:end]} <= known
        if not is_own and not tokens[start].denied:
            words = " ".join(token.word for token in tokens[start:end])
            yield Refusal(GuardCode.MODALITY_WRONG, f"says {words!r}; the image is {facts.modality}")


def _organ(tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    allowed = _allowed_organs(facts, lexicon)
    if facts.body_part and "body" in stems(facts.body_part):
        return
    for match in lexicon.organs.find(tokens):
        if tokens[match.start].denied:
            continue
        own = lexicon.containing[match.name]
        if not any(match.name in lexicon.containing[organ] or organ in own for organ in allowed):
            words = " ".join(token.word for token in tokens[match.start : match.end])
            yield Refusal(
                GuardCode.ORGAN_WRONG, f"names {words!r}; the image is of {facts.body_part or 'no stated part'}"
            )


@lru_cache(maxsize=20_000)
def _allowed_organs(facts: CaptionFacts, lexicon: Lexicon) -> frozenset[str]:
    """Return the organs that the facts name, in their body part or in the names of findings, and those implied."""
    texts = [facts.body_part or "", *(words for _, words in facts.details)]
    texts += [name for finding in facts.present for name in finding.names]
    found = {lexicon.implied[facts.modality]} if facts.modality in lexicon.implied and not facts.body_part else set()
    for text in texts:
        tokens = [Token(word, word, 0, 0, denied=False, supposed=False) for word in stems(text)]
        found |= {match.name for match in lexicon.organs.find(tokens)}
    return frozenset(found)


def _view(tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    own = stems(facts.view or "")
    views = [Token(word, word, 0, 0, denied=False, supposed=False) for word in own]
    allowed = {match.name for match in lexicon.views.find(views)}
    if facts.modality == "ct" and not own:
        allowed.add("axial")  # how CT is shown unless something else is said
    known = known_words(facts)
    for match in lexicon.views.find(tokens):
        words = {token.stem for token in tokens[match.start : match.end]}
        if match.name not in allowed and not words <= known:
            shown = " ".join(token.word for token in tokens[match.start : match.end])
            yield Refusal(GuardCode.SIDE, f"says {shown!r}; the view is {facts.view or 'not known'}")


def _numbers(text: str, facts: CaptionFacts) -> Iterator[Refusal]:
    known = " ".join(
        [facts.view or "", *(words for _, words in facts.details), *(n for f in facts.present for n in f.names)]
    ).lower()
    for match in (*_MEASURE.finditer(text), *_COUNTED.finditer(text), *_TIMES.finditer(text)):
        found = match.group(0).lower().strip()
        inside = text[max(0, match.start() - 1) : match.start()].isalpha()  # T1, CD8: part of a name
        if not inside and found not in known and not _ONE_OF.match(found):
            yield Refusal(GuardCode.MEASUREMENT, f"{found!r} is in no fact")
            return
