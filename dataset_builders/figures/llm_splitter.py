"""Captions cut by a language model where rules find no structure; every answer is held to the caption's own words."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError
from dataset_builders.figures.config import LlmConfig
from dataset_builders.figures.subcaptions import CaptionSplitter, Subcaption

if TYPE_CHECKING:
    from openai import OpenAI

PROMPT_VERSION = "panels-1"
_PROMPT = (
    "You are given the caption of a scientific figure that has several panels. Say which words of the caption describe "
    "each panel. Answer with one JSON object and nothing else: its keys are the panels' capital letters, its values "
    "are copied from the caption word for word, without change. Answer {} if the caption does not tell panels apart."
)
_MENTIONS_PANELS = re.compile(
    r"\b(?:panels?|left|right|upper|lower|top|bottom|middle|first|second|third)\b|\([A-Ha-h]\)|\b[A-H][,.:]\s", re.I
)
_LETTER = re.compile(r"[A-Z]")
_CONFIDENCE = 0.7
_MAX_ANSWER_TOKENS = 1024
_KEY_VARIABLE = "OPENAI_API_KEY"


class LlmSplitter:
    """Asks a server that speaks OpenAI's chat protocol.

    A server that fails, or an answer that is not the caption's own words, leaves the caption whole: the figure is then
    not cut. `counts` says what became of the captions: split, whole (no panels told apart), refused, unreachable.
    """

    def __init__(self, config: LlmConfig) -> None:
        self.name = f"llm:{config.model}:{PROMPT_VERSION}"
        self._config = config
        self._client = _client(config)
        self.counts: Counter[str] = Counter()

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts that the model names, in the caption's order; none where its answer does not hold."""
        answer = self._ask(caption)
        if answer is None:
            self.counts["unreachable"] += 1
            return []
        found = parts_of_answer(answer, caption)
        self.counts["split" if found else "whole" if answer.strip() == "{}" else "refused"] += 1
        return found

    def _ask(self, caption: str) -> str | None:
        from openai import OpenAIError

        try:
            answer: Any = self._client.chat.completions.create(
                model=self._config.model,
                messages=[{"role": "system", "content": _PROMPT}, {"role": "user", "content": caption}],
                temperature=0.0,
                seed=0,
                max_tokens=_MAX_ANSWER_TOKENS,
                response_format={"type": "json_object"},
            )
            content = answer.choices[0].message.content
        except (OpenAIError, AttributeError, IndexError, TypeError, ValueError):
            return None  # out of reach, or not the protocol
        return content if isinstance(content, str) else None


class FallbackSplitter:
    """The rules where they find a structure; the model where they do not and the caption speaks of panels."""

    def __init__(self, rules: CaptionSplitter, model: CaptionSplitter) -> None:
        self.name = f"{rules.name}+{model.name}"
        self._rules = rules
        self._model = model

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts, in the caption's order; none where neither finds any."""
        found = self._rules.split(caption)
        return found if found or not _MENTIONS_PANELS.search(caption) else self._model.split(caption)


def parts_of_answer(answer: str, caption: str) -> list[Subcaption]:
    """Return the parts that an answer names if all of them hold: letters from A on, each a passage of the caption.

    White space apart, every passage must stand in the caption as it is, and no two may overlap. One that does not hold
    refuses the whole answer: what a model invents once it may have invented twice.
    """
    try:
        named = json.loads(answer)
    except (ValueError, RecursionError):
        return []
    if not isinstance(named, dict) or not 2 <= len(named) <= 26:
        return []
    found = []
    for letter, text in named.items():
        span = _find(text, caption) if isinstance(text, str) and _LETTER.fullmatch(letter) else None
        if span is None:
            return []
        own = " ".join(caption[span[0] : span[1]].split())
        found.append(Subcaption(letters=(letter,), text=own, start=span[0], end=span[1], confidence=_CONFIDENCE))
    found.sort(key=lambda part: part.start)
    letters = sorted(letter for part in found for letter in part.letters)
    from_a = letters == [chr(ord("A") + number) for number in range(len(letters))]
    apart = all(first.end <= second.start for first, second in itertools.pairwise(found))
    return found if from_a and apart else []


def _find(text: str, caption: str) -> tuple[int, int] | None:
    """Return where a passage stands in the caption, white space apart; None where it does not."""
    words = text.split()
    if not words:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), caption)
    return match.span() if match else None


def _client(config: LlmConfig) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise ConfigError("panels.splitter 'llm' needs the package openai: pip install 'clipmed[llm]'") from error
    key = os.environ.get(_KEY_VARIABLE) or "none"  # local servers take any
    return OpenAI(base_url=config.url, api_key=key, timeout=config.timeout_s, max_retries=config.retries)
