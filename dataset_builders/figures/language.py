"""The language of a caption, told by a naive Bayes model over byte n-grams (py3langid; Lui & Baldwin, ACL 2012)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

# Without Latin: it is the model's guess for English captions full of anatomy and species, and no article is in it.
LANGUAGES = (
    *("en", "ar", "bg", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it", "ja"),
    *("ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "th", "tr", "uk", "vi", "zh"),
)
MIN_BYTES = 20
# Most articles are in English: less speaks for it than for another language.
MIN_CONFIDENCE = 0.5
MIN_CONFIDENCE_ENGLISH = 0.15
# Where the first characters are surely English, no more is read.
GLANCE_CHARS, READ_CHARS = 80, 400
MIN_CONFIDENCE_GLANCE = 0.7


def caption_language(text: str) -> str:
    """Return the ISO 639-1 code of a caption's language; "" where it has too few letters, or the model is unsure.

    Only the first 400 characters are read, and of what is English by the first 80, those. Letters count by their UTF-8
    bytes, since an ideograph says more than one letter of an alphabet.

    >>> caption_language("Radiographie thoracique de face montrant de multiples opacités"), caption_language("CT")
    ('fr', '')
    """
    glance, start = text[:GLANCE_CHARS], text[:READ_CHARS]
    if _has_letters(glance) and len(start) > len(glance):
        language, confidence = _identifier().classify(glance)
        if language == "en" and confidence >= MIN_CONFIDENCE_GLANCE:
            return "en"
    if not _has_letters(start):
        return ""
    language, confidence = _identifier().classify(start)
    enough = MIN_CONFIDENCE_ENGLISH if language == "en" else MIN_CONFIDENCE
    return str(language) if confidence >= enough else ""


def _has_letters(text: str) -> bool:
    return len("".join(filter(str.isalpha, text)).encode()) >= MIN_BYTES


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """The model, restricted to our languages. It is a numpy archive inside the package, read without pickle."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    identifier.nb_ptc = np.ascontiguousarray(identifier.nb_ptc)  # features are read by rows
    return identifier
