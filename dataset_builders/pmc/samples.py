"""A read article into samples: whole figures, their panels, and a reject with its reason for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from clipmed.errors import ItemRejectedError
from clipmed.images import ArrayHWC, SourceImage, StoredImage, store_pixels
from clipmed.licenses import spdx_id
from clipmed.records import Caption, Modality, Sample, sample_key
from clipmed.rejects import RejectReason, Stage
from dataset_builders.figures.alignment import AlignedPanel, align
from dataset_builders.figures.kinds import KindClassifier, open_classifier
from dataset_builders.figures.language import caption_language
from dataset_builders.figures.panels import PanelDetector, open_detector
from dataset_builders.figures.subcaptions import CaptionSplitter, Subcaption, open_splitter
from dataset_builders.pmc.captions import caption_modality
from dataset_builders.pmc.config import PmcConfig
from dataset_builders.pmc.credits import Credit, find_credit
from dataset_builders.pmc.jats import Figure
from dataset_builders.pmc.licensing import combined_license
from dataset_builders.pmc.mentions import Mention, cut_mention
from dataset_builders.pmc.metadata import printable
from dataset_builders.pmc.reading import Media, Outcome, ReadArticle
from dataset_builders.pmc.sources import ArticleRef
from shards.spool import UnitWriter

KIND_SIDE = 256
GROUP_BYTES = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What is said of an image: its captions, the parts of the first one, and what is read from them."""

    captions: tuple[Caption, ...]
    parts: Sequence[Subcaption]
    modality: Modality
    language: str
    credit: Credit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graphic:
    """One graphic of a figure: its place in the article, its file and its image."""

    article: ReadArticle
    figure: Figure
    words: _Words
    number: int
    item: str
    media: Media
    image: SourceImage

    @property
    def href(self) -> str:
        """The reference that the XML has."""
        return self.figure.hrefs[self.number]


