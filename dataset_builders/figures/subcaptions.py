"""The parts of a compound figure's caption: "(A) … (B) …" and its kin, each as a text that stands by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.prose import expand_letters, sentence_spans

_DASH = r"[-‐-―−~]"
_GROUP = rf"[A-Za-z](?:\s?(?:{_DASH}|,|&|/|\band\b|,\s?and\b)\s?[A-Za-z](?![A-Za-z]))*"
# In the order in which they are believed: parentheses, then a letter with a mark behind it.
_STYLES = (
    re.compile(rf"(?:(?<!\w)|(?<=[a-z])(?=\([A-Z]))\((?:[Pp]anels?\s)?\s?({_GROUP})\s?[.:]?\s?\)(?!\w)"),
    re.compile(rf"(?:(?<=^)|(?<=[.;:,]\s)|(?<=\s))({_GROUP})\)(?=[\s,.:])"),
    re.compile(rf"(?:(?<=^)|(?<=[.;:]\s))((?:[Pp]anels?\s)?{_GROUP})[:.](?=\s)"),
    re.compile(rf"(?:(?<=^)|(?<=[.;]\s))([Pp]anels?\s{_GROUP})(?=\s)"),
    re.compile(rf"(?:(?<=^)|(?<=[.;]\s))([A-Z](?:\s?(?:{_DASH}|&|and)\s?[A-Z])*),(?=\s)"),
)
_DANGLING = re.compile(r"(?:^|(?<=[.;:]\s))[Pp]anels?\s*$")
_PANEL_WORD = re.compile(r"^[Pp]anels?\s")
# A letter behind one of these is part of a name or refers to another figure.
_NAME_BEFORE = re.compile(
    r"(?:\b(?:vitamins?|hepatitis|groups?|types?|class|classes|stages?|grade|influenza|factors?|protein|phase|arm|patients?|"
    r"cases?|strains?|clones?|equations?|tables?|sections?|appendix|figures?|(?:eqs?|figs?|refs?)\.?)\s?\d*\s?|\d)$",
    re.I,
)
_TAIL = re.compile(
    r"^(?:Scale\s?bars?|Bars?\b|Data\b|Values\b|Error bars?|Results? (?:are|is)|Abbreviations?|Asterisks?|See also|"
    r"Original magnification|\*+\s?[Pp]\b|[Pp]\s?[<=>≤]|[Nn]\s?=|NS\b|n\.s\.|Statistical|Significan\w+|"
    r"All (?:images|panels|data|scale)|Reprinted|Reproduced|Adapted|Modified|Courtesy|Copyright|©)"
)
_TRAILING_AFTER = re.compile(r"\s*(?:[.;,)]|and\b|or\b|$)")
_LEADING_BEFORE = re.compile(r"(?:^|[.;:!?]\s*|[.;:!?][\"”’)]\s*)$")
_MAX_HOLES = 1
_SURE, _UNSURE = 0.9, 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcaption:
    """One part of a caption: the panels' letters in capitals, the text with what goes before all parts, and its span.

    `start` and `end` are the part's own characters in the caption, its marker included; `confidence` is from 0 to 1.
    """

    letters: tuple[str, ...]
    text: str
    start: int
    end: int
    confidence: float


class CaptionSplitter(Protocol):
    """Cuts captions into the parts that belong to panels."""

    name: str

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts, in the caption's order; none where it has no such structure."""
        ...


@dataclass(frozen=True, slots=True)
class _Marker:
    """The letters that begin or end a part, and where they stand."""

    letters: tuple[str, ...]
    start: int
    end: int


class RuleSplitter:
    """Parts by the markers that authors write: letters from A on, each once, in one style."""

    name = "rules"

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts, in the caption's order; none where it has no such structure."""
        for style in _STYLES:
            markers = _run(_markers(style, caption))
            if len(markers) > 1:
                return _parts(caption, markers)
        return []


