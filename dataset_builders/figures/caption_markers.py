"""Where the parts of a compound figure's caption begin or end: "(A)", "B)", "c.", "Panels D and E", "left:"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dataset_builders.figures.prose import expand_letters

_DASH = r"[-‐-―−~]"
_LETTER = r"[A-Za-z](?:\d{1,2}|['’′])?(?![A-Za-z0-9])"
_JOIN = rf"\s?(?:{_DASH}|,\s?and\b|,|&|/|\band\b|\bto\b)\s?"
_GROUP = rf"{_LETTER}(?:{_JOIN}{_LETTER})*"
_PLAIN = rf"[A-Z](?:{_JOIN}[A-Z](?![A-Za-z]))*"
_BARE = rf"[A-Za-z](?:\s?(?:{_DASH}|,|&)\s?[A-Za-z](?![A-Za-z]))*"
_PANEL = r"(?:[Pp]anels?\s)"
_CLAUSE = r"(?:(?<=^)|(?<=[.;:]\s)|(?<=[.;:])(?=\S)|(?<=[.;:]\s\())"


@dataclass(frozen=True, slots=True)
class _Style:
    """How markers look, and how often captions that have two such markers in order are lists of panels.

    `hint` is found, faster, in ". " and the caption wherever the pattern is found in the caption.
    """

    pattern: re.Pattern[str]
    trust: float
    hint: re.Pattern[str] = re.compile("")


_BRACKET = re.compile(r"\(\s?(?:[A-Za-z]|[Pp]anel)")
_CLOSED = re.compile(r"[^A-Za-z(][A-Za-z](?:\d{1,2}|['’′])?\)[\s,.:]")
_PANEL_CLAUSE = re.compile(r"[Pp]anels?\s")
_COMMA = re.compile(r"[^A-Za-z][A-Za-z],\s")
_DASHED = re.compile(rf"{_DASH}\s")
_CLAUSE_LETTER = re.compile(r"[.;:)]\s?\(?(?:[A-Za-z](?![A-Za-z)])|[Pp]anel)")

# In the order in which they are believed where they find as many parts.
_STYLES = (
    _Style(
        re.compile(
            rf"(?:[Pp](?<!\w[Pp])anels?\s\(|\((?:(?<!\w\()|(?<=[a-z]\()(?=[A-Z])))"
            rf"{_PANEL}?\s?({_GROUP})\s?[.:]?\s?(?:[;,]\s([^()]{{2,60}}))?\)(?!\w)"
        ),
        0.95,
        _BRACKET,
    ),
    _Style(re.compile(rf"(?:(?<=^)|(?<=[.;:,]\s)|(?<=[\s.;]))({_PANEL}?{_GROUP})\)(?=[\s,.:])"), 0.9, _CLOSED),
    _Style(re.compile(rf"{_CLAUSE}({_PANEL}?{_GROUP})[:.](?=\s)"), 0.9, _CLAUSE_LETTER),
    _Style(re.compile(rf"{_CLAUSE}({_PANEL}{_GROUP})(?=\s)"), 0.9, _PANEL_CLAUSE),
    _Style(re.compile(rf"(?:(?<=^)|(?<=[.;:]\s)|(?<=\band\s))({_PLAIN}|[a-z]),(?=\s)"), 0.85, _COMMA),
    _Style(re.compile(rf"{_CLAUSE}({_BARE})\s?{_DASH}\s(?=\w)"), 0.8, _DASHED),
    _Style(re.compile(rf"(?:(?<=^)|(?<=[.;:)]\s))({_BARE})\s(?!Significan)(?=[A-Z(“\"0-9])"), 0.8, _CLAUSE_LETTER),
)
_PANEL_WORD = re.compile(rf"^{_PANEL}")
# A letter behind one of these points into a picture or refers to another figure; bare ones can be part of a name.
_REFERENCES = r"arrows?|arrowheads?|markers?|points?|lines?|labels?|tables?|appendix|figures?|(?:eqs?|figs?|refs?)\.?"
_REFERENCE_BEFORE = re.compile(rf"\b(?:{_REFERENCES})\s?\d*\s?$", re.I)
_NAME_BEFORE = re.compile(
    rf"\b(?:{_REFERENCES}|vitamins?|hepatitis|groups?|types?|class|classes|stages?|grade|influenza|factors?|protein|phase|"
    r"arm|patients?|cases?|strains?|clones?|equations?|sections?|scenarios?|models?|hemophilia)\s?\d*\s?$",
    re.I,
)
_BETWEEN = re.compile(rf"\s*(?:,|&|;|/|{_DASH}|,?\s?\b(?:and|to|through)\b)?\s*")
_TO = re.compile(rf"{_DASH}|\b(?:to|through)\b")
_LEADS = re.compile(r"(?:^|[.;:!?][\"”’)\]]*\s*|[.;:!?]\s+[(\[\"“‘])$")
_FOLLOWS = re.compile(r"\s*(?:[.;,)]|and\b|or\b|$)")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_WORDS = {
    "left": "left", "right": "right", "middle": "middle", "center": "middle", "centre": "middle", "central": "middle",
    "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom",
}  # fmt: skip
_WORD = rf"({'|'.join(_WORDS)})(?:[- ]hand)?"
_WHAT = r"(?:panels?|images?|photographs?|pictures?|rows?|columns?|figures?|graphs?|plots?)"
_PLACE_STYLES = (
    _Style(re.compile(rf"(?:(?<=^)|(?<=[.;:,]\s))(?:[Tt]he\s)?(?i:{_WORD})(?:\s{_WHAT})?\s?:(?=\s)"), 0.85),
    _Style(re.compile(rf"(?:(?<=^)|(?<=[.;]\s))(?:[Tt]he\s|[Ii]n the\s)?(?i:{_WORD})\s{_WHAT}\b"), 0.85),
    _Style(re.compile(rf"\((?:[Tt]he\s)?(?i:{_WORD})(?:\s{_WHAT})?\)"), 0.8),
)
_PLACE_SETS = (("left", "right"), ("left", "middle", "right"), ("top", "bottom"), ("top", "middle", "bottom"))


@dataclass(frozen=True, slots=True)
class Marker:
    """The panels that begin or end a part, as capitals ("A", "B2") or a place ("left"), and where the marker stands.

    `note` is what else its brackets hold: "green" in "(B, green)". `leads`: a sentence or clause begins with it.
    `follows`: one could end with it.
    """

    names: tuple[str, ...]
    start: int
    end: int
    note: str
    is_lower: bool
    leads: bool
    follows: bool


@dataclass(frozen=True, slots=True)
class MarkerRun:
    """Markers of one style that name the panels from A on, in the caption's order, each panel once.

    `headers` name several panels whose own markers come later: "(A, B) Radiographs. (A) Before. (B) After.".
    """

    markers: tuple[Marker, ...]
    headers: tuple[Marker, ...]
    trust: float
    holes: int
    are_places: bool = False

    @property
    def leads(self) -> bool:
        """Whether each marker begins a sentence or clause."""
        return all(marker.leads for marker in self.markers)


def best_run(caption: str) -> MarkerRun | None:
    """Return the run that names most panels: by letters, or by places where there are none; None where nothing does."""
    found: list[tuple[float, MarkerRun]] = []
    hinted = f". {caption}"
    for rank, style in enumerate(_STYLES):
        if not style.hint.search(hinted):
            continue
        markers = _merged(caption, _letter_markers(style.pattern, caption))
        if len(markers) < 2:
            continue
        for run, bonus in _runs(markers, style.trust):
            value = sum(len(marker.names) for marker in run.markers) + bonus - 1.5 * run.holes - 0.3 * rank
            if len(run.markers) > 1:
                found.append((value, run))
    outer = [run for _, run in found if run.leads and not run.holes]
    found = [(value, run) for value, run in found if not any(_is_inside(run, other) for other in outer)]
    return max(found, key=lambda pair: pair[0])[1] if found else _place_run(caption)


def _is_inside(run: MarkerRun, other: MarkerRun) -> bool:
    """Whether a run numbers what is shown in one part of another: "A. Cells with a. one, b. the other dye. B. …"."""
    if run.markers[0].is_lower == other.markers[0].is_lower:
        return False
    before = {sum(marker.start <= one.start for marker in other.markers) for one in run.markers}
    return len(before) == 1 and before != {0}


def _merged(caption: str, markers: Iterable[Marker]) -> list[Marker]:
    """Return markers with those joined that share a part: "(A) and (B)", "(C)–(E)"; what is between two is filled."""
    merged: list[Marker] = []
    for marker in markers:
        between = caption[merged[-1].end : marker.start] if merged else "x"
        if not _BETWEEN.fullmatch(between) or merged[-1].note or merged[-1].is_lower != marker.is_lower:
            merged.append(marker)
            continue
        last = merged[-1]
        names = (*last.names[:-1], *_filled(last.names[-1], marker.names[0], between), *marker.names[1:])
        merged[-1] = replace(marker, names=names, start=last.start, leads=last.leads)
    return merged


def _filled(first: str, last: str, between: str) -> tuple[str, ...]:
    ranged = _TO.search(between) and len(first) == len(last) == 1
    return tuple(expand_letters(f"{first}-{last}")) if ranged else (first, last)


def _letter_markers(pattern: re.Pattern[str], caption: str) -> Iterator[Marker]:
    for match in pattern.finditer(caption):
        group = _PANEL_WORD.sub("", match.group(1))
        names = _names(group)
        named = _PANEL_WORD.match(match.group(1)) is not None
        before = caption[: match.start()]
        bracketed = "(" in match.group()
        inside = not bracketed and before.count("(") > before.count(")")
        if not names or _is_name(before, bracketed) or (inside and not named and not before.endswith("(")):
            continue
        note = (match.group(2) or "") if match.re.groups > 1 else ""
        yield Marker(
            names=names,
            start=match.start(),
            end=match.end(),
            note=note,
            is_lower=group[0].islower(),
            leads=bool(_LEADS.search(before[-4:] if len(before) > 4 else before)) or not before.strip(),
            follows=bool(_FOLLOWS.match(caption, match.end())),
        )


def _is_name(before: str, bracketed: bool) -> bool:
    """Whether the words before a letter make a name of it: "vitamin A"; a full stop between them does not."""
    pattern = _REFERENCE_BEFORE if bracketed else _NAME_BEFORE
    return bool(pattern.search(before.rstrip("( ")[-24:])) and not before.endswith(". ")


def _names(group: str) -> tuple[str, ...]:
    """Return the panels of "A, C", "b–d" or "A1–A3", in capitals; ranges are filled."""
    if len(group) == 1:
        return (group.upper(),)
    if not re.search(r"[\d'’′]", group):
        return tuple(expand_letters(re.sub(r"\bto\b", "-", group)))
    tokens = re.findall(r"([A-Za-z])(\d*)(['’′]?)", re.sub(r"\b(?:and|to)\b", "", group))
    names = [letter.upper() + number + ("'" if prime else "") for letter, number, prime in tokens]
    if len(names) != 2 or not re.search(rf"{_DASH}|\bto\b", group):
        return tuple(names)
    (first, low, _), (last, high, _) = tokens
    if first.upper() == last.upper() and low and high:
        return tuple(f"{names[0][0]}{number}" for number in range(int(low), int(high) + 1))
    return tuple(f"{base}{names[0][1:]}" for base in expand_letters(f"{first}-{last}"))


def _runs(markers: Sequence[Marker], trust: float) -> Iterator[tuple[MarkerRun, float]]:
    """Yield runs over the markers that begin sentences, and over all, without and with a hole in the letters.

    A run that would be the same as one before it, and not worth more, is left out.
    """
    leading = [marker for marker in markers if marker.leads]
    headers = _headers(leading)
    for chosen, bonus in ((leading, 0.5), (markers, 0.0))[: 1 if len(leading) == len(markers) else 2]:
        rest = [marker for marker in chosen if marker not in headers]
        for max_holes in (0, 1):
            kept = _run(rest, max_holes)
            bases = {name[0] for marker in kept for name in marker.names}
            holes = _LETTERS.index(max(bases)) + 1 - len(bases) if bases else 0
            mine = tuple(one for one in headers if kept and one.start < kept[-1].start)
            yield MarkerRun(markers=tuple(kept), headers=mine, trust=trust, holes=holes), bonus
            if len(kept) == len(rest):
                break


def _headers(markers: Sequence[Marker]) -> list[Marker]:
    """Return the markers of several panels of which half or more have a later marker with fewer."""
    found = []
    for number, marker in enumerate(markers):
        if len(marker.names) == 1:
            continue
        later = {name for one in markers[number + 1 :] if len(one.names) < len(marker.names) for name in one.names}
        if 2 * len(later.intersection(marker.names)) >= max(len(marker.names), 4):
            found.append(marker)
    return found


def _run(markers: Sequence[Marker], max_holes: int) -> list[Marker]:
    """Return markers in alphabetical order from A, each panel once; later ones of a panel refer back to it."""
    kept: list[Marker] = []
    used: set[str] = set()
    for marker in markers:
        names = marker.names
        if kept and (marker.is_lower != kept[0].is_lower or names[0] < kept[-1].names[0]):
            continue
        in_order = len(names) == 1 or list(names) == sorted(set(names), key=lambda name: (name[0], len(name), name))
        if in_order and used.isdisjoint(names) and _may_follow(names[0], used, max_holes):
            kept.append(marker)
            used.update(names)
    return kept


def _may_follow(name: str, used: set[str], max_holes: int) -> bool:
    """Whether a panel is the next one: the first free letter, or one further number of a letter in use."""
    bases = {one[0] for one in used}
    if name[0] in bases:
        before = f"{name[0]}{int(name[1:]) - 1}" if name[1:].isdigit() else name[0]
        return before in used
    free = [letter for letter in _LETTERS if letter not in bases][: 1 + (max_holes if used else 0)]
    return name[0] in free and name[1:] in ("", "1")


def _place_run(caption: str) -> MarkerRun | None:
    """Return markers that say where in the figure a panel is, each place once and together with its opposite."""
    for style in _PLACE_STYLES:
        markers = [
            Marker(
                names=(_WORDS[match.group(1).lower()],),
                start=match.start(),
                end=match.end(),
                note="",
                is_lower=True,
                leads=bool(_LEADS.search(caption[: match.start()])),
                follows=bool(_FOLLOWS.match(caption, match.end())),
            )
            for match in style.pattern.finditer(caption)
        ]
        if tuple(sorted(marker.names[0] for marker in markers)) in (tuple(sorted(names)) for names in _PLACE_SETS):
            return MarkerRun(markers=tuple(markers), headers=(), trust=style.trust, holes=0, are_places=True)
    return None
