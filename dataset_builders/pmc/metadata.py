"""The bucket's JSON of an article version: licence code, retraction, and the checksums of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage

_MAX_BYTES = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArticleMetadata:
    """What the JSON says. `md5` maps the file names of the article version to their hex checksums."""

    license_code: str | None
    is_retracted: bool
    pmid: str
    doi: str
    title: str
    md5: Mapping[str, str]


def read_metadata(path: Path | None) -> ArticleMetadata | None:
    """Read the JSON; None where there is no file.

    Raises:
        ItemRejectedError: package_unreadable, where the file is not the JSON object that it should be.
    """
    if path is None:
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        return parse_metadata(json.loads(path.read_bytes()))
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        detail = printable(f"{path.name}: {type(error).__name__}: {error}")
        raise ItemRejectedError(Stage.SOURCE, RejectReason.PACKAGE_UNREADABLE, detail) from error


def parse_metadata(data: Any) -> ArticleMetadata:
    """Take what is needed from the decoded JSON; raises ValueError where it is not an object."""
    if not isinstance(data, dict):
        raise ValueError(f"got a JSON {type(data).__name__}; allowed: an object")
    urls = [data.get("xml_url"), *(data.get("media_urls") or ())]
    checksums = dict(_name_and_md5(url) for url in urls if isinstance(url, str))
    code = data.get("license_code")
    return ArticleMetadata(
        license_code=printable(str(code)) if code else None,
        is_retracted=data.get("is_retracted") is True,
        pmid=printable(str(data.get("pmid") or "")),
        doi=printable(str(data.get("doi") or "")),
        title=printable(str(data.get("title") or "")),
        md5={name: md5 for name, md5 in checksums.items() if name},
    )


def check_md5(name: str, data: bytes, stated: str | None) -> None:
    """Compare bytes with the checksum that the metadata states; nothing to do where it states none.

    Raises:
        ItemRejectedError: checksum_mismatch.
    """
    if stated and (found := md5_hex(data)) != stated:
        detail = f"{name}: md5 {found}; the metadata states {stated}"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.CHECKSUM_MISMATCH, detail)


def md5_hex(data: bytes) -> str:
    """Return the MD5 that archives use to name bytes; not a defence against anybody."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def printable(text: str) -> str:
    """Return the text with what UTF-8 cannot hold replaced: half characters of broken JSON and odd file names."""
    return text.encode("utf-8", "replace").decode()


def _name_and_md5(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    md5 = parse_qs(parts.query).get("md5", [""])[0].lower()
    return parts.path.rpartition("/")[2], md5
