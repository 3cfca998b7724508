"""An article's licence: what its XML says, and what that and the archive's metadata say together."""

from __future__ import annotations

import re

from lxml import etree

from clipmed.licenses import UNKNOWN_LICENSE, LicenseGroup, license_group, spdx_id
from dataset_builders.pmc.xmltext import local_name, text_of

_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/[a-z-]+(?:/\d\.\d)?", re.I)
_CODE = re.compile(r"\bCC[ -](?:BY(?:[ -](?:NC|SA|ND))*|0)(?:[ -]\d\.\d)?(?![A-Za-z])")
_NAME = re.compile(r"creative\s+commons\s+(attribution(?:(?!licen[cs]e)[a-z ,/–-])*|zero|public\s+domain)", re.I)
_TERMS = (
    ("nc", re.compile(r"non-?\s?commercial", re.I)),
    ("nd", re.compile(r"no-?\s?deriv", re.I)),
    ("sa", re.compile(r"share-?\s?alike", re.I)),
)
_RESTRICTION = (LicenseGroup.COMMERCIAL, LicenseGroup.NONCOMMERCIAL, LicenseGroup.OTHER)
_SHOWN_CHARS = 300


def jats_license(permissions: etree._Element | None) -> tuple[str | None, str]:
    """Return (SPDX identifier, wording) of the licence that a `permissions` element states.

    Looked at in order: the licence's address (`xlink:href`, `license_ref`, links), codes and names in its text, and the
    copyright statement. The identifier is None where nothing is stated, unknown where the wording is not a known one.
    """
    if permissions is None:
        return None, ""
    licenses = list(permissions.iter("{*}license", "{*}license_ref"))
    statements = licenses or list(permissions.iterchildren("{*}copyright-statement"))
    wording = " ".join(filter(None, map(text_of, statements)))
    addresses = [value for element in statements for part in element.iter() for value in _addresses(part)]
    found = _from_addresses([*addresses, wording]) or _from_wording(wording)
    if found is None and licenses:
        found = UNKNOWN_LICENSE
    return found, wording[:_SHOWN_CHARS]


def combined_license(stated: list[str | None]) -> str:
    """Return the licence that holds when several places state one: the first of the most restrictive group.

    >>> combined_license(["CC-BY-4.0", "CC-BY-NC-3.0"]), combined_license([None, "CC0-1.0"]), combined_license([None])
    ('CC-BY-NC-3.0', 'CC0-1.0', 'LicenseRef-unknown')
    """
    known = [license_id for license_id in stated if license_id is not None]
    if not known:
        return UNKNOWN_LICENSE
    return max(known, key=lambda license_id: _RESTRICTION.index(license_group(license_id)))


def _addresses(element: etree._Element) -> list[str]:
    values = [str(value) for value in element.attrib.values()]
    if local_name(element) == "license_ref":
        values.append(element.text or "")
    return values


def _from_addresses(texts: list[str]) -> str | None:
    matches = [match for text in texts for match in _URL.finditer(text)]
    # A CC0 waiver for the data often stands beside the licence of the article itself.
    matches.sort(key=lambda match: match.group(1).lower() == "publicdomain")
    return next((known for match in matches if (known := _known(match.group(0) + "/"))), None)


def _from_wording(wording: str) -> str | None:
    code = _CODE.search(wording)
    if code:
        return _known(code.group(0))
    name = _NAME.search(wording)
    if name and name.group(1).lower().startswith("attribution"):
        terms = [term for term, pattern in _TERMS if pattern.search(name.group(0))]
        return _known("-".join(["cc-by", *terms]))
    if name and name.group(1).lower() == "zero":
        return "CC0-1.0"
    return _known("public domain") if re.search(r"\bpublic\s+domain\b", wording, re.I) else None


def _known(text: str) -> str | None:
    found = spdx_id(text)
    return None if found == UNKNOWN_LICENSE else found
