"""The bucket's JSON of an article version: licence code, retraction, citation, and the checksums of its files."""

from __future__ import annotations

import hashlib
import json
import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage

PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# A journal's abbreviation, a full stop, the year, and month and day as far as they are known: "Gut. 2001 Nov 2; 3(1)".
_DATE = r"(?P<year>(?:1[5-9]|2[01])\d\d)\b(?:\s+(?P<month>[A-Z][a-z]{2})[a-z]*\b(?:\s+(?P<day>\d{1,2})\b)?)?"
_CITATIONS = (re.compile(rf"(?P<journal>.+?)\.\s+{_DATE}"), re.compile(rf"(?P<journal>.*?)\s+{_DATE}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArticleMetadata:
    """What the JSON says. `md5` maps the file names of the article version to their hex checksums, or to "".

    `journal` and `published` (2001-11-02, 2001-11, 2001, or nothing) are read from `citation`.
    """

    version: int | None
    license_code: str | None
    is_retracted: bool
    is_manuscript: bool
    is_historical_ocr: bool
    pmid: str
    doi: str
    title: str
    citation: str
    journal: str
    published: str
    md5: Mapping[str, str]


def read_metadata(name: str, raw: bytes) -> ArticleMetadata:
    """Read the JSON of the file `name`.

    Raises:
        ItemRejectedError: package_unreadable, where the bytes are not the JSON object that they should be.
    """
    try:
        return parse_metadata(json.loads(raw))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        detail = printable(f"{name}: {type(error).__name__}: {error}")
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, detail) from error


def parse_metadata(data: Any) -> ArticleMetadata:
    """Take what is needed from the decoded JSON; raises ValueError where it is not an object."""
    if not isinstance(data, dict):
        raise ValueError(f"got a JSON {type(data).__name__}; allowed: an object")
    urls = [data.get("xml_url"), *(data.get("media_urls") or ())]
    checksums = dict(_name_and_md5(url) for url in urls if isinstance(url, str))
    citation = _text(data, "citation")
    journal, published = parse_citation(citation)
    version = str(data.get("version"))
    return ArticleMetadata(
        version=int(version) if version.isdecimal() else None,
        license_code=_text(data, "license_code") or None,
        is_retracted=data.get("is_retracted") is True,
        is_manuscript=data.get("is_manuscript") is True,
        is_historical_ocr=data.get("is_historical_ocr") is True,
        pmid=_text(data, "pmid"),
        doi=_text(data, "doi"),
        title=_text(data, "title"),
        citation=citation,
        journal=journal,
        published=published,
        md5={name: md5 for name, md5 in checksums.items() if name},
    )


def parse_citation(citation: str) -> tuple[str, str]:
    """Return the journal's abbreviation and the date of publication as far as it is known; nothing where neither is.

    "Breast Cancer Res. 2001 Nov 2; 3(1):55-60" gives ("Breast Cancer Res", "2001-11-02"). A span of months counts from
    its first, without a day.
    """
    found = next(filter(None, (pattern.match(citation) for pattern in _CITATIONS)), None)
    if found is None:
        return "", ""
    journal, year, month = found["journal"].strip(), found["year"], (found["month"] or "").lower()
    if month not in _MONTHS:
        return journal, year
    number, day = _MONTHS.index(month) + 1, int(found["day"] or 0)
    is_day = 1 <= day <= monthrange(int(year), number)[1]
    return journal, f"{year}-{number:02d}" + (f"-{day:02d}" if is_day else "")


def _text(data: Mapping[str, Any], name: str) -> str:
    return printable(str(data.get(name) or ""))


def md5_hex(data: bytes) -> str:
    """Return the MD5 that archives use to name bytes; not a defence against anybody."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def printable(text: str) -> str:
    """Return the text with what UTF-8 cannot hold replaced: half characters of broken JSON and odd file names."""
    return text.encode("utf-8", "replace").decode()


def _name_and_md5(url: str) -> tuple[str, str]:
    """Split s3://bucket/PMC1.1/name?md5=hex; a "?" or "#" may also belong to the name."""
    path, mark, query = url.rpartition("?")
    if not mark or "/" in query:
        path, query = url, ""
    return path.rpartition("/")[2], parse_qs(query).get("md5", [""])[0].lower()
