"""Credit lines in captions: whose picture it is, and on what terms it is shown.

An article's licence covers what its authors made. A figure "reprinted with permission from …" is somebody else's, and
the permission was given to the article alone. A figure "adapted from …" was drawn anew, and is the authors' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from clipmed.licenses import THIRD_PARTY_LICENSE
from dataset_builders.figures.prose import sentence_spans
from dataset_builders.pmc.licensing import stated_license

_SHOWN_CHARS = 300
_SHOWN_BEFORE = 100


class CreditKind(StrEnum):
    """What a credit line says, from the one that decides most to the one that decides least."""

    THIRD_PARTY = "third_party"
    """somebody else's, shown by permission, under a copyright of theirs, or as printed elsewhere"""
    OWN_LICENSE = "own_license"
    """a licence is stated for the figure itself"""
    COURTESY = "courtesy"
    """given by a person or an institution, without terms"""
    ADAPTED = "adapted"
    """drawn anew after somebody else's figure"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """A credit line. `license` is the SPDX identifier that it states, None where it states none."""

    kind: CreditKind
    license: str | None
    text: str

    @property
    def terms(self) -> str | None:
        """The licence that the credit puts on the figure; None where it leaves the article's as it is."""
        unlicensed = self.kind is CreditKind.THIRD_PARTY and self.license is None
        return THIRD_PARTY_LICENSE if unlicensed else self.license


# Only a caption with one of these is looked at closer.
_HINTS = (
    "permi", "courtesy", "copyri", "copywri", "©", "print", "reproduc", "adapted", "modified", "drawn", "licens",
    "licenc", "creative", "cc by", "cc-by", "ccby", "cc0", "cc-0", "public domain", "published in", "wiki", "reserved",
    "shutterstock", "istock", "getty", "corbis", "alamy", "cartoonbank", "source", "credit", "photo", "kindly",
    "provided", "taken from", "obtained from", "extracted", "downloaded", "retrieved", "borrowed",
)  # fmt: skip
_CAPITAL = r"(?-i:[A-Z])"
_NAME = rf"{_CAPITAL}[\w’'.-]*"
_PICTURE = (
    r"\b(?:image|photo|photograph|picture|figure|fig\.|illustration|drawing|diagram|map|micrograph|scan|panel|sketch|"
    r"portrait|schematic|cartoon|graphic)s?"
)
# What stands for a publication: [12], (12), ref. 12, an address, or "Smith et al.", "Smith & Doe", "Smith 2011".
_REFERENCE = (
    r"(?:\[\s?\d|\(\d{1,3}\)|\d{1,3}[.)]|ref(?:s|erences?)?\b|https?:|www\.|"
    rf"{_NAME}(?: {_NAME})?(?:,? et al|,? (?:and|&) {_CAPITAL}|,? [\[(]\d|,? \(?(?:19|20)\d\d))"
)
_ASKED = (
    r"(?:(?:our|the|each|all|this|these|his|her|their|an?|local|hospital|institutional|animal|research) )*"
    r"(?:patient|parent|guardian|famil|relative|next of kin|participant|subject|volunteer|donor|child|mother|father|"
    r"individual|person|ethic|review board|irb\b|committee)"
)
_NOT_OF_A_PATIENT = rf"(?!(?: was| were| is)?(?: obtained| granted| given)? (?:of|from|by) {_ASKED})"
_PATTERNS: dict[CreditKind, tuple[str, ...]] = {
    CreditKind.THIRD_PARTY: (
        r"\b(?:with|by|under) (?:(?:the|kind|written|full|express|publisher[’']?s) )*permissions?\b"
        rf"{_NOT_OF_A_PATIENT}",
        rf"\bpermissions? (?:was |were |has been )?(?:obtained|granted|received) (?:from|by) (?!{_ASKED})",
        r"\breprinted (?:from|in|with|by|courtesy)\b",
        r"\b(?:reproduced|republished|borrowed),?(?: with(?: slight)? modifications?,?)?(?: here)? "
        rf"(?:by courtesy|courtesy|from:? ?(?:with|the (?:book|atlas|website)\b|{_REFERENCE}|{_CAPITAL}|\w+\.com))",
        rf"{_PICTURE} (?:\w+ ){{0,2}}(?:taken|obtained|extracted|downloaded|retrieved) from:? (?:the )?{_REFERENCE}",
        rf"\((?:(?:taken|extracted) from {_REFERENCE}|(?:previously |originally )?published in {_CAPITAL})",
        r"(?:(?<=[\s(\[.,;:])|^)(?:copy(?:right|write)(?: owner)?:? ?(?:©|\(c\))?|©)"
        rf"(?! ?(?:(?:19|20)\d\d,? ?)?(?:by )?(?:the )?author) ?(?:by )?(?:(?:19|20)\d\d|{_CAPITAL})",
        r"\ball rights reserved\b",
        r"\b(?:shutterstock|istock(?:photo)?|getty images|corbis|alamy|cartoonbank|science photo library)\b",
        r"\bwiki(?:media|pedia)\b",
    ),
    CreditKind.COURTESY: (
        rf"\bcourtesy(?: ?:| of\b| {_CAPITAL})",
        rf"{_PICTURE} (?:\w+ )?(?:by {_CAPITAL}|credits? ?:|source ?:)",
        rf"{_PICTURE} (?:was |were )?(?:kindly )?(?:provided|supplied|contributed|donated) by ",
        r"\bkindly (?:provided|supplied|donated) by\b",
        rf"(?:^|(?<=[.(;]))\s*(?:source|photos?|image|credits?) ?: ?(?:{_CAPITAL}|https?:|www\.)",
    ),
    CreditKind.ADAPTED: (
        r"\b(?:adapted|modified|redrawn|re-drawn|recreated)(?: and \w+)? (?:from|after):? ?"
        rf"(?:the (?:work|figure|paper|book|study|dataset|website) (?:of|in|by) )?{_REFERENCE}",
        r"(?:\(\s*|(?:^|(?<=[.;]))\s*)(?:adapted|modified|redrawn) (?:from|after)\b"
        r"(?! (?:the )?(?:protocol|method|procedure))",
        rf"{_PICTURE} (?:is |was |were )?(?:adapted|modified|redrawn) (?:from|after)\b",
    ),
}
_CREDITS = {kind: re.compile("|".join(patterns), re.I) for kind, patterns in _PATTERNS.items()}
_SMALL_LETTER = re.compile(r"[.;]\s+(?=\(?[a-z](?:[–,-][a-z])*\)?\s)")
# What was done with permission, or adapted, that is no picture.
_SOMETHING_ELSE = re.compile(
    r"\b(?:captured|collected|sampled|performed|conducted|carried out|recruited|(?:method|protocol|procedure|technique|"
    r"criteri|assay|scale|score|questionnaire|sequence|primer)\w*(?: is| was| were| are| has been| have been)?) $",
    re.I,
)


