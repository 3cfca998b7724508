"""Medicine's words as the guard knows them, read from lexicon.yaml once a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clipmed.configuration import read_yaml
from dataset_builders.captions.guard.text import Token, normal_words, stem

Phrase = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """A phrase of the lexicon in a caption: what it means, and the places of its words."""

    name: str
    start: int
    end: int


class PhraseIndex:
    """Finds phrases in words, the longest first, none inside another."""

    def __init__(self, phrases: Mapping[str, Iterable[str]]) -> None:
        self._by_first: dict[str, list[tuple[Phrase, str]]] = {}
        for name, texts in phrases.items():
            for text in texts:
                phrase = stems(text)
                if phrase:
                    self._by_first.setdefault(phrase[0], []).append((phrase, name))
        for found in self._by_first.values():
            found.sort(key=lambda pair: -len(pair[0]))

    def find(self, tokens: list[Token]) -> list[Match]:
        """Return the phrases in order. A phrase lies in one sentence."""
        words = [token.stem for token in tokens]
        found: list[Match] = []
        place = 0
        while place < len(words):
            match = next((match for match in self._at(words, tokens, place)), None)
            if match:
                found.append(match)
            place = match.end if match else place + 1
        return found

    def find_all(self, tokens: list[Token]) -> list[Match]:
        """Return all meanings of the phrases, where one phrase has several."""
        words = [token.stem for token in tokens]
        found: list[Match] = []
        place = 0
        while place < len(words):
            matches = self._at(words, tokens, place)
            longest = max((match.end for match in matches), default=0)
            found += [match for match in matches if match.end == longest]
            place = longest or place + 1
        return found

    def _at(self, words: list[str], tokens: list[Token], place: int) -> list[Match]:
        return [
            Match(name, place, place + len(phrase))
            for phrase, name in self._by_first.get(words[place], ())
            if tuple(words[place : place + len(phrase)]) == phrase
            and tokens[place].sentence == tokens[place + len(phrase) - 1].sentence
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """The parsed lexicon."""

    generic: frozenset[Phrase]
    concepts: PhraseIndex
    parents: Mapping[str, frozenset[str]]
    names: Mapping[Phrase, tuple[str, ...]]
    """a concept's phrase: all phrases of the concept"""
    modalities: PhraseIndex
    weak_modalities: PhraseIndex
    """words that say a kind of image in its own captions, and that captions of others may hold too"""
    organs: PhraseIndex
    containing: Mapping[str, frozenset[str]]
    implied: Mapping[str, str]
    acquisition: PhraseIndex
    views: PhraseIndex
    sides: PhraseIndex
    history: PhraseIndex
    severity: PhraseIndex


def stems(text: str) -> Phrase:
    """Return a text's words as stems."""
    return tuple(stem(word) for word in normal_words(text) if word[0].isalnum())


@cache
def load_lexicon() -> Lexicon:
    """Return the shipped lexicon."""
    content: dict[str, Any] = read_yaml(Path(__file__).with_name("lexicon.yaml"))
    findings, organs = content["findings"], content["organs"]
    generic = {word: [word] for word in content["generic"]}
    named = {name: [name, *value.get("also", ())] for name, value in findings.items()}
    return Lexicon(
        generic=frozenset(stems(word) for word in content["generic"]),
        concepts=PhraseIndex({**generic, **named}),
        parents={name: frozenset(value.get("is", ())) for name, value in findings.items()},
        names={stems(text): tuple(texts) for texts in named.values() for text in texts},
        modalities=PhraseIndex(content["modalities"]),
        weak_modalities=PhraseIndex(content["weak_modalities"]),
        organs=PhraseIndex({name: [name, *value.get("also", ())] for name, value in organs.items()}),
        containing={name: _closure(name, organs) for name in organs},
        implied=content["implied"],
        acquisition=_words(content["acquisition"]),
        views=PhraseIndex(content["views"]),
        sides=_words(content["sides"]),
        history=_words(content["history"]),
        severity=_words(content["severity"]),
    )


def _closure(name: str, organs: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Return an organ and all that it lies in."""
    found, waiting = {name}, [name]
    while waiting:
        for outer in organs[waiting.pop()].get("in", ()):
            if outer not in found:
                found.add(outer)
                waiting.append(outer)
    return frozenset(found)


def _words(texts: Iterable[str]) -> PhraseIndex:
    return PhraseIndex({text: [text] for text in texts})
