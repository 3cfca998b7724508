"""The parts of a compound figure's caption: "(A) … (B) …" and its kin, each as a text that stands by itself."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataset_builders.figures.caption_markers import Marker, MarkerRun, best_run
from dataset_builders.figures.config import PanelConfig
from dataset_builders.figures.prose import sentence_spans

# Sentences that begin so at the end of a caption speak of all its panels.
_TAIL = re.compile(
    r"^[(\[]?(?:Scale\s?bars?|Scales?\b|Bars?\b|Data\b|Values\b|Error bars?|Results? (?:are|is|were)|Abbreviations?|"
    r"Asterisks?|See also|Original magnification|\*+\s?,?\s?[Pp]\b|[Pp]\s?[<=>≤]|[Nn]\s?=|NS\b|n\.s\.|Statistical|"
    r"Significan\w+|All (?:images|panels|data|scale)|Reprinted|Reproduced|Adapted|Modified|Courtesy|Copyright|©|DOI\b|"
    r"https?:|Means?\b|Images? (?:is|are|was|were) (?:from|reproduced|courtesy)|"
    r"(?=\w*[A-Z]\w*[A-Z])[\w/-]{2,10}(?:,\s|\s?=\s|:\s|\s?[—–]\s?|-\s|\sindicates?\s)[a-z])"
)
_LINK = re.compile(r"(?:[\s;,:.&]|(?:and|or)\b)+")
_LINK_END = re.compile(r"(?:[\s;,:&]|\b(?:and|or))+$")
_LINK_ENDS = tuple(" ;,:&dr")
_HOLED, _TRAILING = 0.65, 0.88


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcaption:
    """One part of a caption: the panels that it is of, the text with what is said of all, and its span.

    `letters` are capitals, with a number where the caption has one ("A", "B2"). Where the caption tells panels apart by
    their place alone there are none, and `place` is left, middle, right, top or bottom. `start` and `end` are the
    part's own characters in the caption, its marker included; what lies in no part is said of all. `confidence` is
    from 0 to 1.
    """

    letters: tuple[str, ...]
    text: str
    start: int
    end: int
    confidence: float
    place: str = ""


class CaptionSplitter(Protocol):
    """Cuts captions into the parts that belong to panels."""

    name: str

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts, in the caption's order; none where it has no such structure."""
        ...


class RuleSplitter:
    """Parts by the markers that authors write: letters from A on, each once, in one style; else left, right."""

    name = "rules"

    def split(self, caption: str) -> list[Subcaption]:
        """Return the parts, in the caption's order; none where it has no such structure."""
        run = best_run(caption)
        if run is None:
            return []
        found = _trailing(caption, run) if _is_trailing(caption, run) else _leading(caption, run)
        return found if len(found) > 1 else []


def open_splitter(config: PanelConfig) -> CaptionSplitter:
    """Return the splitter that a config names."""
    if config.splitter == "llm":
        from dataset_builders.figures.llm_splitter import FallbackSplitter, LlmSplitter

        return FallbackSplitter(RuleSplitter(), LlmSplitter(config.llm))
    return RuleSplitter()


def _is_trailing(caption: str, run: MarkerRun) -> bool:
    """Whether the markers stand behind what they mark: "before (A) and after (B) treatment".

    So do markers inside of sentences, one in each: "Axial views (A) show the mass. Coronal views (B) show its stalk.".
    """
    if run.markers[0].start == 0:
        return False
    if not any(marker.leads for marker in run.markers):
        ends = [end for _, end in sentence_spans(caption)]
        if len({bisect_right(ends, marker.start) for marker in run.markers}) == len(run.markers):
            return True
    return sum(int(marker.follows) - int(marker.leads) for marker in run.markers) > 0


def _part(
    run: MarkerRun, names: tuple[str, ...], texts: Sequence[str], span: tuple[int, int], trust: float
) -> Subcaption:
    return Subcaption(
        letters=() if run.are_places else names,
        text=" ".join(filter(None, texts)),
        start=span[0],
        end=span[1],
        confidence=trust * (_HOLED if run.holes else 1.0),
        place=names[0] if run.are_places else "",
    )