def find_credit(text: str) -> Credit | None:
    """Return the credit line of a caption that decides most, or None.

    Third-party credits without a licence come first, then those with one, then other stated licences, courtesies and
    adaptations. A licence belongs to a credit in the same sentence, or in the one before that without a credit between.

    >>> find_credit("Fundus. Reproduced from Wu et al. [3], with permission.").kind
    <CreditKind.THIRD_PARTY: 'third_party'>
    >>> find_credit("Atlas of a mouse. Licensed under CC BY-SA 3.0 via Commons.").license
    'CC-BY-SA-3.0'
    >>> find_credit("Lenses adapted to dark")
    """
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return None
    plain = " ".join(text.split())
    spans = list(_parts(plain))
    hits = [_hit(plain[start:end]) for start, end in spans]
    found = []
    for number, ((start, end), hit) in enumerate(zip(spans, hits, strict=True)):
        alone = hit is None or number + 1 == len(spans) or hits[number + 1] is not None
        license_id = stated_license(plain[start : end if alone else spans[number + 1][1]])
        kind, at = hit or (CreditKind.OWN_LICENSE, 0)
        if hit is not None or license_id is not None:
            shown = plain[max(start, start + at - _SHOWN_BEFORE) :][:_SHOWN_CHARS].strip()
            found.append(Credit(kind=kind, license=license_id, text=shown))
    return min(found, key=_weight, default=None)


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each sentence, also of one that a small panel letter begins: "… [1]. b Reproduced from …"."""
    for start, end in sentence_spans(text):
        begins = [start, *(start + match.end() for match in _SMALL_LETTER.finditer(text[start:end])), end]
        yield from pairwise(begins)


def _hit(sentence: str) -> tuple[CreditKind, int] | None:
    """The kind of a sentence's credit that decides most, and where it begins."""
    for kind, pattern in _CREDITS.items():
        for match in pattern.finditer(sentence):
            if not _SOMETHING_ELSE.search(sentence[: match.start()]):
                return kind, match.start()
    return None


def _weight(credit: Credit) -> tuple[bool, int]:
    return credit.terms != THIRD_PARTY_LICENSE, list(CreditKind).index(credit.kind)
