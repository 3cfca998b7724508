"""Real articles: none lost, every caption word kept, every link between figure and paragraph found."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from lxml import etree

from dataset_builders.pmc.jats import JatsArticle, parse_jats

pytestmark = pytest.mark.real_data
NOT_PROSE = {"tex-math", "annotation", "supplementary-material", "table-wrap", "fig", "fig-group", "media", "object-id"}
Link = tuple[str, str]


def name_of(element: etree._Element) -> str:
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def naive_words(element: etree._Element) -> list[str]:
    """The words of an element by plain recursion, with a space at every tag that is a block."""
    parts: list[str] = []

    def walk(node: etree._Element) -> None:
        parts.append(node.text or "")
        for child in node:
            if isinstance(child.tag, str) and name_of(child) not in NOT_PROSE:
                block = name_of(child) in {"p", "title", "list", "list-item", "disp-formula", "break", "label"}
                parts.append(" " if block else "")
                walk(child)
                parts.append(" " if block else "")
            parts.append(child.tail or "")

    walk(element)
    return re.findall(r"\w+", "".join(parts))


def naive_links(root: etree._Element) -> set[Link]:
    """(figure id, start of the paragraph's words) of every reference, by the plainest reading of the standard."""
    ids = {element.get("id") for element in root.iter("{*}fig")}
    links = set()
    for xref in root.iter("{*}xref"):
        paragraph = next(xref.iterancestors("{*}p", "{*}fig", "{*}td", "{*}th"), None)
        if paragraph is None or name_of(paragraph) != "p":
            continue  # a caption's title or a table's cell
        figure = next(paragraph.iterancestors("{*}fig"), None)
        for rid in xref.get("rid", "").split():
            if rid in ids and (figure is None or figure.get("id") != rid):
                links.add((rid, " ".join(naive_words(paragraph)[:6])))
    return links


def our_links(article: JatsArticle) -> set[Link]:
    return {
        (figure.id, " ".join(re.findall(r"\w+", mention.text)[:6]))
        for figure in article.figures
        for mention in figure.mentions
    }


def articles(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".xml", ".nxml"})


def parse_tree(path: Path) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, huge_tree=True, remove_pis=True, remove_comments=True)
    return etree.parse(path, parser).getroot()


def test_measured_articles_give_the_measured_figures(real_data: Path):
    folder = real_data / "jats" / "measured"
    with (folder / "files.tsv").open(newline="") as stream:
        expected = {row["file"]: int(row["figs"]) for row in csv.DictReader(stream, delimiter="\t")}
    found = {name: len(parse_jats((folder / name).read_bytes()).figures) for name in expected}
    assert found == expected


def test_no_article_of_the_corpus_is_lost_or_needs_repair(real_data: Path):
    paths = articles(real_data / "jats")
    parsed = [parse_jats(path.read_bytes()) for path in paths]
    assert len(parsed) == 358
    assert not any(article.recovered for article in parsed)
    assert all(figure.hrefs for article in parsed for figure in article.figures)


def test_every_caption_word_is_kept(real_data: Path):
    lost: dict[str, list[str]] = {}
    for path in articles(real_data / "jats"):
        figures = list(parse_tree(path).iter("{*}fig"))
        ours = parse_jats(path.read_bytes()).figures
        for element, figure in zip(figures, ours, strict=True):
            wanted = [word for caption in element.iterchildren("{*}caption") for word in naive_words(caption)]
            if re.findall(r"\w+", figure.caption) != wanted:
                lost[f"{path.name} {figure.id}"] = wanted
    assert lost == {}


def test_every_link_between_figure_and_paragraph_is_found(real_data: Path):
    missing: dict[str, set[Link]] = {}
    total = 0
    for path in articles(real_data / "jats"):
        wanted = naive_links(parse_tree(path))
        total += len(wanted)
        if left := wanted - our_links(parse_jats(path.read_bytes())):
            missing[path.name] = left
    assert missing == {}
    assert total > 2000
