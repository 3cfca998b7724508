"""A JATS article in one pass: its figures with captions, graphics, mentions and licence."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from dataset_builders.pmc.config import ParseLimits
from dataset_builders.pmc.licensing import jats_license
from dataset_builders.pmc.mentions import Mention, find_mentions
from dataset_builders.pmc.parser import parse_xml
from dataset_builders.pmc.xmltext import child_of, local_name, text_of

HREF = "{http://www.w3.org/1999/xlink}href"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# What may hold graphics inside a figure that are not the figure.
_NOT_THE_FIGURE = frozenset(
    {"fig", "caption", "disp-formula", "inline-formula", "table-wrap", "supplementary-material", "permissions"}
)
_THUMBNAIL = frozenset({"thumb", "thumbnail", "web-thumb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure. `position` counts the article's figures from 0; `id` is `@<position>` where the XML gives none.

    `caption` is without the label; `group_caption` is that of the figure groups around it. `hrefs` are the graphics in
    order, one for each set of alternatives. `license` is an SPDX identifier where the figure has a licence of its own.
    """

    id: str
    label: str
    position: int
    caption: str
    group_caption: str
    hrefs: tuple[str, ...]
    mentions: tuple[Mention, ...]
    credit: str
    license: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JatsArticle:
    """What the XML of an article says. Identifiers are empty strings, `license` None, where it does not say."""

    pmcid: str
    pmid: str
    doi: str
    title: str
    journal: str
    language: str
    license: str | None
    license_text: str
    figures: tuple[Figure, ...]
    translated_figures: int
    recovered: bool


@dataclass(slots=True)
class _Scan:
    """The elements of interest, in document order."""

    figures: list[etree._Element]
    groups: list[etree._Element]
    xrefs: list[etree._Element]


def parse_jats(data: bytes, limits: ParseLimits | None = None) -> JatsArticle:
    """Parse an article's XML.

    Raises:
        ItemRejectedError: file_too_large, article_malformed or article_unsafe.
    """
    root, recovered = parse_xml(data, limits or ParseLimits())
    if local_name(root) != "article":  # in the envelope of an OAI record, or of an answer to efetch
        root = next(root.iter("{*}article"), root)
    translated = _drop_translations(root)
    scan = _scan(root)
    language = root.get(LANGUAGE) or "en"
    mentions = find_mentions(scan.figures, _targets(scan), scan.xrefs)
    groups = {group: _caption(group, language) for group in scan.groups}  # once each, however many figures share it
    figures = [
        _figure(element, number, language, groups, mentions.get(number, ()))
        for number, element in enumerate(scan.figures)
    ]
    front = child_of(root, "front")
    meta = child_of(front, "article-meta")
    permissions = child_of(meta, "permissions")
    license_id, license_text = jats_license(permissions if permissions is not None else meta)
    ids = _article_ids(meta)
    return JatsArticle(
        pmcid=_pmcid(ids),
        pmid=ids.get("pmid", ""),
        doi=ids.get("doi", ""),
        title=text_of(child_of(child_of(meta, "title-group"), "article-title")),
        journal=_journal(front),
        language=language,
        license=license_id,
        license_text=license_text,
        figures=tuple(figures),
        translated_figures=translated,
        recovered=recovered,
    )


def _drop_translations(root: etree._Element) -> int:
    """Remove sub-articles that repeat the article in another language; return how many figures they repeat."""
    dropped = 0
    waiting = [root]
    while waiting:
        whole = waiting.pop()
        for part in list(whole.iterchildren("{*}sub-article", "{*}response")):
            if part.get("article-type") == "translation":
                dropped += sum(1 for _ in part.iter("{*}fig"))
                whole.remove(part)
            else:
                waiting.append(part)
    return dropped


def _scan(root: etree._Element) -> _Scan:
    scan = _Scan([], [], [])
    for element in root.iter("{*}fig", "{*}fig-group"):
        if local_name(element) == "fig":
            scan.figures.append(element)
            continue
        scan.groups.append(element)
        if next(element.iter("{*}fig"), None) is None:
            scan.figures.append(element)  # a group that holds graphics and no figure is the figure
    if scan.figures:
        scan.xrefs = [xref for xref in root.iter("{*}xref") if xref.get("ref-type") != "bibr"]
    return scan


