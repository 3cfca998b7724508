"""The builder: articles of an archive into a spool, unit by unit, with every drop accounted for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.configuration import to_dict
from clipmed.errors import ItemRejectedError
from clipmed.images import ingest_image
from clipmed.jobs import JobsConfig, run_units
from clipmed.licenses import spdx_id
from clipmed.records import Caption, Sample, sample_key, unit_of_group
from clipmed.rejects import RejectReason, Stage
from dataset_builders.items import summarise
from dataset_builders.pmc.captions import caption_modality, caption_panels
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.jats import Figure, JatsArticle, parse_jats
from dataset_builders.pmc.licensing import combined_license
from dataset_builders.pmc.media import find_media
from dataset_builders.pmc.mentions import Mention, cut_mention
from dataset_builders.pmc.metadata import md5_hex, printable
from dataset_builders.pmc.sources import Article, ArticleRef, list_articles, open_article
from shards.spool import SpoolInfo, UnitWriter, open_spool, unit_path, write_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWork:
    """One work unit: its number and its articles."""

    unit: int
    refs: tuple[ArticleRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """An article that can be read, with what its samples share."""

    ref: ArticleRef
    files: Article
    jats: JatsArticle
    xml_sha256: str


def build_pmc(config: PmcConfig, out: Path, jobs: JobsConfig) -> dict[str, Any]:
    """Build the spool at `out`, or finish one that was begun with the same config over the same files.

    Returns:
        counts over all units: source, units, seen, samples, rejects, rejects_by_reason, counters (articles, figures …).

    Raises:
        ConfigError: the root does not exist or holds no article.
        DataError: `out` holds a spool of another config, or of other archive files.
    """
    refs = list_articles(config.root, config.layout)
    info = SpoolInfo(source=config.source, num_units=config.num_units, config=_spool_config(config, refs))
    waiting = set(open_spool(out, info))
    work = [unit for unit in _units(refs, config.num_units) if unit.unit in waiting]
    totals: Counter[str] = Counter()
    function = partial(build_unit, config=config, out=out)
    with tqdm(total=len(work), unit="unit", desc=f"{config.source}: {len(refs)} articles") as bar:
        for _, counts in run_units(function, work, jobs, f"build-{config.source}"):
            totals.update(counts)
            elapsed = max(bar.format_dict["elapsed"], 1e-3)
            bar.set_postfix_str(
                f"{totals['articles'] / elapsed:.1f} articles/s, {totals['figures'] / elapsed:.1f} figures/s, "
                f"{totals['rejects']} rejects",
                refresh=False,
            )
            bar.update()
    return summarise(out)


def build_unit(work: UnitWork, config: PmcConfig, out: Path) -> dict[str, int]:
    """Write one unit of the spool; return its counts (articles, figures, samples, rejects, seen)."""
    with write_unit(out, work.unit, config.source) as writer:
        for ref in work.refs:
            _add_article(ref, config, writer)
    summary = json.loads((unit_path(out, work.unit) / "unit.json").read_text())
    return {**summary["counters"], **{name: summary[name] for name in ("seen", "samples", "rejects")}}


def _spool_config(config: PmcConfig, refs: list[ArticleRef]) -> dict[str, Any]:
    """The config that decides the spool's bytes: what is in the archive counts, not the folder it lies in."""
    plain = to_dict(config)
    del plain["root"]
    listing = "\n".join(f"{ref.pmcid} {ref.path!a} {ref.superseded_by!a}" for ref in refs)
    return {**plain, "builder": "pmc", "listing_sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _units(refs: list[ArticleRef], num_units: int) -> list[UnitWork]:
    slices: list[list[ArticleRef]] = [[] for _ in range(num_units)]
    for ref in refs:
        slices[unit_of_group(_name(ref), num_units)].append(ref)
    return [UnitWork(unit=unit, refs=tuple(members)) for unit, members in enumerate(slices)]


def _add_article(ref: ArticleRef, config: PmcConfig, writer: UnitWriter) -> None:
    """Write the samples and rejects of one article version; it leaves at least one of them."""
    writer.count("articles")
    name = printable(ref.path)
    if ref.superseded_by:
        detail = f"{printable(ref.superseded_by)} stands for {ref.pmcid}"
        writer.reject(name, Stage.SOURCE, RejectReason.SUPERSEDED_VERSION, detail)
        return
    try:
        files = open_article(ref, config)
        for member in files.unsafe_members:
            detail = "a link, or a path that leaves the package"
            writer.reject(f"{name}:{printable(member)}", Stage.SOURCE, RejectReason.PATH_UNSAFE, detail)
        article = _read_article(ref, files, config)
    except ItemRejectedError as error:
        writer.reject_error(name, error)
        return
    writer.count("articles_read")
    writer.count("articles_recovered", int(article.jats.recovered))
    writer.count("figures", len(article.jats.figures))
    writer.count("figures_in_translations", article.jats.translated_figures)
    seen: set[str] = set()
    for figure in article.jats.figures:
        _add_figure(article, figure, config, writer, seen)


def _read_article(ref: ArticleRef, files: Article, config: PmcConfig) -> _Opened:
    if files.metadata and files.metadata.is_retracted and not config.include_retracted:
        raise ItemRejectedError(Stage.SOURCE, RejectReason.ARTICLE_RETRACTED, "the metadata says is_retracted")
    xml = files.xml()
    jats = parse_jats(xml, config.parse)
    if not jats.figures:
        raise ItemRejectedError(Stage.PARSE, RejectReason.ARTICLE_WITHOUT_FIGURES, "no figure in the XML")
    return _Opened(ref=ref, files=files, jats=jats, xml_sha256=hashlib.sha256(xml).hexdigest())


def _add_figure(article: _Opened, figure: Figure, config: PmcConfig, writer: UnitWriter, seen: set[str]) -> None:
    """Write every graphic of a figure as a sample or a reject."""
    name = f"{_name(article.ref)}/{figure.id}"
    if not figure.hrefs:
        detail = f"{figure.label or 'a figure without label'} names no image"
        writer.reject(name, Stage.PARSE, RejectReason.FIGURE_WITHOUT_GRAPHIC, detail)
    for number, href in enumerate(figure.hrefs):
        item = f"{name}/{href}"
        try:
            if item in seen:
                detail = "the same figure and graphic come twice in the article"
                raise ItemRejectedError(Stage.PARSE, RejectReason.DUPLICATE_EXACT, detail)
            seen.add(item)
            writer.add(_sample(article, figure, number, config))
        except ItemRejectedError as error:
            writer.reject_error(item, error)


def _sample(article: _Opened, figure: Figure, graphic: int, config: PmcConfig) -> Sample:
    href = figure.hrefs[graphic]
    mentions = figure.mentions[: config.mentions.max_mentions]
    captions = tuple(_captions(figure, mentions, config))
    media_name = find_media(href, article.files.media_names)
    raw = article.files.media(media_name)
    stored = ingest_image(raw, config.image)
    metadata = article.files.metadata
    code = spdx_id(metadata.license_code) if metadata and metadata.license_code else None
    media = {"media": media_name, "media_md5": md5_hex(raw), "graphic": graphic, "num_graphics": len(figure.hrefs)}
    return Sample(
        key=sample_key(config.source, f"{_name(article.ref)}/{figure.id}/{href}"),
        source=config.source,
        image=stored.jpeg,
        captions=captions,
        modality=caption_modality(f"{figure.caption} {figure.group_caption}"),
        group=_pmcid(article) or _name(article.ref),
        license=combined_license([code, article.jats.license, figure.license]),
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        provenance={**_article_provenance(article), **_figure_provenance(figure, mentions), "href": href, **media},
    )


def _captions(figure: Figure, mentions: tuple[Mention, ...], config: PmcConfig) -> Iterator[Caption]:
    """The figure's own caption first, then what the text says of it.

    Raises:
        ItemRejectedError: caption_missing or caption_too_short, where there is no mention either.
    """
    own = " ".join(filter(None, (figure.caption, figure.group_caption)))
    texts = {cut_mention(mention, config.mentions): None for mention in mentions}
    texts = {text: None for text in texts if len(text) >= config.mentions.min_chars and text != own}
    if len(own) >= config.min_caption_chars:
        yield Caption(text=own, origin="figure")
    elif not texts and own:
        detail = f"{len(own)} characters and no mention; allowed: {config.min_caption_chars} or more"
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_TOO_SHORT, detail)
    elif not texts:
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_MISSING, "no caption and no mention")
    for text in texts:
        yield Caption(text=text, origin="mention")