class SampleMaker:
    """Writes the samples and rejects of articles; holds the tools that a config names, opened once a process."""

    def __init__(self, config: PmcConfig, writer: UnitWriter) -> None:
        self._config = config
        self._writer = writer

    @cached_property
    def _detector(self) -> PanelDetector | None:
        return open_detector(self._config.panels)

    @cached_property
    def _splitter(self) -> CaptionSplitter:
        return open_splitter(self._config.panels)

    @cached_property
    def _classifier(self) -> KindClassifier | None:
        return open_classifier(self._config.kinds)

    def add_articles(self, outcomes: Iterable[Outcome]) -> None:
        """Write what became of the listed articles, in order; each leaves at least one sample or reject.

        Articles are read, their words are, and their images are, some megabytes of media at a time: what each of these
        needs is out of the processor's caches after the others.
        """
        for group in _groups(outcomes):
            words = [self._all_words(outcome.article) for outcome in group]
            for outcome, said in zip(group, words, strict=True):
                self._add_article(outcome, said)

    def _all_words(self, article: ReadArticle | None) -> list[_Words | ItemRejectedError]:
        return [self._words(article, figure) for figure in article.jats.figures] if article else []

    def _add_article(self, outcome: Outcome, words: Sequence[_Words | ItemRejectedError]) -> None:
        writer, name = self._writer, printable(outcome.ref.path)
        writer.count("articles")
        for member in outcome.unsafe_members:
            detail = "a link, or a path that leaves the package"
            writer.reject(f"{name}:{printable(member)}", Stage.SOURCE, RejectReason.PATH_UNSAFE, detail)
        if outcome.error is not None:
            writer.reject_error(name, outcome.error)
        if outcome.article is None:
            return
        jats = outcome.article.jats
        writer.count("articles_read")
        writer.count("articles_recovered", int(jats.recovered))
        writer.count("figures", len(jats.figures))
        writer.count("figures_in_translations", jats.translated_figures)
        seen: set[str] = set()
        for figure, said in zip(jats.figures, words, strict=True):
            self._add_figure(outcome.article, figure, said, seen)

    def _words(self, article: ReadArticle, figure: Figure) -> _Words | ItemRejectedError:
        """Return what is said of a figure, or why it cannot become a sample."""
        try:
            captions = tuple(_captions(figure, self._config))
        except ItemRejectedError as error:
            return error
        is_shown = any(isinstance(article.media[href], Media) for href in figure.hrefs)
        return _Words(
            captions=captions,
            parts=self._splitter.split(figure.caption) if is_shown else (),
            modality=caption_modality(f"{figure.caption} {figure.group_caption}"),
            language=caption_language(captions[0].text),
            credit=find_credit(" ".join(filter(None, (figure.caption, figure.group_caption, figure.credit)))),
        )

    def _add_figure(
        self, article: ReadArticle, figure: Figure, words: _Words | ItemRejectedError, seen: set[str]
    ) -> None:
        """Write every graphic of a figure as a sample or a reject, and its panels."""
        name = f"{_name(article.ref)}/{figure.id}"
        if not figure.hrefs:
            detail = f"{figure.label or 'a figure without label'} names no image"
            self._writer.reject(name, Stage.PARSE, RejectReason.FIGURE_WITHOUT_GRAPHIC, detail)
        for number, href in enumerate(figure.hrefs):
            item = f"{name}/{href}"
            try:
                if item in seen:
                    detail = "the same figure and graphic come twice in the article"
                    raise ItemRejectedError(Stage.PARSE, RejectReason.DUPLICATE_EXACT, detail)
                seen.add(item)
                if isinstance(words, ItemRejectedError):
                    raise words
                self._add_graphic(article, figure, words, number, item)
            except ItemRejectedError as error:
                self._writer.reject_error(item, error)

    def _add_graphic(self, article: ReadArticle, figure: Figure, words: _Words, number: int, item: str) -> None:
        media = article.media[figure.hrefs[number]]
        if isinstance(media, ItemRejectedError):
            raise media
        image = SourceImage(media.data, self._config.image)
        graphic = _Graphic(
            article=article, figure=figure, words=words, number=number, item=item, media=media, image=image
        )
        panels, panel_samples = self._panels(graphic) if self._may_be_cut(graphic) else ([], [])
        stored = image.stored()
        whole = self._sample(graphic, item, stored, words)
        facts: dict[str, Any] = {"num_panels": sum(isinstance(made, Sample) for _, made in panel_samples)}
        facts |= self._kind(image.thumbnail(KIND_SIDE)) if self._classifier else {}
        facts |= {"panels": sorted({letter for part in words.parts for letter in part.letters})}
        facts |= {"mentions": _mention_list(figure.mentions[: self._config.mentions.max_mentions])}
        self._writer.add(replace(whole, provenance={**whole.provenance, **facts}))
        self._writer.count("figures_split", int(len(panels) > 1))
        for panel_item, made in panel_samples:
            if isinstance(made, Sample):
                self._writer.add(made)
                self._writer.count("panels")
            else:
                self._writer.reject_error(panel_item, made)

    def _panels(self, graphic: _Graphic) -> tuple[list[AlignedPanel], list[tuple[str, Sample | ItemRejectedError]]]:
        """Return the panels of a compound figure, and what becomes of each: a sample, or why it is none."""
        if self._detector is None:
            return [], []
        self._writer.count("figures_compound")
        pixels = graphic.image.pixels()
        parts = graphic.words.parts
        letters = [letter for part in parts for letter in part.letters]
        height, width = pixels.shape[:2]
        found = self._detector.detect(pixels, letters)
        aligned = align(found, parts, (width, height)) if len(found) > 1 else []
        made: list[tuple[str, Sample | ItemRejectedError]] = []
        used: set[str] = set()
        for panel in aligned:
            mark = _mark(panel, used)
            used.add(mark)
            item = f"{graphic.item}#{mark}"
            try:
                made.append((item, self._panel(graphic, panel, item)))
            except ItemRejectedError as error:
                made.append((item, error))
        return aligned, made

    def _may_be_cut(self, graphic: _Graphic) -> bool:
        """Whether a figure has panels that are told apart by its caption, and that its licence lets us cut."""
        if len(graphic.words.parts) < 2 or len(graphic.figure.hrefs) > 1:
            return False  # which graphic of several shows which part is not known
        no_derivatives = "-ND" in _license(graphic.article, graphic.figure, None)
        return self._config.panels.split_no_derivatives or not no_derivatives

    def _panel(self, graphic: _Graphic, aligned: AlignedPanel, item: str) -> Sample:
        limits, box = self._config.panels, aligned.panel.box
        if not aligned.text or aligned.confidence < limits.min_confidence:
            detail = f"box {box}: confidence {aligned.confidence:.2f}; allowed: {limits.min_confidence:g} or more"
            raise ItemRejectedError(Stage.CAPTION, RejectReason.PANEL_WITHOUT_CAPTION, detail)
        left, top, right, bottom = box
        crop = graphic.image.pixels()[top:bottom, left:right]
        image = replace(self._config.image, min_side=limits.min_side)
        stored = store_pixels(crop, image)
        mentions = [mention for mention in graphic.figure.mentions if set(mention.panels) & set(aligned.letters)]
        texts = [cut_mention(mention, self._config.mentions) for mention in mentions]
        captions = (
            Caption(text=aligned.text, origin="subfigure"),
            *(Caption(text=text, origin="mention") for text in dict.fromkeys(texts) if text != aligned.text),
        )
        modality = caption_modality(aligned.text)
        words = replace(
            graphic.words,
            captions=captions,
            modality=graphic.words.modality if modality is Modality.OTHER else modality,
            language=caption_language(aligned.text),
        )
        sample = self._sample(graphic, item, stored, words)
        facts = {
            "parent": sample_key(self._config.source, graphic.item),
            "panel": {
                "box": list(box),
                "letters": list(aligned.letters),
                "confidence": round(aligned.confidence, 3),
                "detector": self._detector.name if self._detector else "",
                "splitter": self._splitter.name,
            },
            "mentions": _mention_list(mentions),
        }
        facts |= self._kind(crop)
        return replace(sample, provenance={**sample.provenance, **facts})

    def _sample(self, graphic: _Graphic, item: str, stored: StoredImage, words: _Words) -> Sample:
        """A sample with what whole figures and panels have in common."""
        article, figure, credit = graphic.article, graphic.figure, words.credit
        width, height = graphic.image.size
        return Sample(
            key=sample_key(self._config.source, item),
            source=self._config.source,
            image=stored.jpeg,
            captions=words.captions,
            modality=words.modality,
            group=_pmcid(article) or _name(article.ref),
            license=_license(article, figure, credit),
            width=stored.width,
            height=stored.height,
            sha256=stored.sha256,
            phash=stored.phash,
            provenance={
                **_article_provenance(article),
                "figure_id": figure.id,
                "label": figure.label,
                "position": figure.position,
                "license_figure": figure.license,
                "credit": {"kind": str(credit.kind), "text": credit.text} if credit else None,
                "caption_language": words.language,
                "href": graphic.href,
                "graphic": graphic.number,
                "num_graphics": len(figure.hrefs),
                "media": graphic.media.name,
                "media_md5": _stated_md5(article, graphic.media.name),
                "media_sha256": graphic.image.source_sha256,
                "media_size": [width, height],
            },
        )

    def _kind(self, pixels: ArrayHWC) -> dict[str, Any]:
        if self._classifier is None:
            return {}
        kind, score = self._classifier.kind_of(pixels)
        return {"figure_kind": str(kind), "figure_kind_score": round(score, 3), "figure_kind_by": self._classifier.name}


