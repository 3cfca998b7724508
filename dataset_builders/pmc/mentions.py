"""The paragraphs that cite a figure, and the panels that they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from dataset_builders.figures.prose import expand_letters, sentence_spans
from dataset_builders.pmc.config import MentionConfig
from dataset_builders.pmc.xmltext import child_of, local_name, marked_text, text_of

# A citation's paragraph is the nearest one; cells and floats between the two cut it off.
_HOLDERS = frozenset({"p", "td", "th", "fig", "table-wrap"})
_DASH = r"[-‐-―−~]"
_RANGE_GAP = re.compile(
    rf"\s*[A-Za-z]?\s*\)?\s*(?:{_DASH}|to|through)\s*(?:(?:supplementary\s+)?fig(?:ure)?s?\.?\s*)?\(?\s*", re.I
)
# No figure has a number of ten digits; without a bound, long ones would take time by their square.
_NUMBER_RANGE = re.compile(rf"(?<!\d)(\d{{1,9}})\s*[A-Za-z]?\s*(?:{_DASH}|to|through)\s*(\d{{1,9}})(?!\d)")
_LAST_NUMBER = re.compile(r"(?<!\d)(\d{1,9})\D*$")
_LETTERS = rf"[A-Za-z](?:\s*(?:{_DASH}|,|&|/|and|to)\s*[A-Za-z](?![A-Za-z]))*"
_CAPITALS = _LETTERS.replace("[A-Za-z]", "[A-Z]", 1)  # behind a space, "a" is a word
_PANELS = re.compile(rf"(?<!\d)(\d+)(?:\s?\(({_LETTERS})\)|({_LETTERS})(?![A-Za-z])|\s({_CAPITALS})(?![A-Za-z]))")
_PANEL_TEXT_AFTER = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A paragraph that cites a figure: its whole text, where in it the citations begin, and the panels they name.

    `paragraph` is the paragraph's id, or `p<n>`, the n-th citing paragraph of the article, where it has none.
    """

    paragraph: str
    text: str
    positions: tuple[int, ...]
    panels: tuple[str, ...]


@dataclass(slots=True)
class _Label:
    """A figure's label as kind and number: "Figure 2—supplement 3." is ("figure 2—supplement ", 3)."""

    kind: str
    number: int | None


def find_mentions(
    figures: Sequence[etree._Element], targets: dict[str, list[int]], xrefs: Sequence[etree._Element]
) -> dict[int, tuple[Mention, ...]]:
    """Return the mentions of each figure, by its number in `figures`, in document order and each text once.

    Args:
        figures: the figure elements, in document order.
        targets: the numbers of the figures that an id stands for.
        xrefs: all cross-references of the article.
    """
    labels = [_label(element) for element in figures]
    paragraphs: dict[etree._Element, list[etree._Element]] = {}
    for xref in xrefs:
        if not targets.keys().isdisjoint(xref.get("rid", "").split()):
            holder = xref.getparent()
            while holder is not None and local_name(holder) not in _HOLDERS:
                holder = holder.getparent()
            if holder is not None and local_name(holder) == "p":
                paragraphs.setdefault(holder, []).append(xref)
    found: dict[int, dict[str, Mention]] = {}  # by text
    for ordinal, (paragraph, cited) in enumerate(paragraphs.items()):
        own = next(paragraph.iterancestors("{*}fig"), None)
        text, positions = marked_text(paragraph, cited)
        links = _links(cited, text, positions, targets, labels)
        for number, starts in links.items():
            known = found.setdefault(number, {})
            if figures[number] is own or text in known:
                continue
            known[text] = Mention(
                paragraph=paragraph.get("id") or f"p{ordinal}",
                text=text,
                positions=tuple(starts),
                panels=_panels(text, starts, labels[number].number),
            )
    return {number: tuple(mentions.values()) for number, mentions in found.items()}


