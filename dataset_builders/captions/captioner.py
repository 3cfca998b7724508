"""Captioners behind one interface: what is known of a subject goes in, candidate captions come out, unchecked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dataset_builders.captions.bank import TemplateBank
from dataset_builders.captions.facts import CaptionFacts, without_article
from dataset_builders.captions.pricing import Spent
from dataset_builders.captions.sampler import captions_for


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRequest:
    """What a captioner is asked: captions for one subject."""

    subject: str
    """what the captions are made for: facts:…, image:… or text:…"""
    facts: CaptionFacts
    """what is known; of a native text its modality alone"""
    number: int
    """how many captions are wanted"""
    attempt: int = 1
    """1, and one more each time that the captions of the last attempt were refused"""
    refused: tuple[str, ...] = ()
    """why captions of the last attempt were refused"""
    native: str | None = None
    """the text to rewrite"""
    read_image: Callable[[], bytes] | None = None
    """gives the stored JPEG of the image to describe"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionAnswer:
    """What a captioner gave: any number of texts, not checked by anything."""

    texts: tuple[str, ...]
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""
    """why no texts could be read from an answer that came"""


class Captioner(Protocol):
    """Makes captions. `name` and `prompt` say in the caption store who made them and from which wording."""

    @property
    def name(self) -> str:
        """The model or bank."""

    @property
    def prompt(self) -> str:
        """The version of the wording."""

    @property
    def guarded(self) -> bool:
        """Whether captions pass the guard; label words alone are no captions in its eyes."""

    async def captions(self, request: CaptionRequest) -> CaptionAnswer:
        """Return candidate captions."""

    def most(self, request: CaptionRequest) -> Spent:
        """Return what a request may cost at most."""

    async def close(self) -> None:
        """Let go of what the captioner holds."""


class _Free:
    """What costs nothing and holds nothing."""

    def most(self, _request: CaptionRequest) -> Spent:
        """Return nothing but the request itself."""
        return Spent(1)

    async def close(self) -> None:
        """Do nothing."""


class TemplateCaptioner(_Free):
    """Sentences of a template bank, chosen by the subject: no model, no network, the same every time."""

    guarded = True

    def __init__(self, bank: TemplateBank) -> None:
        self._bank = bank
        self.name = bank.name
        self.prompt = f"v{bank.version}"

    async def captions(self, request: CaptionRequest) -> CaptionAnswer:
        """Return up to the wanted number of template captions."""
        key = f"{request.subject}/{request.attempt}"
        found = captions_for(request.facts, self._bank, key, request.number)
        return CaptionAnswer(texts=tuple(caption.text for caption in found))


class WordsCaptioner(_Free):
    """The words of the label and nothing else, such as "glioma": what captions are to be measured against."""

    name = "words"
    prompt = "v1"
    guarded = False

    async def captions(self, request: CaptionRequest) -> CaptionAnswer:
        """Return one text: the display names without their article; the modality where nothing is stated."""
        words = [without_article(finding.name) for finding in request.facts.present]
        return CaptionAnswer(texts=(", ".join(words) or request.facts.modality,))
