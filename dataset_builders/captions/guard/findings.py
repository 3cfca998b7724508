"""Findings: each that is present is stated, none that is absent, and none that no fact supports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from dataset_builders.captions.facts import CaptionFacts, Finding
from dataset_builders.captions.guard.codes import GuardCode, Refusal
from dataset_builders.captions.guard.lexicon import Lexicon, stems
from dataset_builders.captions.guard.text import Token, words_of

# Words of names that say nothing by themselves.
_FILLING = words_of(
    "a an the of in on with to and or by at for from its is are any other another type image class evidence sign no "
    "not without free absence visible present seen show focal"
)
_ARTICLES = words_of("a an the")
_DENYING = re.compile(r"\b(?:no|not|non|without|free|absence of|absent|negative)\b", re.I)
_NORMAL_WORDS = words_of("normal unremarkable healthy intact clear preserved")
_REST = words_of("otherwise rest remaining remainder surrounding adjacent background compared elsewhere rather")
_NOTHING = words_of("abnormality pathology disease anomaly disorder")
# Denied without a word of their own before them, these too say that nothing was found.
_NOTHING_ALONE = words_of("lesion mass tumor finding change defect")
_BEFORE_NOTHING = words_of("no any of without nothing focal visible discrete suspicious evident")
# Words that a caption may put between those of a name: "carcinoma of the right breast" is not one of them.
_MOST_BETWEEN = 4


@dataclass(frozen=True, slots=True)
class _Name:
    words: frozenset[str]
    denies: bool


@dataclass(frozen=True, slots=True)
class _Stated:
    """Where a name's words stand: places, and how."""

    places: frozenset[int]
    denied: bool
    """the opposite is said"""
    supposed: bool
    of_denial: bool
    """of a name that denies, such as "no tumor": its opposite states the tumor"""


