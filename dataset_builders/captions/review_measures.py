"""How varied captions are and how long: what the review page plots of a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

BIN_TOKENS = 5  # width of a histogram's bar
LAST_BIN = 75  # the last bar holds this many tokens and more: CLIP's text towers read 75 besides the two marks
_OPENING_WORDS = 3
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How much captions differ from each other.

    `similarity` is the mean, over all pairs, of the share of words that two captions have in common (Jaccard, 0 to 1);
    None for fewer than two. `repeated_openings` is the share of captions whose first three words begin another one
    too, `opening` the most frequent such beginning, and `opening_count` how many captions begin with it.
    """

    captions: int
    words: int
    distinct_words: int
    similarity: float | None
    repeated_openings: float
    opening: str
    opening_count: int


def measure_diversity(texts: Sequence[str]) -> Diversity:
    """Return the diversity of captions; equal texts should be given once."""
    cut = [_WORD.findall(text.casefold()) for text in texts]
    openings = Counter(" ".join(words[:_OPENING_WORDS]) for words in cut if words)
    opening, count = min(openings.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
    repeated = sum(number for number in openings.values() if number > 1)
    return Diversity(
        captions=len(texts),
        words=sum(map(len, cut)),
        distinct_words=len({word for words in cut for word in words}),
        similarity=_similarity([set(words) for words in cut]),
        repeated_openings=repeated / len(texts) if texts else 0.0,
        opening=opening if count > 1 else "",
        opening_count=count if count > 1 else 0,
    )


def length_histogram(texts: Sequence[str]) -> list[int]:
    """Return how many texts have 0-4, 5-9, … tokens; the last number is that of `LAST_BIN` and more."""
    counts = [0] * (LAST_BIN // BIN_TOKENS + 1)
    for text in texts:
        counts[min(count_tokens(text), LAST_BIN) // BIN_TOKENS] += 1
    return counts


@lru_cache(maxsize=4096)
def count_tokens(text: str) -> int:
    """Return how many tokens CLIP's byte-pair tokenizer makes of a text, without the marks of start and end."""
    return len(_tokenizer().encode(text))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _similarity(texts: Sequence[set[str]]) -> float | None:
    if len(texts) < 2:
        return None
    places = {word: place for place, word in enumerate(sorted(set().union(*texts)))}
    holds = np.zeros((len(texts), len(places)), np.float32)
    for row, words in enumerate(texts):
        holds[row, [places[word] for word in words]] = 1
    common = holds @ holds.T
    sizes = holds.sum(axis=1)
    union = np.maximum(sizes[:, None] + sizes[None, :] - common, 1)
    return float((common / union)[np.triu_indices(len(texts), 1)].mean())
