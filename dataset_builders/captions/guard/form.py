"""The form of a caption: length, language, traces of the question, repetition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

from dataset_builders.captions.guard.codes import GuardCode, GuardConfig, Refusal
from dataset_builders.captions.guard.text import words_of
from dataset_builders.figures.language import caption_language

_LEAKS = re.compile(
    r"\bas an ai\b|language model|\b(?:here (?:is|are)|sure|certainly|of course)\b.{0,40}(?:caption|:)|\bcaptions?\b|"
    r"\binstructions?\b|\bprompt\b|\bfacts?\b|must state|json|[{}<>]|```|\*\*|^#|\[[^\]]*\]|\\n|https?://|@|"
    r"^\s*(?:user|assistant|system|answer|output|response|example|note|input|title|description|label)\s*\d*\s*:|"
    r"\bdoes not say\b|\bin no fact\b|"
    r"\bplaceholder\b|\binsert\b|\b(?:image type|body part|known facts?|word limit|also called)\b\s*:?|\bdataset\b|"
    r"\bthe (?:above|following|given|provided)\b|^\s*[\"'“]|\bxxx\b|lorem ipsum|\btoken\b|\bclass(?:ified)? label\b|"
    r"^\s*(?:[-*•]|\d+[.)])\s",
    re.I | re.M,
)
_NOT_CAPTIONS = re.compile(
    r"\?|\b(?:sorry|i can(?:not|'t)|i am unable|i'm unable|unable to|i (?:do not|don't)|please|"
    r"you (?:should|can|may|must)|should be|recommend\w*|consult|advis\w*|suggest(?:ed)? (?:that|further)|"
    r"further (?:evaluation|imaging|work|test)\w*|seek|see a doctor|let me|let us|let's|thank you|hope this|"
    r"in conclusion|overall,|diagnosis is made by|is (?:a|an) (?:type|form|kind|common|imaging technique|condition|"
    r"disease) (?:of|that|in|which)|i (?:see|think|would|have)|we (?:can|see|should|recommend)|consider\b|correlat\w+|"
    r"must be|needs? to|is used to|are used to|refers to|can be caused|is caused by|todo|click|procedure|"
    r"also (?:known|referred|called)|can occur|which can|occurs when|is when|avoid|is performed|known as|"
    r"it is important|important to|this type of|commonly used|is characterized)",
    re.I,
)
_CUT_OFF = re.compile(
    r"(?:\b(?:the|a|an|of|with|and|or|in|on|to|for|by|is|are|that|which|showing|as|no|without|this|these|its|from|"
    r"between|into)|[,:;(–-])\s*\.*\s*$",
    re.I,
)
# Half of the words of plain English sentences are such words; labels such as "Chest X-ray: edema" have fewer.
_ENGLISH = words_of(
    "a an the of with without and or in on at to for from by no not is are was were this that there which shows "
    "showing shown seen image scan view"
)
_ENOUGH_ENGLISH = 0.25
_LETTER = re.compile(r"[^\W\d_]")


@lru_cache(maxsize=50_000)
def num_tokens(text: str) -> int:
    """Return how many tokens CLIP's tokenizer makes of a text, start and end included."""
    return len(_tokenizer().encode(text)) + 2


def check_form(text: str, accepted: Sequence[str], config: GuardConfig) -> Iterator[Refusal]:
    """Yield what is wrong with a caption before its content is looked at."""
    words = re.findall(r"\w[\w'&-]*", text)
    if len(words) < config.min_words:
        yield Refusal(GuardCode.TOO_SHORT, f"{len(words)} words; allowed: {config.min_words} or more")
    tokens = num_tokens(text)
    if tokens > config.max_tokens:
        yield Refusal(GuardCode.TOO_LONG, f"{tokens} tokens; allowed: {config.max_tokens}")
    if leak := _LEAKS.search(text):
        yield Refusal(GuardCode.PROMPT_LEAK, f"holds {leak.group(0).strip()!r}")
    if found := _NOT_CAPTIONS.search(text):
        yield Refusal(GuardCode.NOT_A_CAPTION, f"holds {found.group(0)!r}")
    elif _CUT_OFF.search(text):
        yield Refusal(GuardCode.NOT_A_CAPTION, "ends in the middle of a sentence")
    yield from _language(text, words, config)
    yield from check_repetition(text, accepted, config)


def check_repetition(text: str, accepted: Sequence[str], config: GuardConfig) -> Iterator[Refusal]:
    """Yield a refusal where a text is nearly one that was accepted."""
    own = _trigrams(text)
    for other in accepted:
        theirs = _trigrams(other)
        share = len(own & theirs) / max(1, len(own | theirs))
        if share >= config.near_duplicate:
            yield Refusal(GuardCode.DUPLICATE, f"shares {share:.2f} of its trigrams with {other!r}")
            return


def _language(text: str, words: Sequence[str], config: GuardConfig) -> Iterator[Refusal]:
    letters = _LETTER.findall(text)
    foreign = sum(not letter.isascii() for letter in letters)
    if letters and foreign > 0.1 * len(letters):
        yield Refusal(GuardCode.LANGUAGE, f"{foreign} of {len(letters)} letters are of another script")
        return
    if len(words) >= config.min_words:
        english = sum(word.lower() in _ENGLISH for word in words)
        found = "" if "en" in config.languages and english >= _ENOUGH_ENGLISH * len(words) else caption_language(text)
        if found and found not in config.languages:
            yield Refusal(GuardCode.LANGUAGE, f"reads as {found!r}; allowed: {', '.join(config.languages)}")


@lru_cache(maxsize=10_000)
def _trigrams(text: str) -> frozenset[str]:
    plain = " ".join(re.findall(r"\w+", text.lower()))
    return frozenset(plain[place : place + 3] for place in range(max(1, len(plain) - 2)))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