def _groups(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """Yield outcomes in lists of some megabytes of media each."""
    group: list[Outcome] = []
    num_bytes = 0
    for outcome in outcomes:
        media = outcome.article.media.values() if outcome.article else ()
        group.append(outcome)
        num_bytes += sum(len(one.data) for one in media if isinstance(one, Media))
        if num_bytes >= GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    yield group


def _mark(panel: AlignedPanel, used: Iterable[str]) -> str:
    """What a panel is called in its figure: its letters, or its box where it has none or they were used."""
    letters = "".join(panel.letters)
    return letters if letters and letters not in used else "x".join(map(str, panel.panel.box))


def _captions(figure: Figure, config: PmcConfig) -> Iterator[Caption]:
    """The figure's own caption first, then what the text says of it.

    Raises:
        ItemRejectedError: caption_missing or caption_too_short, where there is no mention either.
    """
    own = " ".join(filter(None, (figure.caption, figure.group_caption)))
    cut = (cut_mention(mention, config.mentions) for mention in figure.mentions[: config.mentions.max_mentions])
    texts = [text for text in dict.fromkeys(cut) if len(text) >= config.mentions.min_chars and text != own]
    if len(own) >= config.min_caption_chars:
        yield Caption(text=own, origin="figure")
    elif not texts and own:
        detail = f"{len(own)} characters and no mention; allowed: {config.min_caption_chars} or more"
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_TOO_SHORT, detail)
    elif not texts:
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_MISSING, "no caption and no mention")
    for text in texts:
        yield Caption(text=text, origin="mention")


def _license(article: ReadArticle, figure: Figure, credit: Credit | None) -> str:
    code = article.metadata.license_code if article.metadata else None
    return combined_license([figure.license, article.jats.license, spdx_id(code) if code else None], credit)


def _stated_md5(article: ReadArticle, media: str) -> str | None:
    """The checksum that the archive states, with which the file was compared; None where it states none."""
    return (article.metadata.md5.get(media) or None) if article.metadata else None


def _name(ref: ArticleRef) -> str:
    """What the article is called in keys and items: its PMC id, or the path of a package that names none."""
    return ref.pmcid if ref.number else printable(ref.path)


def _pmcid(article: ReadArticle) -> str:
    return article.ref.pmcid if article.ref.number else article.jats.pmcid


def _article_provenance(article: ReadArticle) -> dict[str, Any]:
    """What is known of the article; `from_metadata` names what the archive's metadata had to supply."""
    jats, metadata = article.jats, article.metadata
    said = {name: getattr(jats, name) for name in ("pmid", "doi", "title", "journal")}
    supplied = {name: getattr(metadata, name) for name, value in said.items() if not value} if metadata else {}
    return {
        **said,
        **supplied,
        "from_metadata": sorted(name for name, value in supplied.items() if value),
        "pmcid": _pmcid(article),
        "version": article.ref.version,
        "published": metadata.published if metadata else "",
        "language": jats.language,
        "xml_sha256": article.xml_sha256,
        "recovered": jats.recovered,
        "retracted": metadata.is_retracted if metadata else None,
        "license_code": metadata.license_code if metadata else None,
        "license_jats": jats.license,
        "license_text": jats.license_text,
    }


def _mention_list(mentions: Iterable[Mention]) -> list[dict[str, Any]]:
    return [{"paragraph": mention.paragraph, "panels": list(mention.panels)} for mention in mentions]