def _name(ref: ArticleRef) -> str:
    """What the article is called in keys and items: its PMC id, or the path of a package that names none."""
    return ref.pmcid if ref.number else printable(ref.path)


def _pmcid(article: _Opened) -> str:
    return article.ref.pmcid if article.ref.number else article.jats.pmcid


def _article_provenance(article: _Opened) -> dict[str, Any]:
    jats, metadata = article.jats, article.files.metadata
    return {
        "pmcid": _pmcid(article),
        "version": article.ref.version,
        "pmid": jats.pmid or (metadata.pmid if metadata else ""),
        "doi": jats.doi or (metadata.doi if metadata else ""),
        "title": jats.title or (metadata.title if metadata else ""),
        "journal": jats.journal,
        "language": jats.language,
        "xml_sha256": article.xml_sha256,
        "recovered": jats.recovered,
        "retracted": metadata.is_retracted if metadata else None,
        "license_code": metadata.license_code if metadata else None,
        "license_jats": jats.license,
        "license_text": jats.license_text,
    }


def _figure_provenance(figure: Figure, mentions: tuple[Mention, ...]) -> dict[str, Any]:
    return {
        "figure_id": figure.id,
        "label": figure.label,
        "position": figure.position,
        "panels": caption_panels(figure.caption),
        "mentions": [{"paragraph": mention.paragraph, "panels": list(mention.panels)} for mention in mentions],
        "credit": figure.credit,
        "license_figure": figure.license,
    }
