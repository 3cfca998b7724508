"""Which captions an image gets: a fixed, varied choice from a bank, decided by the image's key."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipmed.errors import ConfigError
from clipmed.records import Caption
from dataset_builders.captions.bank import TemplateBank

CONTEXT_FACTS = ("modality", "body_part")
SEPARATOR = "|"  # between the classes of a multi-label fact
DEFAULT_NUMBER = 5
_SLOT = re.compile(r"(?:\b([Aa])n? )?\{(\w+)\}")
# A vowel letter that is spoken as a consonant ("a unilateral …", "a urothelial …", "a European …").
_SPOKEN_CONSONANT = re.compile(r"(?:uni(?!n|m|d)|us[eu]|ut[ei]|ur[eio]|eu|one\b|once\b)")
_SPOKEN_AS_WORD = frozenset({"SPECT", "MIP", "LASER", "RADAR"})
_VOWEL_LETTERS = frozenset("AEFHILMNORSX")


@dataclass(frozen=True, slots=True)
class _Words:
    modalities: list[str]
    findings: list[str]
    body_part: str | None


def captions_for(
    facts: Mapping[str, str],
    bank: TemplateBank,
    key: str,
    number: int = DEFAULT_NUMBER,
    names: Mapping[str, str] | None = None,
) -> tuple[Caption, ...]:
    """Return up to `number` different captions that state the facts.

    The choice depends on the key, the facts and the bank alone. Templates come first, so that captions differ in
    their sentence and not only in a word; fewer captions come back only where the bank has no more.

    Args:
        facts: {"modality": …, "body_part": … where known, and task: class id} with a `|` between several classes.
        bank: the wording.
        key: the sample's key.
        number: how many captions.
        names: display name by task/class id or class id, for classes that the bank has no phrases for; the class id
            itself if missing.
    """
    if number < 1:
        raise ConfigError(f"number of captions: got {number}; allowed: 1 or more")
    modality, body_part = facts["modality"], facts.get("body_part")
    stated = [
        (task, class_id)
        for task, value in facts.items()
        for class_id in value.split(SEPARATOR)
        if task not in CONTEXT_FACTS and class_id
    ]
    words = _Words(
        modalities=bank.modality_words(modality),
        findings=_finding_phrases(stated, bank, facts, names or {}, key),
        body_part=body_part,
    )
    templates = _usable(bank.sentences(modality, "finding" if stated else "plain"), body_part)
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
            yield _fill(template, modality, finding, words.body_part)


def _ranked_pairs(words: _Words, key: str) -> list[tuple[str, str]]:
    findings = _ranked(words.findings, key)
    modalities = _ranked(words.modalities, key)
    # Diagonals first: neighbours differ in both words as long as they can.
    turns = range(len(modalities) * len(findings))
    diagonal = [(modalities[i % len(modalities)], findings[(i + i // len(modalities)) % len(findings)]) for i in turns]
    rest = itertools.product(modalities, findings)
    return list(dict.fromkeys((*diagonal, *rest)))


def _fill(template: str, modality: str, finding: str, body_part: str | None) -> str:
    values = {"modality": modality, "finding": finding, "body_part": body_part or ""}

    def replace(match: re.Match[str]) -> str:
        words = values[match.group(2)]
        if not match.group(1):
            return words
        chosen = article(words)
        return f"{chosen.capitalize() if match.group(1) == 'A' else chosen} {words}"

    return tidy(_SLOT.sub(replace, template))


def _finding_phrases(
    stated: Sequence[tuple[str, str]],
    bank: TemplateBank,
    facts: Mapping[str, str],
    names: Mapping[str, str],
    key: str,
) -> list[str]:
    """Return phrases for all stated classes together: one class's own, or several joined by commas and "and"."""
    body_part = facts.get("body_part")
    lists = []
    for task, class_id in stated:
        display_name = names.get(f"{task}/{class_id}") or names.get(class_id) or class_id
        phrases = bank.finding_words(facts["modality"], class_id, display_name)
        lists.append([phrase.replace("{body_part}", body_part or "") for phrase in _usable(phrases, body_part)])
    if len(lists) < 2:
        return lists[0] if lists else [""]
    rows = itertools.zip_longest(*(_ranked(phrases, key) for phrases in lists))
    shortest = [phrases[0] for phrases in lists]
    return list(dict.fromkeys(_listed([phrase or shortest[i] for i, phrase in enumerate(row)]) for row in rows))


def _listed(phrases: Sequence[str]) -> str:
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _usable(texts: Sequence[str], body_part: str | None) -> list[str]:
    return [text for text in texts if body_part or "{body_part}" not in text]


def _ranked(texts: Sequence[str], key: str) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{key}\0{text}".encode()).digest())


def _unique(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text
