"""Which captions an image gets: a fixed, varied choice from a bank, decided by the image's key."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipmed.errors import ConfigError
from clipmed.records import Caption
from dataset_builders.captions.bank import CONTEXT_PLACEHOLDERS, TemplateBank
from dataset_builders.captions.facts import CaptionFacts, Finding, without_article

DEFAULT_NUMBER = 5
_MOST_DENIED = 2  # findings that one caption denies, where nothing was found
_SLOT = re.compile(r"(?:\b([Aa])n? )?\{(\w+)\}")
# A vowel letter that is spoken as a consonant ("a unilateral …", "a urothelial …", "a European …").
_SPOKEN_CONSONANT = re.compile(r"(?:uni(?!n|m|d)|us[eu]|ut[ei]|ur[eio]|eu|one\b|once\b)")
_SPOKEN_AS_WORD = frozenset({"SPECT", "MIP", "LASER", "RADAR"})
_VOWEL_LETTERS = frozenset("AEFHILMNORSX")


@dataclass(frozen=True, slots=True)
class _Words:
    modalities: list[str]
    findings: list[str]
    known: Mapping[str, str]
    """placeholder: words, of what is known besides"""


def captions_for(
    facts: CaptionFacts, bank: TemplateBank, key: str, number: int = DEFAULT_NUMBER
) -> tuple[Caption, ...]:
    """Return up to `number` different captions that state the facts.

    Every finding that is present is stated, by the bank's phrases or by its own names. Where none is, up to two of
    those that are known to be absent are denied. The choice depends on the key, the facts and the bank alone.
    Templates come first, so that captions differ in their sentence and not only in a word; fewer captions come back
    only where the bank has no more.

    Args:
        facts: what is known of the image.
        bank: the wording.
        key: the sample's key.
        number: how many captions.
    """
    if number < 1:
        raise ConfigError(f"number of captions: got {number}; allowed: 1 or more")
    known = {name: words for name, words in (("body_part", facts.body_part), ("view", facts.view)) if words}
    findings = _finding_phrases(facts, bank, known, key)
    words = _Words(modalities=bank.modality_words(facts.modality), findings=findings or [""], known=known)
    templates = _usable(bank.sentences(facts.modality, "finding" if findings else "plain"), known)
    texts = list(itertools.islice(_unique(_sentences(templates, words, key)), number))
    return tuple(Caption(text=text, origin="template", model=bank.name, prompt=f"v{bank.version}") for text in texts)


def tidy(text: str) -> str:
    """Return the text with single spaces, a capital first letter and a full stop."""
    words = " ".join(text.split())
    words = re.sub(r" ([,.;:])", r"\1", words)
    capital = words[:1].upper() + words[1:]
    return capital if capital.endswith((".", "!", "?")) else capital + "."


def article(words: str) -> str:
    """Return "a" or "an", whichever goes before the words.

    >>> [article(words) for words in ("X-ray", "MRI scan", "CT scan", "unilateral effusion", "ulcer", "SPECT scan")]
    ['an', 'an', 'a', 'a', 'an', 'a']
    """
    first = re.split(r"[\s\-/&]", words.strip(), maxsplit=1)[0]
    if first.isupper():
        spelled = first not in _SPOKEN_AS_WORD
        return "an" if spelled and first[0] in _VOWEL_LETTERS else "a"
    lower = first.lower()
    return "an" if lower[:1] in set("aeiou") and not _SPOKEN_CONSONANT.match(lower) else "a"


def _sentences(templates: Sequence[str], words: _Words, key: str) -> Iterator[str]:
    """Yield every sentence that can be made, the templates in turn, each with its words in an order of the key's."""
    ranked = _ranked(templates, key)
    choices = [_ranked_pairs(words, f"{key}/{template}") for template in ranked]
    for turn in range(len(words.modalities) * len(words.findings)):
        for template, pairs in zip(ranked, choices, strict=True):
            modality, finding = pairs[turn]
            yield _fill(template, {**words.known, "modality": modality, "finding": finding})


def _ranked_pairs(words: _Words, key: str) -> list[tuple[str, str]]:
    findings = _ranked(words.findings, key)
    modalities = _ranked(words.modalities, key)
    # Diagonals first: neighbours differ in both words as long as they can.
    turns = range(len(modalities) * len(findings))
    diagonal = [(modalities[i % len(modalities)], findings[(i + i // len(modalities)) % len(findings)]) for i in turns]
    rest = itertools.product(modalities, findings)
    return list(dict.fromkeys((*diagonal, *rest)))


def _fill(template: str, values: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        words = values[match.group(2)]
        if not match.group(1):
            return words
        chosen = article(words)
        return f"{chosen.capitalize() if match.group(1) == 'A' else chosen} {words}"

    return tidy(_SLOT.sub(replace, template))


def _finding_phrases(facts: CaptionFacts, bank: TemplateBank, known: Mapping[str, str], key: str) -> list[str]:
    """Return phrases for all findings together: one finding's own, or several joined by commas and "and"."""
    lists = [_phrases(finding, facts.modality, bank, known) for finding in facts.present]
    if not lists:
        lists = [[f"no {without_article(finding.name)}"] for finding in _denied(facts, key)]
    if len(lists) < 2:
        return lists[0] if lists else []
    rows = itertools.zip_longest(*(_ranked(phrases, key) for phrases in lists))
    shortest = [phrases[0] for phrases in lists]
    return list(dict.fromkeys(_listed([phrase or shortest[i] for i, phrase in enumerate(row)]) for row in rows))


def _phrases(finding: Finding, modality: str, bank: TemplateBank, known: Mapping[str, str]) -> list[str]:
    phrases = bank.finding_words(modality, finding.class_id) or list(finding.names)
    for name, words in known.items():
        phrases = [phrase.replace(f"{{{name}}}", words) for phrase in phrases]
    return _usable(phrases, {})


def _denied(facts: CaptionFacts, key: str) -> list[Finding]:
    """Return absent findings for a caption to deny. That a negative class is absent says that something is there."""
    absent = {finding.name: finding for finding in facts.absent if not finding.is_negative}
    return [absent[name] for name in _ranked(list(absent), key)[:_MOST_DENIED]]


def _listed(phrases: Sequence[str]) -> str:
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _usable(texts: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return the texts whose placeholders of context are all known."""
    return [text for text in texts if all(name in known or f"{{{name}}}" not in text for name in CONTEXT_PLACEHOLDERS)]


def _ranked(texts: Sequence[str], key: str) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{key}\0{text}".encode()).digest())


def _unique(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text