def cut_mention(mention: Mention, config: MentionConfig) -> str:
    """Return the mention's text, cut to whole sentences around its first citation where it is too long.

    Sentences are added after and before the citing one in turn, as long as both limits hold. The citing sentence
    itself is cut at a word when it alone is longer than `max_chars`.
    """
    text = mention.text
    if len(text) <= config.max_chars:
        return text
    spans = sentence_spans(text)
    at = mention.positions[0]
    centre = next(number for number, (_, end) in enumerate(spans) if at < end or number == len(spans) - 1)
    first = last = centre
    grown = True
    while grown and last - first + 1 < config.max_sentences:
        grown = False
        for low, high in ((first, last + 1), (first - 1, last)):
            fits = low >= 0 and high < len(spans) and high - low < config.max_sentences
            if fits and spans[high][1] - spans[low][0] <= config.max_chars:
                first, last, grown = low, high, True
                break
    return _cut_at_word(text[spans[first][0] : spans[last][1]].strip(), at - spans[first][0], config.max_chars)


def _cut_at_word(text: str, at: int, limit: int) -> str:
    if len(text) <= limit:
        return text
    low = min(max(at - limit // 2, 0), len(text) - limit)
    if low:
        low = text.find(" ", low) + 1 or low
    piece = text[low : low + limit]
    whole = piece.rpartition(" ")[0] if low + limit < len(text) else piece
    return whole or piece


def _links(
    cited: Sequence[etree._Element],
    text: str,
    positions: Sequence[int],
    targets: dict[str, list[int]],
    labels: Sequence[_Label],
) -> dict[int, list[int]]:
    """The numbers of the figures that a paragraph cites, each with the positions of its citations."""
    links: dict[int, dict[int, None]] = {}
    previous_end, previous_number = -1, -1
    for xref, at in zip(cited, positions, strict=True):
        numbers = [number for rid in xref.get("rid", "").split() for number in targets.get(rid, ())]
        shown = text_of(xref)
        reached = [*numbers, *_spelled_range(shown, numbers, labels)]
        if previous_end >= 0 and numbers and _RANGE_GAP.fullmatch(text[previous_end:at]):
            reached += _between(previous_number, numbers[0], labels)
        for number in reached:
            links.setdefault(number, {})[at] = None  # each position once
        previous_end = at + len(shown)
        previous_number = numbers[-1] if numbers else -1
    return {number: list(starts) for number, starts in links.items()}


def _spelled_range(shown: str, numbers: Sequence[int], labels: Sequence[_Label]) -> list[int]:
    """The figures of "Figs. 1–3" where one reference stands for all and its ids name only the ends or the first."""
    match = _NUMBER_RANGE.search(shown)
    if not match or not numbers:
        return []
    low, high = int(match.group(1)), int(match.group(2))
    kind = labels[numbers[0]].kind
    if labels[numbers[0]].number != low or low >= high:
        return []
    same = {label.number: number for number, label in enumerate(labels) if label.kind == kind}
    return [same[number] for number in range(low, high + 1) if number in same] if high in same else []


def _between(first: int, last: int, labels: Sequence[_Label]) -> list[int]:
    """The figures between two in document order, those labelled in another way left out."""
    if not 0 <= first < last or labels[first].kind != labels[last].kind:
        return []
    return [number for number in range(first + 1, last) if labels[number].kind == labels[first].kind]


def _label(figure: etree._Element) -> _Label:
    text = text_of(child_of(figure, "label")).lower()
    last = _LAST_NUMBER.search(text)
    return _Label(text[: last.start()], int(last.group(1))) if last else _Label(text, None)


def _panels(text: str, starts: Sequence[int], number: int | None) -> tuple[str, ...]:
    """The panel letters that stand behind the figure's number at its citations: "Fig. 4B, C" is B and C of 4."""
    letters: list[str] = []
    for start in starts:
        shown = text[start : start + _PANEL_TEXT_AFTER]
        for match in _PANELS.finditer(shown):
            if number is None or int(match.group(1)) == number:
                letters += expand_letters(next(group for group in match.groups()[1:] if group))
                break
    return tuple(sorted(set(letters)))