def open_splitter(config: PanelConfig) -> CaptionSplitter:
    """Return the splitter that a config names."""
    if config.splitter == "llm":
        from dataset_builders.figures.llm_splitter import FallbackSplitter, LlmSplitter

        return FallbackSplitter(RuleSplitter(), LlmSplitter(config.llm))
    return RuleSplitter()


def _markers(style: re.Pattern[str], caption: str) -> Iterator[_Marker]:
    for match in style.finditer(caption):
        letters = tuple(expand_letters(_PANEL_WORD.sub("", match.group(1))))
        if letters and not _NAME_BEFORE.search(caption[: match.start()].rstrip("( ")[-24:] + " "):
            yield _Marker(letters, match.start(), match.end())


def _run(markers: Iterator[_Marker]) -> list[_Marker]:
    """Return the markers that run from A upwards, each letter once; later ones of a letter refer back to it."""
    kept: list[_Marker] = []
    last = ord("A") - 1
    for marker in markers:
        codes = [ord(letter) for letter in marker.letters]
        if last < codes[0] <= last + 1 + (_MAX_HOLES if kept else 0) and codes == sorted(set(codes)):
            kept.append(marker)
            last = codes[-1]
    return kept


def _parts(caption: str, markers: Sequence[_Marker]) -> list[Subcaption]:
    letters = [letter for marker in markers for letter in marker.letters]
    whole = ord(letters[-1]) - ord("A") + 1 == len(letters)
    trailing = _is_trailing(caption, markers)
    spans = _trailing_spans(caption, markers) if trailing else _leading_spans(caption, markers)
    preamble = "" if trailing else caption[: spans[0][0]].strip()
    found = []
    for marker, (start, end) in zip(markers, spans, strict=True):
        before = caption[start : marker.start] if trailing else ""
        own = " ".join((before + caption[marker.end : end]).split()).strip(" ;,:")
        text = " ".join(filter(None, (preamble, own)))
        if any(character.isalnum() for character in own):
            confidence = _SURE if whole else _UNSURE
            found.append(Subcaption(letters=marker.letters, text=text, start=start, end=end, confidence=confidence))
    return found if len(found) > 1 else []


def _is_trailing(caption: str, markers: Sequence[_Marker]) -> bool:
    """Whether the markers stand behind what they mark: "before (A) and after (B) treatment"."""
    votes = 0
    for marker in markers:
        leads = bool(_LEADING_BEFORE.search(caption[: marker.start]))
        follows = bool(_TRAILING_AFTER.match(caption, marker.end))
        votes += int(follows) - int(leads)
    return votes > 0 and markers[0].start > 0


def _leading_spans(caption: str, markers: Sequence[_Marker]) -> list[tuple[int, int]]:
    """From each marker to the next; the last part ends before what is said of all."""
    starts = [_with_its_word(caption, marker.start) for marker in markers]
    last = caption[starts[-1] :]
    end = len(caption)
    for start, _ in sentence_spans(last)[1:]:
        if _TAIL.match(last[start:].lstrip("([")):
            end = starts[-1] + start
            break
    return list(zip(starts, [*starts[1:], end], strict=True))


def _with_its_word(caption: str, start: int) -> int:
    """Where the word "Panel" before a marker begins; the marker's own start where there is none."""
    found = _DANGLING.search(caption[:start])
    return found.start() if found else start


def _trailing_spans(caption: str, markers: Sequence[_Marker]) -> list[tuple[int, int]]:
    """From the end of the marker before, or of the sentence before, to the marker; the last part takes its sentence."""
    spans: list[tuple[int, int]] = []
    begin = 0
    ends = [end for _, end in sentence_spans(caption)]
    for marker in markers:
        inside = [end for end in ends if begin < end <= marker.start]
        spans.append((inside[-1] if inside and not spans else begin, marker.end))
        begin = marker.end
    start, _ = spans[-1]
    spans[-1] = (start, next((end for end in ends if end >= markers[-1].end), len(caption)))
    return spans