def _leading(caption: str, run: MarkerRun) -> list[Subcaption]:
    """Parts from each marker to the next; the last one ends before what is said of all."""
    cuts = sorted((*run.markers, *run.headers), key=lambda marker: marker.start)
    starts = [marker.start for marker in cuts]
    ends = [*starts[1:], _tail_start(caption, starts[-1], cuts[-1].end)]
    preamble = _clean(caption[: starts[0]], links=False)
    context: dict[str, str] = {}
    found = []
    for marker, start, end in zip(cuts, starts, ends, strict=True):
        own = _clean(f"{_note(marker)} {caption[marker.end : end]}")
        if marker in run.headers:
            context |= {name: " ".join(filter(None, (context.get(name), own))) for name in marker.names}
        elif own:
            texts = (preamble, context.get(marker.names[0], ""), own)
            found.append(_part(run, marker.names, texts, (start, end), run.trust))
    return found


def _tail_start(caption: str, start: int, marker_end: int) -> int:
    """Where the sentences begin, after the last part, that speak of all panels."""
    for begin, _ in sentence_spans(caption[start:])[1:]:
        if start + begin > marker_end and _TAIL.match(caption[start + begin :]):
            return start + begin
    return len(caption)


def _trailing(caption: str, run: MarkerRun) -> list[Subcaption]:
    """Parts from the marker or sentence before to the marker; what follows a sentence's last marker is of them all.

    A sentence with one marker is the part as a whole, with the sentences up to the next marked one that explain it.
    """
    sentences = _sentences(caption, {marker.start for marker in run.markers})
    ends = [end for _, end in sentences]
    groups: dict[int, list[Marker]] = {}
    for marker in run.markers:
        groups.setdefault(min(bisect_right(ends, marker.start), len(ends) - 1), []).append(marker)
    preamble = _clean(caption[: sentences[min(groups)][0]], links=False)
    found: list[Subcaption] = []
    for index, following in zip(groups, [*list(groups)[1:], None], strict=True):
        markers, (begin, end) = groups[index], sentences[index]
        if len(markers) == 1:
            stop = end if following is None else sentences[following][0]
            own = _clean(f"{caption[begin : markers[0].start]} {_note(markers[0])} {caption[markers[0].end : stop]}")
            if own:
                found.append(_part(run, markers[0].names, (preamble, own), (begin, stop), run.trust * _TRAILING))
        else:
            found += _of_sentence(caption, run, markers, (begin, end), preamble)
    return found


def _of_sentence(
    caption: str, run: MarkerRun, markers: Sequence[Marker], sentence: tuple[int, int], preamble: str
) -> Iterator[Subcaption]:
    """Yield the parts of a sentence with several markers: "Views of the heart: axial (A) and coronal (B) CT."."""
    begin, end = sentence
    colon = caption.rfind(": ", begin, markers[0].start) + 1
    if caption.count("(", colon, markers[0].start) != caption.count(")", colon, markers[0].start):
        colon = 0  # inside of brackets
    head, rest = _clean(caption[begin:colon], links=False), _clean(caption[markers[-1].end : end])
    begin = max(begin, colon)
    for marker in markers:
        own = _clean(f"{caption[begin : marker.start]} {_note(marker)}")
        if own:
            yield _part(run, marker.names, (preamble, head, own, rest), (begin, marker.end), run.trust * _TRAILING)
        begin = marker.end


def _sentences(caption: str, markers: set[int]) -> list[tuple[int, int]]:
    """Return the spans of sentences, none of which begins with one of the markers: "A. sieberi sp. n. (B)" is one."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(caption):
        if spans and start in markers:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _note(marker: Marker) -> str:
    return f"({marker.note})" if marker.note else ""


def _clean(text: str, *, links: bool = True) -> str:
    """Return text with single spaces, without the commas and "and" that tied it to what stood around it."""
    text = " ".join(text.split())
    if links:
        for _ in range(2):
            start = _LINK.match(text)
            text = text[start.end() :] if start else text
            text = _LINK_END.sub("", text) if text.endswith(_LINK_ENDS) else text
    return text