def check_findings(tokens: list[Token], facts: CaptionFacts, lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield what is wrong with the findings that a caption states."""
    explained: set[int] = set()
    for finding in facts.present:
        stated = list(_stated(finding, tokens, lexicon))
        if problem := _missing(finding, stated, tokens):
            yield Refusal(GuardCode.FINDING_MISSING, problem)
        elif finding.is_negative and any(place.denied and place.of_denial for place in stated):
            yield Refusal(GuardCode.FINDING_ABSENT, f"states what {finding.name!r} denies")
        for place in stated:
            explained |= place.places
    yield from _absent(tokens, facts, explained, lexicon)
    yield from _unknown(tokens, facts, explained, lexicon)
    if not facts.present and not facts.absent:
        yield from _judgements(tokens, lexicon)


def _judgements(tokens: list[Token], lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield what a caption finds or denies in an image of which nothing but its kind is known."""
    if _says_normal(tokens):
        yield Refusal(GuardCode.FINDING_UNKNOWN, "says that nothing is wrong, which no fact tells")
    for match in lexicon.concepts.find(tokens):
        if tokens[match.start].denied:
            yield Refusal(GuardCode.FINDING_UNKNOWN, f"denies {match.name!r}, of which no fact tells")


def _missing(finding: Finding, stated: list[_Stated], tokens: list[Token]) -> str:
    """Return why a present finding does not count as stated; the empty text if it does."""
    if finding.is_negative and _says_normal(tokens):
        return ""
    if any(not place.denied and not place.supposed for place in stated):
        return ""
    if any(place.denied for place in stated):
        return f"{finding.name!r} is denied"
    if stated:
        return f"{finding.name!r} is only supposed"
    return f"{finding.name!r} is not stated, nor {', '.join(finding.synonyms[:4]) or 'another name of it'}"


def _stated(finding: Finding, tokens: list[Token], lexicon: Lexicon) -> Iterator[_Stated]:
    """Yield the places where a name of the finding stands. For names that deny, denied counts as said."""
    for name in _names(finding, lexicon):
        for places in _places(name.words, tokens):
            is_denied = any(tokens[place].denied for place in places)
            said = is_denied if name.denies else not is_denied
            is_supposed = any(tokens[place].supposed for place in places)
            yield _Stated(frozenset(places), not said, is_supposed, name.denies)


@lru_cache(maxsize=20_000)
def _names(finding: Finding, lexicon: Lexicon) -> tuple[_Name, ...]:
    """Return what a finding is called: its names, and those that the lexicon has for one of them."""
    names = []
    for text in finding.names:
        phrase = tuple(word for word in stems(text) if word not in _ARTICLES)
        for form in (*_forms(text), *lexicon.names.get(phrase, ())):
            words = frozenset(word for word in stems(form) if word not in _FILLING)
            if words:
                names.append(_Name(words, bool(_DENYING.search(text))))
    return tuple(dict.fromkeys(names))


def _forms(text: str) -> list[str]:
    """Return a name as it is, and without what stands in brackets; both sides of "A or B" where a class is either."""
    plain = re.sub(r"\s*\([^)]*\)", "", text)
    return [text, plain] if plain != text else [text]


def _places(words: frozenset[str], tokens: list[Token]) -> Iterator[list[int]]:
    """Yield where all words stand close together in one sentence, in any order."""
    where: dict[str, list[int]] = {word: [] for word in words}
    for place, token in enumerate(tokens):
        if token.stem in where:
            where[token.stem].append(place)
    if not all(where.values()):
        return
    rarest = min(where.values(), key=len)
    for anchor in rarest:
        places = [min(found, key=lambda place: (abs(place - anchor), place)) for found in where.values()]
        first, last = min(places), max(places)
        same = len({tokens[place].clause for place in places}) == 1
        if same and last - first < len(words) + _MOST_BETWEEN:
            yield places


def _absent(tokens: list[Token], facts: CaptionFacts, explained: set[int], lexicon: Lexicon) -> Iterator[Refusal]:
    own = [name.words for finding in facts.present for name in _names(finding, lexicon)]
    for finding in facts.absent:
        if finding.is_negative:
            found = any(not present.is_negative for present in facts.present)
            others = _words_of_absent(facts)
            if found and _says_normal(tokens, others):
                yield Refusal(GuardCode.FINDING_ABSENT, f"says {finding.name!r} where something was found")
            continue
        for name in _names(finding, lexicon):
            if any(name.words <= words for words in own):
                continue
            for places in _places(name.words, tokens):
                denied = any(tokens[place].denied for place in places)
                if denied == name.denies and not set(places) <= explained:
                    yield Refusal(GuardCode.FINDING_ABSENT, f"states {finding.name!r}, which is absent")
                    break


def _words_of_absent(facts: CaptionFacts) -> frozenset[str]:
    absent = [finding for finding in facts.absent if not finding.is_negative]
    return frozenset(word for finding in absent for name in finding.names for word in stems(name))


def _unknown(tokens: list[Token], facts: CaptionFacts, explained: set[int], lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield concepts that are stated and that neither the facts nor what they imply explain."""
    known = _known_concepts(facts, lexicon)
    absent = _concepts_of(tuple(name for finding in facts.absent for name in finding.names), (), lexicon)
    something = any(not finding.is_negative for finding in facts.present)
    for match in lexicon.concepts.find(tokens):
        places = set(range(match.start, match.end))
        if any(tokens[place].denied for place in places):
            alone = match.start > 0 and tokens[match.start - 1].word in _BEFORE_NOTHING
            if match.name in known and alone and match.name not in absent:
                yield Refusal(GuardCode.FINDING_MISSING, f"denies {match.name!r}, which the finding is")
            continue
        if places <= explained:
            continue
        is_generic = stems(match.name) in lexicon.generic
        if is_generic and (something or not facts.present or _only_looked_at(tokens, match.start)):
            continue
        if match.name not in known:
            yield Refusal(GuardCode.FINDING_UNKNOWN, f"{match.name!r} is in no fact")


def _only_looked_at(tokens: list[Token], place: int) -> bool:
    """Whether a generic word only says where one looked, as "finding" and "appearance" do beside "normal"."""
    sentence = tokens[place].sentence
    return any(token.stem in _NORMAL_WORDS for token in tokens if token.sentence == sentence)


def _known_concepts(facts: CaptionFacts, lexicon: Lexicon) -> frozenset[str]:
    stating = [finding for finding in facts.present if not _DENYING.search(finding.name)]
    names = tuple(name for finding in stating for name in finding.names)
    return _concepts_of(names, tuple(words for _, words in facts.details), lexicon)


@lru_cache(maxsize=20_000)
def _concepts_of(names: tuple[str, ...], details: tuple[str, ...], lexicon: Lexicon) -> frozenset[str]:
    """Return the concepts that names hold, inside one another too, with all that these also are."""
    found: set[str] = set()
    for text in (*names, *details):
        tokens = [Token(word, word, 0, 0, denied=False, supposed=False) for word in stems(text)]
        for place in range(len(tokens)):
            for match in lexicon.concepts.find_all(tokens[place:]):
                found |= {match.name} | _ancestors(match.name, lexicon)
    return frozenset(found)


def _ancestors(name: str, lexicon: Lexicon) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for parent in lexicon.parents.get(waiting.pop(), frozenset()):
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _says_normal(tokens: list[Token], others: frozenset[str] = frozenset()) -> bool:
    """Whether a caption says that nothing was found: "normal", or "no abnormality".

    To deny one of `others`, words of what is known to be absent, says no more than that.
    """
    for place, token in enumerate(tokens):
        near = {each.stem for each in tokens[max(0, place - 4) : place + 5]}
        if near & _REST:
            continue
        if token.stem in _NORMAL_WORDS and not token.denied and not token.supposed:
            return True
        alone = token.stem in _NOTHING_ALONE - others and place > 0 and tokens[place - 1].word in _BEFORE_NOTHING
        if (token.stem in _NOTHING or alone) and token.denied:
            following = tokens[place + 1].stem if place + 1 < len(tokens) else ""
            if following not in {"other", "else"} and not _is_other(tokens, place):
                return True
    return False


def _is_other(tokens: list[Token], place: int) -> bool:
    """Whether a denied word speaks of further findings: "no other lesion", "no additional abnormality"."""
    before = {token.stem for token in tokens[max(0, place - 3) : place]}
    return bool(before & {"other", "additional", "further", "second", "another", "more"})
