"""Prompts as versioned data: what a model is told, what each fact becomes, and examples of good answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.configuration import from_dict, nearest, read_yaml
from clipmed.errors import ConfigError
from clipmed.records import Modality, canonical_json
from dataset_builders.captions.bank import fields_of
from dataset_builders.captions.captioner import CaptionRequest
from dataset_builders.captions.facts import CaptionFacts, Finding

PROMPTS = Path(__file__).parent / "prompts"
SHIPPED = {"facts": "facts", "image": "image", "text": "rewrite"}
_WORDS_PER_TOKEN = 0.6  # medical English in CLIP's vocabulary takes 1.5 to 1.7 tokens a word
_DIGEST_CHARS = 8
_REQUEST_FIELDS = ("known", "native", "number", "max_words")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question and its answer, shown to the model before the real question."""

    user: str
    """the question, as `request` words it"""
    captions: tuple[str, ...]
    """the captions of the answer"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactLines:
    """What each fact becomes: one line of the question, with {words} for the fact."""

    modality: str = "Image type: {words}"
    body_part: str = "Body part: {words}"
    view: str = "View: {words}"
    present: str = "Must state: {words}"
    negative: str = "Must state that nothing was found: {words}"
    absent: str = "Not present, do not claim: {words}"
    detail: str = "May state, {name}: {words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The wording of a question to a model."""

    name: str
    """the prompt's name, that of its file"""
    version: int
    """raised with every change of meaning; the digest of the content tells smaller ones apart"""
    about: Literal["facts", "image", "text"]
    """what captions are made for with it"""
    system: str
    """the standing instruction"""
    request: str
    """the question, with {known} or {native}, {number} and {max_words}"""
    retry: str = "Captions of your last answer were refused, because: {reasons}. Write others that avoid this."
    """added to the question after a refusal, with {reasons}"""
    lines: FactLines = field(default_factory=FactLines)
    """the wording of {known}"""
    modalities: dict[str, str] = field(default_factory=dict)
    """modality: what an image of it is called"""
    max_synonyms: int = 6
    """other names given of each finding"""
    max_absent: int = 12
    """absent findings named; what is left out the guard still refuses"""
    examples: tuple[Example, ...] = ()
    """shown before the question"""

    def __post_init__(self) -> None:
        needed = {"number", "native" if self.about == "text" else "known"}
        found = set(fields_of(self.request))
        if missing := sorted(needed - found):
            raise ConfigError(f"prompt {self.name}: request lacks {{{missing[0]}}}; add the placeholder")
        if unknown := sorted(found - set(_REQUEST_FIELDS)):
            raise ConfigError(
                f"prompt {self.name}: unknown placeholder {{{unknown[0]}}} in request; allowed: "
                f"{', '.join(_REQUEST_FIELDS)}"
            )
        for modality in self.modalities:
            if modality not in set(Modality):
                raise ConfigError(
                    f"prompt {self.name}: unknown modality {modality!r}{nearest(modality, list(Modality))}"
                )

    def question(self, request: CaptionRequest, max_tokens: int) -> str:
        """Return the words of the user's turn."""
        text = self.request.format(
            known=self.known(request.facts),
            native=request.native or "",
            number=request.number,
            max_words=int(max_tokens * _WORDS_PER_TOKEN),
        ).strip()
        reasons = "; ".join(request.refused)
        return f"{text}\n\n{self.retry.format(reasons=reasons)}" if reasons else text

    def known(self, facts: CaptionFacts) -> str:
        """Return the facts, one a line."""
        lines = [self.lines.modality.format(words=self.modalities.get(facts.modality, facts.modality))]
        if facts.body_part:
            lines.append(self.lines.body_part.format(words=facts.body_part))
        if facts.view:
            lines.append(self.lines.view.format(words=facts.view))
        for finding in facts.present:
            line = self.lines.negative if finding.is_negative else self.lines.present
            lines.append(line.format(words=self._names(finding)))
        absent = [finding.name for finding in facts.absent if not finding.is_negative][: self.max_absent]
        if absent:
            lines.append(self.lines.absent.format(words=", ".join(absent)))
        lines += [self.lines.detail.format(name=name.replace("_", " "), words=words) for name, words in facts.details]
        return "\n".join(lines)

    def _names(self, finding: Finding) -> str:
        others = finding.synonyms[: self.max_synonyms]
        return f"{finding.name} (also called: {', '.join(others)})" if others else finding.name


def load_prompt(name: str) -> tuple[Prompt, str]:
    """Read a shipped prompt by its name, or any prompt by the path of its YAML file.

    Returns:
        The prompt, and its version as the caption store keeps it: name, version and a digest of the whole content.

    Raises:
        ConfigError: no such prompt, or a value of it that is not allowed.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROMPTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(path.stem for path in PROMPTS.glob("*.yaml"))
        raise ConfigError(
            f"no prompt {name!r}{nearest(name, known)} Shipped: {', '.join(known)}; or give the path of a YAML file"
        )
    content = read_yaml(path)
    prompt = from_dict(Prompt, content, str(path))
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:_DIGEST_CHARS]
    return prompt, f"{prompt.name}-v{prompt.version}-{digest}"
