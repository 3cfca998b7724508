"""Sentences and panel letters in running text."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])[\])”’\"']*\s+(?=[\[(“‘\"']*[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Figs?|Eqs?|Refs?|Nos?|Dr|al|vs|etc|ca|cf|approx|e\.g|i\.e|Suppl|Supp|Tab|Ext)|\b[A-Z])\.$"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence; abbreviations such as "Fig." and initials do not end one."""
    spans = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[start : match.start()]):
            spans.append((start, match.end()))
            start = match.end()
    spans.append((start, len(text)))
    return spans


def expand_letters(text: str) -> list[str]:
    """Return the upper-case letters of "A", "A, C", "a–c" or "B and D"; ranges are filled.

    >>> expand_letters("a–c, E")
    ['A', 'B', 'C', 'E']
    """
    letters: list[str] = []
    for part in re.split(r",|&|/|\band\b", text):
        ends = [end.upper() for end in re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", part)]
        if len(ends) == 2 and ends[0] <= ends[1]:
            letters += [chr(code) for code in range(ord(ends[0]), ord(ends[1]) + 1)]
        else:
            letters += ends
    return letters
