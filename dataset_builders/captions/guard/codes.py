"""What the guard refuses captions for, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clipmed.errors import ConfigError


class GuardCode(StrEnum):
    """Why a caption is refused."""

    FINDING_MISSING = "finding_missing"  # a finding that is present is not stated, or denied, or only supposed
    FINDING_ABSENT = "finding_absent"  # states what is known to be absent
    FINDING_UNKNOWN = "finding_unknown"  # states a finding, a grade or a stain that no fact supports
    MODALITY_MISSING = "modality_missing"  # does not say what kind of image it is
    MODALITY_WRONG = "modality_wrong"  # says another kind of image
    ORGAN_WRONG = "organ_wrong"  # names another part of the body
    MEASUREMENT = "measurement"  # holds a size, a count or another number
    SIDE = "side"  # holds a side, a place or a view that no fact supports
    HISTORY = "history"  # speaks of the patient: age, sex, symptoms, treatment, follow-up
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    LANGUAGE = "language"
    DUPLICATE = "duplicate"  # nearly the same as an accepted caption
    PROMPT_LEAK = "prompt_leak"  # holds traces of the question, or marks of a data format
    NOT_A_CAPTION = "not_a_caption"  # a question, advice, an apology, a list


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason to refuse a caption: its code, and what was found."""

    code: GuardCode
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """What a caption must be."""

    max_tokens: int = 77
    """most tokens of CLIP's tokenizer, start and end included: the context of most CLIP models"""
    min_words: int = 2
    """fewest words: less cannot say a kind of image and a finding"""
    languages: tuple[str, ...] = ("en",)
    """languages to accept, as ISO 639-1 codes; the rules about content are English"""
    near_duplicate: float = 0.85
    """a caption is refused if it shares this share of its character trigrams with an accepted one (Jaccard)"""

    def __post_init__(self) -> None:
        if self.max_tokens < 8 or self.min_words < 1:
            raise ConfigError(f"max_tokens={self.max_tokens}, min_words={self.min_words}; allowed: at least 8 and 1")
        if not 0 < self.near_duplicate <= 1:
            raise ConfigError(f"near_duplicate: got {self.near_duplicate}; allowed: above 0, up to 1")
