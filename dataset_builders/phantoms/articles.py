"""Synthetic articles: which figures each one has, what is wrong with a few of them, and their JATS and media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset_builders.phantoms import sentences
from dataset_builders.phantoms.config import PhantomConfig
from dataset_builders.phantoms.datasets import encode, seed_of
from dataset_builders.phantoms.drawing import draw_phantom
from dataset_builders.phantoms.vocabulary import trained_combinations

FIRST_NUMBER = 990_000_001  # far above any article of PubMed Central
LICENSES = ("CC BY", "CC BY", "CC0", "CC BY-NC", "CC BY-SA", None)
LICENSE_URLS = {
    "CC BY": "https://creativecommons.org/licenses/by/4.0/",
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY-NC": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC BY-SA": "https://creativecommons.org/licenses/by-sa/4.0/",
}


class Defect(StrEnum):
    """What is planted in an article, so that a builder has something to find."""

    NONE = "none"
    RETRACTED = "retracted"
    NO_FIGURES = "no_figures"
    MALFORMED = "malformed"
    MISSING_MEDIA = "missing_media"
    CORRUPT_IMAGE = "corrupt_image"
    DUPLICATE_IMAGE = "duplicate_image"
    OLD_VERSION = "old_version"
    TEXT_MINING_ONLY = "text_mining_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its panels, its caption and its encoded image. An empty image is a file that is not there."""

    identifier: str
    panels: tuple[tuple[str, str], ...]
    caption: str
    file: str
    image: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One synthetic article, ready to be written in either layout."""

    number: int
    title: str
    license: str | None
    defect: Defect
    figures: tuple[Figure, ...]
    mentions: tuple[str, ...]

    @property
    def pmcid(self) -> str:
        """The article's id."""
        return f"PMC{self.number}"


def make_article(config: PhantomConfig, index: int, defect: Defect) -> Article:
    """Draw the article number `index`."""
    rng = np.random.default_rng(seed_of(config.seed, "article", index))
    count = 0 if defect is Defect.NO_FIGURES else int(rng.integers(2, 5))
    figures = tuple(_figure(rng, config, index, number) for number in range(1, count + 1))
    if defect is Defect.DUPLICATE_IMAGE:
        figures = (*figures[:-1], _renamed(figures[-1], shared_image(config)))
    elif defect is Defect.CORRUPT_IMAGE:
        figures = (*figures[:-1], _renamed(figures[-1], figures[-1].image[: len(figures[-1].image) // 2]))
    elif defect is Defect.MISSING_MEDIA:
        figures = (*figures[:-1], _renamed(figures[-1], b""))
    license_code = "TDM" if defect is Defect.TEXT_MINING_ONLY else LICENSES[int(rng.integers(len(LICENSES)))]
    return Article(
        number=FIRST_NUMBER + index,
        title=sentences.title(rng, sum(len(figure.panels) for figure in figures)),
        license=license_code,
        defect=defect,
        figures=figures,
        mentions=_mentions(rng, figures),
    )


def shared_image(config: PhantomConfig) -> bytes:
    """Return the one image that several articles share."""
    return _panel_image(np.random.default_rng(seed_of(config.seed, "shared")), config.size, (("xray", "mass"),))


def jats(article: Article, *, extension: bool) -> bytes:
    """Return the article's XML. With `extension`, graphics name whole files; legacy packages name stems."""
    figures = "\n".join(_figure_xml(figure, number, extension) for number, figure in enumerate(article.figures, 1))
    paragraphs = "\n".join(f"<p>{text}</p>" for text in article.mentions)
    url = LICENSE_URLS.get(article.license or "")
    permissions = (
        f'<permissions><license xlink:href="{url}"><p>Open licence.</p></license></permissions>' if url else ""
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="other">\n<front><journal-meta>'
        "<journal-title-group><journal-title>Journal of Drawn Phantoms</journal-title></journal-title-group>"
        f'</journal-meta><article-meta><article-id pub-id-type="pmcid">{article.pmcid}</article-id>'
        f'<article-id pub-id-type="doi">10.99999/phantom.{article.number}</article-id>'
        f"<title-group><article-title>{article.title}</article-title></title-group>"
        f"<pub-date><year>2026</year></pub-date>{permissions}</article-meta></front>\n"
        f"<body><sec><title>Phantoms</title><p>{sentences.NOTICE}</p>\n{paragraphs}\n{figures}\n</sec></body>\n</article>\n"
    )
    if article.defect is Defect.MALFORMED:
        text = text.replace("</title></sec>", "").replace("</article-meta>", "<unclosed>")
    return text.encode()


def _figure(rng: np.random.Generator, config: PhantomConfig, index: int, number: int) -> Figure:
    combinations = trained_combinations()
    count = int(rng.choice([1, 1, 1, 2, 3, 4]))
    modality, _ = combinations[int(rng.integers(len(combinations)))]
    inside = [pair for pair in combinations if pair[0] == modality]  # a figure's panels show one modality
    panels = tuple(inside[int(choice)] for choice in rng.integers(len(inside), size=count))
    return Figure(
        identifier=f"F{number}",
        panels=panels,
        caption=sentences.caption(rng, panels),
        file=f"phantom-{index:04d}-g{number:03d}.jpg",
        image=_panel_image(rng, config.size, panels),
    )


def _panel_image(rng: np.random.Generator, size: int, panels: Sequence[tuple[str, str]]) -> bytes:
    """Draw the panels, two in a row, with white gutters and, where there are several, letters."""
    gutter = size // 12
    step = size + gutter
    columns, rows = min(2, len(panels)), (len(panels) + 1) // 2
    sheet = Image.new("RGB", (columns * step - gutter, rows * step - gutter), "white")
    for number, (modality, finding) in enumerate(panels):
        panel = Image.fromarray(draw_phantom(modality, finding, rng, size))
        if len(panels) > 1:
            pen = ImageDraw.Draw(panel)
            pen.rectangle((0, 0, 19, 19), fill="white")
            pen.text((10, 10), chr(65 + number), fill="black", font=ImageFont.load_default(size=18), anchor="mm")
        sheet.paste(panel, (number % 2 * step, number // 2 * step))
    return encode(sheet, "JPEG")


def _mentions(rng: np.random.Generator, figures: Sequence[Figure]) -> tuple[str, ...]:
    texts = []
    for number, figure in enumerate(figures, 1):
        reference = f'<xref ref-type="fig" rid="{figure.identifier}">Figure {number}</xref>'
        texts.append(sentences.mention(rng, reference, figure.panels))
    if len(figures) > 1:
        both = f"{figures[0].identifier} {figures[1].identifier}"
        texts.append(f'All of it was drawn by one program (<xref ref-type="fig" rid="{both}">Figures 1 and 2</xref>).')
    return tuple(texts)


def _figure_xml(figure: Figure, number: int, extension: bool) -> str:
    href = figure.file if extension else figure.file.rpartition(".")[0]
    return (
        f'<fig id="{figure.identifier}" position="float"><label>Figure {number}</label>'
        f'<caption><p>{escape(figure.caption)}</p></caption><graphic xlink:href="{href}"/></fig>'
    )


def _renamed(figure: Figure, image: bytes) -> Figure:
    """The same figure with another image."""
    return Figure(
        identifier=figure.identifier, panels=figure.panels, caption=figure.caption, file=figure.file, image=image
    )