def _targets(scan: _Scan) -> dict[str, list[int]]:
    """The figure numbers that a reference to an id means: a figure's own, and all of a group's."""
    number_of = {element: number for number, element in enumerate(scan.figures)}
    targets: dict[str, list[int]] = {}
    for group in scan.groups:
        if group.get("id"):
            members = [number_of[element] for element in group.iter("{*}fig") if element in number_of]
            targets[str(group.get("id"))] = members
    for element, number in number_of.items():
        if element.get("id"):
            targets.setdefault(str(element.get("id")), [number])
    return targets


def _figure(
    element: etree._Element,
    number: int,
    language: str,
    groups: dict[etree._Element, str],
    mentions: tuple[Mention, ...],
) -> Figure:
    permissions = child_of(element, "permissions")
    credits_ = [text_of(part) for part in element.iterchildren("{*}attrib", "{*}permissions")]
    own_license = jats_license(permissions)[0] if permissions is not None else None
    around = reversed([groups[group] for group in element.iterancestors("{*}fig-group")])
    return Figure(
        id=element.get("id") or f"@{number}",
        label=text_of(child_of(element, "label")),
        position=number,
        caption=_caption(element, language),
        group_caption=" ".join(filter(None, around)),
        hrefs=tuple(_hrefs(element)),
        mentions=mentions,
        credit=" ".join(filter(None, credits_)),
        license=own_license,
    )


def _caption(element: etree._Element, language: str) -> str:
    """The caption in English where there is one, else in the article's language, else in the first that comes."""
    captions = list(element.iterchildren("{*}caption"))
    languages = {caption.get(LANGUAGE) for caption in captions}
    if len(languages) > 1:
        chosen = next((code for code in ("en", language, None) if code in languages), captions[0].get(LANGUAGE))
        captions = [caption for caption in captions if caption.get(LANGUAGE) == chosen]
    blocks = [block for caption in captions for block in (caption if _is_plain(caption) else [caption])]
    return " ".join(filter(None, map(text_of, blocks)))


def _is_plain(caption: etree._Element) -> bool:
    """Whether a caption is a title and paragraphs and nothing between them, as nearly all are."""
    plain = all(local_name(child) in {"title", "p"} and not (child.tail or "").strip() for child in caption)
    return plain and not (caption.text or "").strip()


def _hrefs(figure: etree._Element) -> list[str]:
    """The figure's graphics: the first full-size one of each set of alternatives; other objects' graphics left out."""
    hrefs: list[str] = []
    chosen: set[etree._Element] = set()
    waiting = list(reversed(figure))
    while waiting:
        element = waiting.pop()
        name = local_name(element)
        if name in {"graphic", "media"}:
            href, parent = _href(element), element.getparent()
            if not href or parent in chosen or _is_thumbnail(element) or not _is_picture(element, name):
                continue
            hrefs.append(href)
            if parent is not None and local_name(parent) == "alternatives":
                chosen.add(parent)
        elif name not in _NOT_THE_FIGURE:
            waiting.extend(reversed(element))
    return hrefs


def _href(element: etree._Element) -> str:
    href = element.get(HREF) or element.get("href") or element.get("xlink:href")
    return " ".join((href or "").split())


def _is_thumbnail(element: etree._Element) -> bool:
    return bool({element.get("content-type", "").lower(), element.get("specific-use", "").lower()} & _THUMBNAIL)


def _is_picture(element: etree._Element, name: str) -> bool:
    """Whether an element shows a still picture: `media` does only where it says so."""
    return name == "graphic" or element.get("mimetype", "").lower() == "image"


def _article_ids(meta: etree._Element | None) -> dict[str, str]:
    ids: dict[str, str] = {}
    for element in meta.iterchildren("{*}article-id") if meta is not None else ():
        ids.setdefault(element.get("pub-id-type", ""), text_of(element))
    return ids


def _pmcid(ids: dict[str, str]) -> str:
    """`PMC<number>` of the article; versions (`pmcid-ver`) lose theirs."""
    found = next((ids[kind] for kind in ("pmcid", "pmc", "pmcid-ver") if ids.get(kind)), "")
    digits = found.upper().removeprefix("PMC").partition(".")[0]
    return f"PMC{digits}" if digits.isdigit() else ""


def _journal(front: etree._Element | None) -> str:
    meta = child_of(front, "journal-meta")
    return "" if meta is None else text_of(next(meta.iter("{*}journal-title"), None))
