"""The known traps of JATS, one row each: what other readers lose or spoil, and what has to come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason
from dataset_builders.pmc.config import ParseLimits
from dataset_builders.pmc.jats import JatsArticle, parse_jats

NAMESPACES = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"'
SCAN = "<caption><p>A scan.</p></caption>"
JPG = "<graphic xlink:href='f1.jpg'/>"
PLAIN = {"id": "F1", "caption": "A scan.", "hrefs": ("f1.jpg",)}


@dataclass(frozen=True, kw_only=True)
class Trap:
    """The body of an article, and what must be read from it: fields of each figure, and of the article."""

    body: str
    figures: list[dict[str, Any]]
    article: dict[str, Any] = field(default_factory=dict)
    meta: str = ""
    attributes: str = ""
    doctype: str = ""


def fig(inner: str, attributes: str = "id='F1'") -> str:
    return f"<fig {attributes}>{inner}</fig>"


def captioned(caption: str) -> str:
    return fig(f"<caption>{caption}</caption>{JPG}")


def numbered(*numbers: int) -> str:
    return "".join(fig(f"<label>Figure {n}</label>{SCAN}{JPG}", f"id='F{n}'") for n in numbers)


def cited(rids: str, text: str) -> str:
    """A paragraph whose text has `{}` where each reference begins, one for each of the `;`-separated ids."""
    openings = [f"<xref ref-type='fig' rid='{rid}'>" for rid in rids.split(";")]
    return f"<p>See {text.format(*openings, end='</xref>')}.</p>"


def read(trap: Trap) -> JatsArticle:
    front = f"<front><article-meta>{trap.meta}</article-meta></front>"
    return parse_jats(
        f"{trap.doctype}<article {NAMESPACES} {trap.attributes}>{front}<body>{trap.body}</body></article>".encode()
    )


def fields(found: object, names: dict[str, Any]) -> dict[str, Any]:
    """The named fields; `mentions` as their texts and `panels` as the letters of all of them."""
    mentions = getattr(found, "mentions", ())
    special = {
        "mentions": [mention.text for mention in mentions],
        "panels": "".join(letter for mention in mentions for letter in mention.panels),
    }
    return {name: special[name] if name in special else getattr(found, name) for name in names}


TRAPS = {
    "figure without id": Trap(body=fig(SCAN + JPG, ""), figures=[PLAIN | {"id": "@0"}]),
    "first figure without caption": Trap(
        body=fig(JPG) + fig(SCAN + JPG, "id='F2'"), figures=[PLAIN | {"caption": ""}, PLAIN | {"id": "F2"}]
    ),
    "later figure without caption": Trap(
        body=fig(SCAN + JPG) + fig(JPG, "id='F2'"), figures=[PLAIN, PLAIN | {"id": "F2", "caption": ""}]
    ),
    "figure with a label alone": Trap(
        body=fig("<label>Figure 1.</label>"),
        figures=[{"id": "F1", "label": "Figure 1.", "caption": "", "hrefs": ()}],
    ),
    "position before href": Trap(body=fig(SCAN + "<graphic position='float' xlink:href='f1.jpg'/>"), figures=[PLAIN]),
    "graphic in alternatives": Trap(
        body=fig(SCAN + f"<alternatives>{JPG}<graphic xlink:href='f1.svg'/></alternatives>"), figures=[PLAIN]
    ),
    "several graphics": Trap(
        body=fig(SCAN + JPG + "<graphic xlink:href='f2.jpg'/>"), figures=[PLAIN | {"hrefs": ("f1.jpg", "f2.jpg")}]
    ),
    "thumbnail as second graphic": Trap(
        body=fig(SCAN + JPG + "<graphic content-type='thumb' xlink:href='t.gif'/>"), figures=[PLAIN]
    ),
    "group with a caption of its own": Trap(
        body=f"<fig-group><caption><title>Both.</title></caption>{fig(SCAN + JPG)}</fig-group>",
        figures=[PLAIN | {"group_caption": "Both."}],
    ),
    "group that is cited as a whole": Trap(
        body=cited("G", "{}Fig. 1{end}") + f"<fig-group id='G'>{numbered(1, 2)}</fig-group>",
        figures=[{"id": name, "mentions": ["See Fig. 1."]} for name in ("F1", "F2")],
    ),
    "title and paragraph": Trap(
        body=captioned("<title>A scan.</title><p>(A) Before.</p>"), figures=[{"caption": "A scan. (A) Before."}]
    ),
    "nested inline elements": Trap(
        body=captioned("<p>Mean <italic>P <bold>value</bold></italic> done</p>"),
        figures=[{"caption": "Mean P value done"}],
    ),
    "sources of formulas": Trap(
        body=captioned(
            "<p>At <inline-formula><alternatives><tex-math>\\documentclass{x}</tex-math><mml:math><mml:mi>p</mml:mi>"
            "</mml:math></alternatives></inline-formula> it</p>"
        ),
        figures=[{"caption": "At p it"}],
    ),
    "ids of new articles": Trap(
        body="",
        figures=[],
        meta='<article-id pub-id-type="pmcid">PMC12</article-id>'
        '<article-id pub-id-type="pmcid-ver">PMC12.3</article-id><article-id pub-id-type="pmcaid">12</article-id>',
        article={"pmcid": "PMC12", "pmid": ""},
    ),
    "ids of old articles": Trap(
        body="", figures=[], meta='<article-id pub-id-type="pmc">12</article-id>', article={"pmcid": "PMC12"}
    ),
    "instructions and comments": Trap(
        body=captioned("<p><?image-name f1?>A <!-- not --><!-- <fig/> -->scan.</p>"), figures=[PLAIN]
    ),
    "default namespace": Trap(
        body=cited("F1", "{}Fig. 1B{end}") + numbered(1),
        attributes='xmlns="https://jats.nlm.nih.gov/ns/archiving/1.4/"',
        figures=[PLAIN | {"mentions": ["See Fig. 1B."], "panels": "B"}],
    ),
    "list item without label": Trap(
        body=captioned("<p>A<list><list-item><p>scan.</p></list-item></list></p>"), figures=[PLAIN]
    ),
    "entities without their document type": Trap(
        body=captioned("<p>5 &mu;m &plusmn; 1 &rarr; &agr;</p>"), figures=[{"caption": "5 μm ± 1 → α"}]
    ),
    "entities that the document declares": Trap(
        body=captioned("<p>37 &degC;</p>"),
        doctype="<!DOCTYPE article [<!ENTITY degC '&#176;C'>]>",
        figures=[{"caption": "37 °C"}],
    ),
    "entities that nobody declares": Trap(
        body=captioned("<p>A &nosuch; scan.</p>"), figures=[PLAIN | {"caption": "A scan."}], article={"recovered": True}
    ),
    "control character": Trap(body=captioned("<p>A\x0bscan.</p>"), figures=[PLAIN], article={"recovered": True}),
    "text of more than ten megabytes": Trap(body=f"<p>{'word ' * 2_100_000}</p>{fig(SCAN + JPG)}", figures=[PLAIN]),
    "nesting deeper than 256": Trap(
        body=captioned(f"<p>{'<bold>' * 400}A scan.{'</bold>' * 400}</p>"), figures=[PLAIN]
    ),
    "captions in several languages": Trap(
        body=fig(f"<caption xml:lang='pt'><p>Exame.</p></caption><caption xml:lang='en'><p>A scan.</p></caption>{JPG}"),
        attributes='xml:lang="pt"',
        figures=[PLAIN],
    ),
    "translated sub-article": Trap(
        body=fig(SCAN + JPG)
        + f"</body><sub-article article-type='translation'><body>{fig(SCAN + JPG)}</body></sub-article><body>",
        figures=[PLAIN],
        article={"translated_figures": 1},
    ),
    "graphics of tables, supplements and formulas": Trap(
        body="<table-wrap><graphic xlink:href='t.jpg'/></table-wrap>"
        "<supplementary-material><graphic xlink:href='s.jpg'/></supplementary-material>"
        "<p><disp-formula><graphic xlink:href='e.jpg'/></disp-formula></p>"
        + fig(SCAN + "<disp-formula><graphic xlink:href='e2.jpg'/></disp-formula>" + JPG),
        figures=[PLAIN],
    ),
    "boxed text": Trap(body=f"<boxed-text><sec>{fig(SCAN + JPG)}</sec></boxed-text>", figures=[PLAIN]),
    "floats group": Trap(body=f"</body><floats-group>{fig(SCAN + JPG)}</floats-group><body>", figures=[PLAIN]),
    "figures inside tables": Trap(body=f"<table><tr><td>{fig(SCAN + JPG)}</td></tr></table>", figures=[PLAIN]),
    "list of ids": Trap(
        body=cited("F1 F3", "{}Figs. 1 and 3{end}") + numbered(1, 2, 3),
        figures=[{"mentions": ["See Figs. 1 and 3."]}, {"mentions": []}, {"mentions": ["See Figs. 1 and 3."]}],
    ),
    "range with ids at its ends": Trap(
        body=cited("F1;F3", "Figs. {}1{end}–{}3{end}") + numbered(1, 2, 3),
        figures=[{"mentions": ["See Figs. 1–3."]}] * 3,
    ),
    "range in one reference": Trap(
        body=cited("F1", "{}Figs. 1–3{end}") + numbered(1, 2, 3), figures=[{"mentions": ["See Figs. 1–3."]}] * 3
    ),
    "one paragraph that cites two figures": Trap(
        body=cited("F1;F2", "{}Fig. 1A{end} and {}Fig. 2C{end}") + numbered(1, 2),
        figures=[{"mentions": ["See Fig. 1A and Fig. 2C."], "panels": letter} for letter in "AC"],
    ),
    "reference inside other elements": Trap(
        body="<p>See <bold>it (<xref rid='F1'>Fig. <italic>1B</italic></xref>)</bold>.</p>" + numbered(1),
        figures=[{"mentions": ["See it (Fig. 1B)."], "panels": "B"}],
    ),
    "panel letter outside the reference": Trap(
        body=cited("F4", "{}Fig. 4{end}B") + numbered(4), figures=[{"mentions": ["See Fig. 4B."], "panels": "B"}]
    ),
    "licence in words alone": Trap(
        body="",
        figures=[],
        meta="<permissions><license><license-p>under the Creative Commons Attribution 3.0 License</license-p></license>"
        "</permissions>",
        article={"license": "CC-BY-3.0"},
    ),
    "no licence": Trap(body="", figures=[], meta="", article={"license": None}),
    "credit line of a figure": Trap(
        body=fig(SCAN + JPG + "<attrib>Courtesy of a museum.</attrib>"),
        figures=[PLAIN | {"credit": "Courtesy of a museum."}],
    ),
    "permission inside the caption": Trap(
        body=captioned("<p>A scan. Reprinted with permission [3].</p>"),
        figures=[{"caption": "A scan. Reprinted with permission [3]."}],
    ),
} | {
    f"href {href}": Trap(body=fig(f"{SCAN}<graphic xlink:href='{href}'/>"), figures=[PLAIN | {"hrefs": (href,)}])
    for href in ("f1", "f1.TIF", "f1.webp", "images/a/f1.JPG", "f1.2.v3", "it’s.jpg")
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str):
    trap = TRAPS[name]
    parsed = read(trap)
    assert [fields(figure, wanted) for figure, wanted in zip(parsed.figures, trap.figures, strict=True)] == trap.figures
    wanted = {"recovered": False} | trap.article
    assert fields(parsed, wanted) == wanted


@pytest.mark.parametrize("name", ["group with a caption of its own", "list of ids", "floats group", "boxed text"])
def test_trap_inside_the_envelope_of_an_oai_record(name: str):
    trap = TRAPS[name]
    article = (
        f"<article {NAMESPACES} xmlns='https://jats.nlm.nih.gov/ns/archiving/1.4/'><body>{trap.body}</body></article>"
    )
    record = f"<OAI-PMH xmlns='http://www.openarchives.org/OAI/2.0/'><record><metadata>{article}</metadata></record></OAI-PMH>"
    assert parse_jats(record.encode()).figures == read(trap).figures


def laughs(depth: int = 9) -> str:
    declared = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(depth))
    return f'<!DOCTYPE article [<!ENTITY l0 "lol">{declared}]><article>&l{depth};</article>'


UNSAFE = {
    "billion laughs": laughs(),
    "quadratic bomb": f'<!DOCTYPE article [<!ENTITY a "{"a" * 50_000}">]><article>{"&a;" * 5000}</article>',
    "file as entity": '<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/hosts">]><article>&x;</article>',
    "address as entity": '<!DOCTYPE article [<!ENTITY x SYSTEM "http://127.0.0.1:9/x">]><article>&x;</article>',
    "parameter entity": '<!DOCTYPE article [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><article/>',
    "nesting of 100,000": f"<article>{'<b>' * 100_000}{'</b>' * 100_000}</article>",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_files_are_refused(name: str):
    for limits in (ParseLimits(), ParseLimits(recover_structure=True)):
        with pytest.raises(ItemRejectedError) as caught:
            parse_jats(UNSAFE[name].encode(), limits)
        assert caught.value.reason == RejectReason.ARTICLE_UNSAFE


def test_oversized_files_are_refused():
    with pytest.raises(ItemRejectedError) as caught:
        parse_jats(b"<article>" + b" " * 2000 + b"</article>", ParseLimits(max_xml_mb=0.002))
    assert caught.value.reason == RejectReason.FILE_TOO_LARGE


def test_truncated_files_give_what_is_whole_and_are_marked_when_asked_to():
    xml = f"<article {NAMESPACES}><body>{numbered(1)}<fig id='F2'><caption><p>cut o".encode()
    with pytest.raises(ItemRejectedError) as caught:
        parse_jats(xml)
    assert caught.value.reason == RejectReason.ARTICLE_MALFORMED
    parsed = parse_jats(xml, ParseLimits(recover_structure=True))
    assert parsed.recovered
    assert fields(parsed.figures[0], PLAIN) == PLAIN


LONG = {
    "label": f"<fig id='F1'><label>{'1' * 100_000}x1 y</label></fig>",
    "number of a reference": f"<fig id='F1'/><p><xref rid='F1'>{'1' * 100_000}</xref></p>",
    "end of a range": f"<fig id='F1'><label>1</label></fig><p><xref rid='F1'>1-{'2' * 100_000}</xref></p>",
    "instructions and tables": f"<fig id='F1'/><p>{'<?a?>' * 50_000}</p>{'<table></table>' * 50_000}",
    "citations of one paragraph": "<fig id='F1'/><p>" + "<xref rid='F1'>1</xref>" * 50_000 + "</p>",
    "citing paragraphs": "<fig id='F1'/>" + "".join(f"<p>{n}<xref rid='F1'>1</xref></p>" for n in range(30_000)),
    "caption of a group of many": f"<fig-group><caption>{'word ' * 200_000}</caption>{'<fig/>' * 2000}</fig-group>",
}


@pytest.mark.parametrize("name", LONG)
def test_time_and_memory_grow_with_the_file_and_not_with_its_square(name: str):
    parsed = parse_jats(f"<article>{LONG[name]}</article>".encode())  # by the square: minutes, or gigabytes
    assert parsed.figures
    assert len({id(figure.group_caption) for figure in parsed.figures}) == 1


@pytest.mark.parametrize("name", ["ref-list", "table"])
@pytest.mark.parametrize("hidden", ["<!-- {} -->", "<![CDATA[ {} ]]>", "<?note {} ?>"])
def test_what_stands_between_tags_that_are_none_is_kept(hidden: str, name: str):
    start, end = hidden.format(f"<{name}>"), hidden.format(f"</{name}>")
    caption = f"<caption><p>One {start} two {end} three.</p></caption>"
    parsed = parse_jats(f"<article><fig id='F1'>{caption}</fig></article>".encode())
    assert "two" in parsed.figures[0].caption
    assert not parsed.recovered
