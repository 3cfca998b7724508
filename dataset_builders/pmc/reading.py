"""Articles read ahead and handed over in order: what is slow on a server happens many times at once, in threads.

An article's own thread fetches its metadata, decides by them whether it is wanted, fetches and parses its XML, and
fetches the media that its figures name and nothing else. The one who takes the articles sees them in the order of the
listing, whatever the network did, so that the spool's bytes do not depend on it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from clipmed.errors import DataError, ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.pmc.archive import Archive
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.jats import JatsArticle, parse_jats
from dataset_builders.pmc.media import find_media
from dataset_builders.pmc.metadata import ArticleMetadata
from dataset_builders.pmc.selection import Ids, select, select_ids, select_ref
from dataset_builders.pmc.sources import Article, ArticleRef, open_article


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One file that a figure names, as it was fetched."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadArticle:
    """An article with everything fetched. `media` has, for every reference, its file or why there is none."""

    ref: ArticleRef
    jats: JatsArticle
    xml_sha256: str
    metadata: ArticleMetadata | None
    media: Mapping[str, Media | ItemRejectedError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one listed article: read, or rejected as a whole. `unsafe_members` are those of its package."""

    ref: ArticleRef
    article: ReadArticle | None = None
    error: ItemRejectedError | None = None
    unsafe_members: tuple[str, ...] = ()

    @property
    def unreachable(self) -> bool:
        """Whether the server failed to give something of the article."""
        errors = [self.error] if self.error else [*self.article.media.values()] if self.article else []
        return any(
            isinstance(error, ItemRejectedError) and error.reason is RejectReason.SOURCE_UNREACHABLE for error in errors
        )


def read_articles(
    refs: Sequence[ArticleRef], archive: Archive, config: PmcConfig, ids: Ids, threads: int
) -> Iterator[Outcome]:
    """Yield what became of each article, in order; at most `threads` are read ahead, and with none no thread is made.

    Raises:
        DataError: `config.network.stop_after_unreachable` articles in a row could not be reached.
    """
    in_a_row = 0
    for outcome in _ahead(refs, archive, config, ids, threads):
        in_a_row = in_a_row + 1 if outcome.unreachable else 0
        if in_a_row >= config.network.stop_after_unreachable:
            last = outcome.error.detail if outcome.error else outcome.ref.path
            raise DataError(
                f"{config.root}: {in_a_row} articles in a row cannot be reached (the last: {last}); see that the "
                "server and the network are up and run the same command again: finished units stay, the others go on"
            )
        yield outcome


def _ahead(
    refs: Sequence[ArticleRef], archive: Archive, config: PmcConfig, ids: Ids, threads: int
) -> Iterator[Outcome]:
    if not threads:
        yield from (read_article(ref, archive, config, ids) for ref in refs)
        return
    with ThreadPoolExecutor(threads, "article") as pool:
        waiting: deque[Future[Outcome]] = deque()
        try:
            for ref in refs:
                waiting.append(pool.submit(read_article, ref, archive, config, ids))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_article(ref: ArticleRef, archive: Archive, config: PmcConfig, ids: Ids) -> Outcome:
    """Fetch one article, or say why it is not wanted or cannot be had."""
    unsafe: tuple[str, ...] = ()
    try:
        if ref.superseded_by:
            detail = f"{ref.superseded_by} stands for {ref.pmcid}"
            raise ItemRejectedError(Stage.SOURCE, RejectReason.SUPERSEDED_VERSION, detail)
        select_ref(ref, ids)
        files = open_article(ref, archive, config)
        unsafe = files.unsafe_members
        if files.metadata is not None:
            select(files.metadata, ref, config.select, ids)
        article = _read(ref, files, config)
        if files.metadata is None:
            select_ids(ref.number, article.jats.pmid, article.jats.doi, ids)
        return Outcome(ref=ref, article=article, unsafe_members=unsafe)
    except ItemRejectedError as error:
        return Outcome(ref=ref, error=error, unsafe_members=unsafe)


def _read(ref: ArticleRef, files: Article, config: PmcConfig) -> ReadArticle:
    xml = files.xml()
    jats = parse_jats(xml, config.parse)
    if not jats.figures:
        raise ItemRejectedError(Stage.PARSE, RejectReason.ARTICLE_WITHOUT_FIGURES, "no figure in the XML")
    media: dict[str, Media | ItemRejectedError] = {}
    for href in dict.fromkeys(href for figure in jats.figures for href in figure.hrefs):
        try:
            name = find_media(href, files.media_names)
            media[href] = Media(name=name, data=files.media(name))
        except ItemRejectedError as error:
            media[href] = error
    return ReadArticle(
        ref=ref, jats=jats, xml_sha256=hashlib.sha256(xml).hexdigest(), metadata=files.metadata, media=media
    )
