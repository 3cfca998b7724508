"""Which articles are wanted, decided on what the archive says of them before their XML or any image is fetched."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.licenses import license_group, spdx_id
from clipmed.rejects import RejectReason, Stage
from dataset_builders.pmc.config import SelectionConfig
from dataset_builders.pmc.metadata import ArticleMetadata
from dataset_builders.pmc.sources import ArticleRef

_PMCID = re.compile(r"PMC(\d{1,18})(?:\.\d+)?", re.I)
_PMID = re.compile(r"\d{1,18}")
_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S+)", re.I)
_COMMENT = re.compile(r"(^|\s)#.*", re.S)
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class IdList:
    """Ids of articles: numbers of PMC ids, PubMed ids, and lower-case DOIs."""

    pmc: frozenset[int] = frozenset()
    pubmed: frozenset[int] = frozenset()
    doi: frozenset[str] = frozenset()

    def holds(self, number: int, pmid: str, doi: str) -> bool:
        """Return whether an article is in the list by any of its ids; 0 and "" stand for an id that is not known."""
        return (
            (number > 0 and number in self.pmc)
            or (pmid.isdecimal() and int(pmid) in self.pubmed)
            or (bool(doi) and doi.lower() in self.doi)
        )

    @property
    def by_number(self) -> bool:
        """Whether PMC ids alone are in the list, so that an article's number decides."""
        return not self.pubmed and not self.doi


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The lists that a config names: those to keep (None: all) and those to leave out; `digest` is that of both."""

    keep: IdList | None
    exclude: IdList
    digest: str


def read_ids(config: SelectionConfig) -> Ids:
    """Read the lists of a config; read once in each process.

    Raises:
        ConfigError: no such file, an empty list to keep, or lines that are no ids.
    """
    keep = _read_list(config.ids, _stamp(config.ids)) if config.ids else None
    exclude = _read_list(config.exclude_ids, _stamp(config.exclude_ids)) if config.exclude_ids else IdList()
    if keep == IdList():
        raise ConfigError(f"select.ids: {config.ids} holds no id; leave the setting out to keep every article")
    return Ids(keep=keep, exclude=exclude, digest=_digest(keep, exclude))


def select_ref(ref: ArticleRef, ids: Ids) -> None:
    """Reject an article that its number alone rules out, before anything of it is fetched.

    Raises:
        ItemRejectedError: article_not_selected.
    """
    if not ref.number:
        return
    if ref.number in ids.exclude.pmc:
        _reject(f"{ref.pmcid} is in the list of ids to leave out")
    if ids.keep is not None and ids.keep.by_number and ref.number not in ids.keep.pmc:
        _reject(f"{ref.pmcid} is not in the list of ids to keep")


def select_ids(number: int, pmid: str, doi: str, ids: Ids) -> None:
    """Reject an article by all of its ids.

    Raises:
        ItemRejectedError: article_not_selected.
    """
    shown = ", ".join(filter(None, (f"PMC{number}" if number else "", pmid, doi)))
    if ids.exclude.holds(number, pmid, doi):
        _reject(f"{shown} is in the list of ids to leave out")
    if ids.keep is not None and not ids.keep.holds(number, pmid, doi):
        _reject(f"{shown} is not in the list of ids to keep")


def select(metadata: ArticleMetadata, ref: ArticleRef, config: SelectionConfig, ids: Ids) -> None:
    """Reject an article by its metadata.

    Raises:
        ItemRejectedError: article_retracted, article_ocr, license_not_allowed or article_not_selected.
    """
    if metadata.is_retracted and not config.retracted:
        raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_RETRACTED, "the metadata says is_retracted")
    if metadata.is_historical_ocr and not config.historical_ocr:
        raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_OCR, "the metadata says is_historical_ocr")
    group = license_group(spdx_id(metadata.license_code))
    if group not in config.license_groups:
        detail = f"license_code {metadata.license_code!r} is {group}; allowed: {', '.join(config.license_groups)}"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.LICENSE_NOT_ALLOWED, detail)
    select_ids(ref.number, metadata.pmid, metadata.doi, ids)
    _select_date(metadata.published, config)
    if config.journals and _journal(metadata.journal) not in map(_journal, config.journals):
        _reject(f"journal {metadata.journal!r} is not among those to keep")


def _select_date(published: str, config: SelectionConfig) -> None:
    """Compare dates as far as both are known: an article of 2020 lies in a range that begins in July 2020."""
    if not config.published_from and not config.published_to:
        return
    if not published:
        _reject("the metadata gives no date of publication")
    first, last = config.published_from, config.published_to
    if first and published[: len(first)] < first[: len(published)]:
        _reject(f"published {published}, before {first}")
    if last and published[: len(last)] > last[: len(published)]:
        _reject(f"published {published}, after {last}")


def _journal(name: str) -> str:
    return " ".join(name.replace(".", " ").lower().split())


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file's content: a list that was edited is read again."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a file of ids, one a line") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _read_list(path: Path, _stamp: tuple[int, int]) -> IdList:
    pmc: set[int] = set()
    pubmed: set[int] = set()
    dois: set[str] = set()
    wrong: list[int] = []
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            text = _COMMENT.sub("", line).strip()
            if not text:
                continue
            if match := _PMCID.fullmatch(text):
                pmc.add(int(match.group(1)))
            elif _PMID.fullmatch(text):
                pubmed.add(int(text))
            elif match := _DOI.fullmatch(text):
                dois.add(match.group(1).lower())
            else:
                wrong.append(number)
    if wrong:
        shown = ", ".join(map(str, wrong[:_MAX_NAMED])) + ", …" * (len(wrong) > _MAX_NAMED)
        raise ConfigError(
            f"{path}: {len(wrong)} lines are no ids (lines {shown}); "
            "allowed: PMC1234567, a PubMed id in digits, or a DOI that begins with 10."
        )
    return IdList(pmc=frozenset(pmc), pubmed=frozenset(pubmed), doi=frozenset(dois))


@lru_cache(maxsize=4)
def _digest(keep: IdList | None, exclude: IdList) -> str:
    digest = hashlib.sha256()
    for ids in (keep, exclude):
        parts = [] if ids is None else [sorted(ids.pmc), sorted(ids.pubmed), sorted(ids.doi)]
        digest.update(repr(parts).encode())
    return digest.hexdigest()


def _reject(detail: str) -> None:
    raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_NOT_SELECTED, detail)
