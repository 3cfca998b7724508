"""The hardened parser: what it repairs, what it refuses, and that nothing reaches files or memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason
from dataset_builders.pmc.config import ParseLimits
from dataset_builders.pmc.jats import parse_jats
from dataset_builders.pmc.parser import parse_xml
from dataset_builders.pmc.xmltext import text_of

LIMITS = ParseLimits()
LEGACY = '<!DOCTYPE article PUBLIC "-//NLM//DTD Archiving v2.3//EN" "archivearticle.dtd">'


def text(xml: str | bytes) -> str:
    return text_of(parse_xml(xml.encode() if isinstance(xml, str) else xml, LIMITS).root)


def reason(xml: bytes, limits: ParseLimits = LIMITS) -> RejectReason:
    with pytest.raises(ItemRejectedError) as caught:
        parse_jats(xml, limits)
    return caught.value.reason


@pytest.mark.parametrize("doctype", ["", LEGACY])
def test_iso_entities_are_read_without_their_document_type(doctype: str):
    parsed = parse_xml(f"{doctype}<a>5 &mu;m &mdash; &agr;&Eacute; &amp;&lt; &#x3b2;</a>".encode(), LIMITS)
    assert text_of(parsed.root) == "5 μm — αÉ &< β"
    assert not parsed.recovered


def test_entities_in_attributes_are_read():
    assert parse_xml(b"<a b='&eacute;&amp;'/>", LIMITS).root.get("b") == "é&"


@pytest.mark.parametrize("doctype", ["", LEGACY])
def test_entities_that_nobody_defines_mark_the_article(doctype: str):
    parsed = parse_xml(f"{doctype}<a>x <b>&nosuchname;</b> y</a>".encode(), LIMITS)
    assert parsed.recovered
    assert text_of(parsed.root).split() == ["x", "y"]


def test_declared_characters_are_read():
    assert text("<!DOCTYPE a [<!ENTITY deg \"&#176;\"><!ENTITY who 'WHO'>]><a>37&deg;C &who;</a>") == "37°C WHO"


def test_declared_picture_files_are_harmless():
    assert text('<!DOCTYPE a [<!ENTITY f1 SYSTEM "f1.gif" NDATA gif>]><a>x</a>') == "x"


def test_local_files_cannot_be_read(tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for declaration in (f'<!ENTITY x SYSTEM "{secret.as_uri()}">', f'<!ENTITY % x SYSTEM "{secret.as_uri()}"> %x;'):
        xml = f"<!DOCTYPE article [{declaration}]><article><p>&x;</p></article>".encode()
        assert reason(xml) == RejectReason.ARTICLE_UNSAFE


def test_entity_bombs_are_refused():
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    xml = f'<!DOCTYPE article [<!ENTITY l0 "lol">{laughs}]><article>&l9;</article>'.encode()
    assert reason(xml) == RejectReason.ARTICLE_UNSAFE
    quadratic = f'<!DOCTYPE article [<!ENTITY a "{"a" * 100_000}">]><article>{"&a;" * 1000}</article>'.encode()
    assert reason(quadratic) == RejectReason.ARTICLE_UNSAFE


def test_deep_nesting_is_read_up_to_the_parsers_limit_and_then_refused():
    def nested(depth: int) -> bytes:
        opening, closing = "<bold>" * depth, "</bold>" * depth
        caption = f"<caption><p>{opening}deep{closing}</p></caption>"
        return f"<article><fig id='a'>{caption}{opening}{closing}</fig></article>".encode()

    assert parse_jats(nested(1900)).figures[0].caption == "deep"
    assert reason(nested(5000)) == RejectReason.ARTICLE_UNSAFE
    assert reason(nested(100_000)) == RejectReason.ARTICLE_UNSAFE


def test_text_of_more_than_ten_megabytes_is_read():
    body = "word " * 2_200_000
    parsed = parse_jats(f"<article><p>{body}</p><fig id='a'><caption>ok</caption></fig></article>".encode())
    assert parsed.figures[0].caption == "ok"


def test_xml_above_the_limit_is_refused():
    assert (
        reason(b"<article>" + b"x" * 2000 + b"</article>", ParseLimits(max_xml_mb=0.001)) == RejectReason.FILE_TOO_LARGE
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"x\x03y", "x y"),
        (b"caf\xe9 x", "caf\ufffd x"),
        (b"x & y", "x y"),
        (b"<p:b>x</p:b> y", "x y"),
    ],
)
def test_damaged_characters_are_repaired_and_marked(body: bytes, words: str):
    parsed = parse_jats(b"<article><fig id='a'><caption><p>" + body + b"</p></caption></fig></article>")
    assert parsed.figures[0].caption == words
    assert parsed.recovered


@pytest.mark.parametrize("damage", ["&#xffff;", "&#0;", "&#xd800;", "\uffff"])
def test_characters_that_xml_forbids_do_not_stop_the_search_for_mentions(damage: str):
    cited = f"<p>See <xref rid='a'>{damage}Fig. 1</xref>.</p>"
    parsed = parse_jats(f"<article>{cited}<fig id='a'><caption>x</caption></fig></article>".encode())
    assert parsed.recovered
    (mention,) = parsed.figures[0].mentions
    assert mention.text.startswith("See")
    assert mention.text.endswith("Fig. 1.")
    assert mention.positions == (4,)
    mention.text.encode()


@pytest.mark.parametrize(
    "xml",
    [b"", b"404 not found", b"<html><p>404", b"<article><fig><p>x</fig></article>", b"<article><fig id='a'><caption>x"],
)
def test_broken_structure_is_malformed(xml: bytes):
    assert reason(xml) == RejectReason.ARTICLE_MALFORMED


def test_broken_structure_is_recovered_only_on_request():
    xml = b"<article><fig id='a'><caption><p>whole</p></caption></fig><fig id='b'><capt"
    parsed = parse_jats(xml, ParseLimits(recover_structure=True))
    assert parsed.recovered
    assert parsed.figures[0].caption == "whole"


def test_utf16_is_read():
    assert text('<?xml version="1.0" encoding="UTF-16"?><a>&alpha; é</a>'.encode("utf-16")) == "α é"


def test_latin1_is_read():
    assert text('<?xml version="1.0" encoding="ISO-8859-1"?><a>é &alpha;</a>'.encode("latin-1")) == "é α"


@pytest.mark.parametrize(
    "references",
    [
        "<ref-list><ref/></ref-list>",
        "<ref-list/>",
        "<!-- <ref-list> -->",
        "<![CDATA[<ref-list>]]>",
        "<ref-list><ref-list><ref/></ref-list></ref-list>",
        "<ref-list id='r'><title>References</title></ref-list>",
        "<!-- <ref-list> --><ref-list><ref/></ref-list>",
        "<?note <ref-list> ?><ref-list><ref/></ref-list>",
        "<table-wrap><table><tr><td><table><tr/></table></td></tr></table></table-wrap>",
        "<table-wrap><table/></table-wrap>",
        "<table-wrap-group><table-wrap><table>\n</table></table-wrap></table-wrap-group>",
        "<![CDATA[<table>]]><table></table>",
        "<contrib-group><contrib/></contrib-group><contrib-group><contrib/></contrib-group>",
    ],
)
def test_nothing_around_bibliographies_tables_and_authors_is_lost(references: str):
    figure = "<fig id='{}'><caption>x</caption></fig>"
    back = "<back><ref-list><ref/></ref-list></back>"
    xml = f"<article>{figure.format('a')}{references}{figure.format('b')}{back}</article>"
    assert [found.id for found in parse_jats(xml.encode()).figures] == ["a", "b"]


def test_figures_and_citing_paragraphs_inside_tables_are_found():
    cell = "<td><p>See <xref ref-type='fig' rid='b'>Fig. 2</xref> for the scan.</p></td>"
    inside = "<td><fig id='a'><caption>x</caption></fig></td>"
    table = "<table><tr>{}</tr></table>"
    xml = f"<article>{table.format(inside)}{table.format(cell)}<fig id='b'><caption>y</caption></fig></article>"
    found = {figure.id: [mention.text for mention in figure.mentions] for figure in parse_jats(xml.encode()).figures}
    assert found == {"a": [], "b": ["See Fig. 2 for the scan."]}
