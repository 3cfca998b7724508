"""An article's licence: what its XML says, and what that and the archive's metadata say together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lxml import etree

from clipmed.licenses import UNKNOWN_LICENSE, LicenseGroup, license_group, spdx_id
from dataset_builders.pmc.xmltext import local_name, text_of

if TYPE_CHECKING:
    from dataset_builders.pmc.credits import Credit

_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/[a-z-]+(?:/\d\.\d)?", re.I)
_CODE = re.compile(r"\bCC[ -]?(BY(?:[ -](?:NC|SA|ND))*|0(?!\.\d))(?![A-Za-z])")
_NAME = re.compile(
    r"creative\s+commons\s+(?:deed,?\s+)?(attribution(?:(?!licen[cs]e)[a-z ,/–-])*|zero|public\s+domain)", re.I
)
_VERSION = re.compile(r"(?<![\d.])[1-4]\.[05](?!\.?\d)")
_VERSION_WITHIN = 40
_TERMS = (
    ("nc", re.compile(r"non-?\s?commercial", re.I)),
    ("nd", re.compile(r"no-?\s?deriv", re.I)),
    ("sa", re.compile(r"share-?\s?alike", re.I)),
)
_NO_COMMERCE = re.compile(
    r"\b(?:not|never) (?:permit|allow|be used for)\w*[^.;]{0,30}\bcommercial"
    r"|\bcommercial (?:re-?)?(?:use|exploitation|purposes?) (?:is|are) (?:not|never) (?:permitted|allowed)",
    re.I,
)
_PUBLIC_DOMAIN = re.compile(
    r"\b(?:in(?:to)?|lies in|to) the public\s+domain\b|\bpublic[ -]domain (?:dedication|image|photo|picture|mark|work)"
    r"|[(:;,]\s*public\s+domain\b|^public\s+domain\b"
    r"|\bworks? of the (?:u\.?\s?s\.?|united states)(?: federal)? government\b"
    r"|\bfree of (?:all )?copyright\b|\bnot subject to (?:u\.?s\.? )?copyright\b",
    re.I,
)
_PORTION = re.compile(r"\b(?:portions?|parts?) of this\b", re.I)
_OTHER_WORDINGS = (
    ("OGL-UK", re.compile(r"\bopen government licen[cs]e(?:[^.;]{0,20}?\bv(?:ersion)?\s?([123])(?:\.0)?\b)?", re.I)),
    ("TDM", re.compile(r"\b(?:text[- ](?:and[- ])?data[- ]min(?:e|ing)|text and data-mine)\b", re.I)),
)
_RIGHTS_RESERVED = re.compile(r"\ball rights reserved\b", re.I)
_GROUPS = (LicenseGroup.COMMERCIAL, LicenseGroup.NONCOMMERCIAL, LicenseGroup.OTHER)
_SHOWN_CHARS = 300


def jats_license(permissions: etree._Element | None) -> tuple[str | None, str]:
    """Return (SPDX identifier, wording) of the licence that a `permissions` element states.

    Looked at in order: the licence's address (`xlink:href`, `license_ref`, links), codes and names in its text, and the
    copyright statement. The identifier is None where nothing is stated; it is unknown where the wording is not a known
    one, contradicts the licence that it names, or reserves all rights and names no licence.
    """
    if permissions is None:
        return None, ""
    licenses = list(permissions.iter("{*}license", "{*}license_ref"))
    statements = licenses or list(permissions.iterchildren("{*}copyright-statement"))
    wording = " ".join(filter(None, map(text_of, statements)))
    addresses = [value for element in statements for part in element.iter() for value in _addresses(part)]
    found = stated_license(" ".join([*addresses, wording]))
    if found is None and (licenses or _RIGHTS_RESERVED.search(wording)):
        found = UNKNOWN_LICENSE
    return found, wording[:_SHOWN_CHARS]


def stated_license(text: str) -> str | None:
    """Return the SPDX identifier of the licence that a text names by address, code, name or terms; None for none.

    Unknown where the text names a licence that permits commercial use, and denies such use.

    >>> stated_license("under a Creative Commons Attribution-ShareAlike 3.0 licence"), stated_license("© 2011 Elsevier")
    ('CC-BY-SA-3.0', None)
    """
    found = _from_addresses(text) or _from_wording(text) or _from_terms(text)
    if found and license_group(found) is LicenseGroup.COMMERCIAL and _NO_COMMERCE.search(text):
        return UNKNOWN_LICENSE
    return found


def combined_license(stated: list[str | None], credit: Credit | None = None) -> str:
    """Return the licence that holds when several places state one, and a caption may credit somebody else.

    The group is the most restrictive of those stated. In the group, a known licence comes before an unknown one, then
    the one with more terms (ND, SA), then the first. A third-party credit without a licence is in the group "other".

    >>> combined_license(["CC-BY-NC-3.0", "CC-BY-4.0"]), combined_license([None, "CC0-1.0"]), combined_license([None])
    ('CC-BY-NC-3.0', 'CC0-1.0', 'LicenseRef-unknown')
    """
    known = [license_id for license_id in [*stated, credit.terms if credit else None] if license_id is not None]
    return max(known, key=_restriction, default=UNKNOWN_LICENSE)


def _restriction(license_id: str) -> tuple[int, bool, bool, bool]:
    group = _GROUPS.index(license_group(license_id))
    return group, license_id != UNKNOWN_LICENSE, "-ND" in license_id, "-SA" in license_id


def _addresses(element: etree._Element) -> list[str]:
    values = [str(value) for value in element.attrib.values()]
    if local_name(element) == "license_ref":
        values.append(element.text or "")
    return values


def _from_addresses(text: str) -> str | None:
    # A CC0 waiver for the data often stands beside the licence of the article itself.
    matches = sorted(_URL.finditer(text), key=lambda match: match.group(1).lower() == "publicdomain")
    return next((known for match in matches if (known := _known(match.group(0) + "/"))), None)


def _from_wording(text: str) -> str | None:
    """A Creative Commons licence by its code or name, with the version that stands in it or soon after it."""
    code, name = _CODE.search(text), _NAME.search(text)
    named = name.group(1).lower() if name else ""
    if code:
        terms = f"cc {code.group(1)}"
    elif named.startswith("attribution"):
        terms = "-".join(["cc-by", *(term for term, pattern in _TERMS if pattern.search(named))])
    elif named == "zero":
        return "CC0-1.0"
    else:
        return "LicenseRef-public-domain" if named else None
    spans = [match.span() for match in (name, code) if match]
    version = _VERSION.search(text, min(spans)[0], max(spans)[1] + _VERSION_WITHIN)
    return _known(f"{terms} {version.group(0)}" if version else terms)


def _from_terms(text: str) -> str | None:
    """Other licences by what they are called, and the public domain."""
    for family, pattern in _OTHER_WORDINGS:
        if match := pattern.search(text):
            return f"OGL-UK-{match.group(1) or '3'}.0" if family == "OGL-UK" else "LicenseRef-TDM"
    public = _PUBLIC_DOMAIN.search(text) is not None and not _PORTION.search(text)
    return "LicenseRef-public-domain" if public else None


def _known(text: str) -> str | None:
    found = spdx_id(text)
    return None if found == UNKNOWN_LICENSE else found
