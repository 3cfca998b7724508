"""Licence strings of sources to SPDX identifiers and to the three groups that the licence gate knows.

The groups are those of PubMed Central's own distribution: commercial (CC0, BY, BY-SA, BY-ND), noncommercial
(BY-NC, BY-NC-SA, BY-NC-ND), other (everything else: unknown, text mining only, third-party pictures). The British Open
Government Licence is compatible with CC BY and counts as commercial.
"""

from __future__ import annotations

import re
from enum import StrEnum


class LicenseGroup(StrEnum):
    """What a licence lets a user do with the sample."""

    COMMERCIAL = "commercial"
    NONCOMMERCIAL = "noncommercial"
    OTHER = "other"


UNKNOWN_LICENSE = "LicenseRef-unknown"
THIRD_PARTY_LICENSE = "LicenseRef-third-party"
_PERMISSIVE = frozenset(
    {
        "CC0-1.0",
        "MIT",
        "Apache-2.0",
        "BSD-3-Clause",
        "LicenseRef-public-domain",
        "OGL-UK-1.0",
        "OGL-UK-2.0",
        "OGL-UK-3.0",
    }
)
_CREATIVE_COMMONS = re.compile(r"cc[ _-]*(by(?:[ _-]*(?:nc|sa|nd))*|0|zero)[ _-]*v?(\d\.\d)?$")
_CREATIVE_COMMONS_URL = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)?")
_OTHER_NAMES = {
    "public domain": "LicenseRef-public-domain",
    "publicdomain": "LicenseRef-public-domain",
    "mit": "MIT",
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "tdm": "LicenseRef-TDM",
}


def spdx_id(text: str | None) -> str:
    """Return the SPDX identifier of a source's licence string, URL or code; `LicenseRef-unknown` when it says nothing.

    Creative Commons names without a version are given 4.0, the version that PMC's licence codes stand for.

    >>> spdx_id("CC BY-NC"), spdx_id("https://creativecommons.org/licenses/by/3.0/"), spdx_id("CC0"), spdx_id(None)
    ('CC-BY-NC-4.0', 'CC-BY-3.0', 'CC0-1.0', 'LicenseRef-unknown')
    """
    name = " ".join((text or "").lower().split())
    url = _CREATIVE_COMMONS_URL.search(name)
    if url:
        return _creative_commons_id(url.group(1), url.group(2))
    code = _CREATIVE_COMMONS.fullmatch(name)
    if code:
        return _creative_commons_id(code.group(1), code.group(2))
    return _OTHER_NAMES.get(name, UNKNOWN_LICENSE)


def _creative_commons_id(terms: str, version: str | None) -> str:
    if terms in {"0", "zero"}:
        return "CC0-1.0"
    if terms == "mark":
        return "LicenseRef-public-domain"
    parts = re.findall(r"by|nc|sa|nd", terms)
    return f"CC-{'-'.join(parts).upper()}-{version or '4.0'}"


def license_group(spdx: str) -> LicenseGroup:
    """Return the group of an SPDX identifier.

    >>> [str(license_group(name)) for name in ("CC-BY-SA-4.0", "CC-BY-NC-ND-4.0", "LicenseRef-TDM")]
    ['commercial', 'noncommercial', 'other']
    """
    if spdx.startswith("CC-BY"):
        return LicenseGroup.NONCOMMERCIAL if "-NC" in spdx else LicenseGroup.COMMERCIAL
    return LicenseGroup.COMMERCIAL if spdx in _PERMISSIVE else LicenseGroup.OTHER
