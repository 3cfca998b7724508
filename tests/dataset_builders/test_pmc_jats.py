"""What is read of an article's figures, captions, graphics and identifiers; known traps are in test_pmc_traps."""

from __future__ import annotations

from clipmed.licenses import UNKNOWN_LICENSE
from dataset_builders.pmc.jats import Figure, JatsArticle, parse_jats

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"'
CAPTION = "<caption><p>A scan.</p></caption>"
GRAPHIC = '<graphic xlink:href="f1"/>'


def article(body: str, *, meta: str = "", attributes: str = "", floats: str = "", doctype: str = "") -> JatsArticle:
    journal = "<journal-meta><journal-title>J. Scans</journal-title></journal-meta>"
    front = f"<front>{journal}<article-meta>{meta}</article-meta></front>"
    xml = f"{doctype}<article {XLINK} {attributes}>{front}<body>{body}</body>{floats}</article>"
    return parse_jats(xml.encode())


def only(parsed: JatsArticle) -> Figure:
    (figure,) = parsed.figures
    return figure


def test_figure_without_id_is_kept_and_named_by_its_position():
    parsed = article(f"<fig id='F1'>{CAPTION}{GRAPHIC}</fig><fig>{CAPTION}{GRAPHIC}</fig>")
    assert [figure.id for figure in parsed.figures] == ["F1", "@1"]


def test_figures_without_caption_stay_empty_and_do_not_inherit_one():
    parsed = article(f"<fig id='a'>{GRAPHIC}</fig><fig id='b'>{CAPTION}{GRAPHIC}</fig><fig id='c'>{GRAPHIC}</fig>")
    assert [figure.caption for figure in parsed.figures] == ["", "A scan.", ""]


def test_href_is_found_whatever_attribute_comes_first():
    figure = only(article(f"<fig id='a'>{CAPTION}<graphic position='float' xlink:href='dir/f1.JPG' id='g'/></fig>"))
    assert figure.hrefs == ("dir/f1.JPG",)


def test_alternatives_give_one_graphic():
    inner = "<alternatives><graphic xlink:href='f1.tif'/><graphic xlink:href='f1.jpg'/></alternatives>"
    assert only(article(f"<fig id='a'>{CAPTION}{inner}</fig>")).hrefs == ("f1.tif",)


def test_alternatives_prefer_full_size_over_thumbnail():
    inner = "<alternatives><graphic content-type='thumb' xlink:href='t'/><graphic xlink:href='f1.jpg'/></alternatives>"
    assert only(article(f"<fig id='a'>{CAPTION}{inner}</fig>")).hrefs == ("f1.jpg",)


def test_every_graphic_of_a_figure_is_kept_but_thumbnails_and_videos():
    inner = (
        "<graphic xlink:href='f1a'/><p><graphic xlink:href='f1b'/></p>"
        "<graphic specific-use='thumbnail' xlink:href='t'/>"
        "<media mimetype='video' xlink:href='film.mp4'/><media mimetype='image' xlink:href='f1c.png'/>"
    )
    assert only(article(f"<fig id='a'>{CAPTION}{inner}</fig>")).hrefs == ("f1a", "f1b", "f1c.png")


def test_graphics_of_formulas_tables_and_supplements_are_not_figures():
    body = (
        "<p><disp-formula><graphic xlink:href='e1'/></disp-formula></p>"
        "<table-wrap><alternatives><graphic xlink:href='t1'/></alternatives></table-wrap>"
        "<supplementary-material><graphic xlink:href='s1'/></supplementary-material>"
        "<fig id='a'>"
        "<caption><p>At <inline-formula><inline-graphic xlink:href='i1'/></inline-formula> rest.</p></caption>"
        f"<disp-formula><graphic xlink:href='e2'/></disp-formula>{GRAPHIC}</fig>"
    )
    assert only(article(body)).hrefs == ("f1",)


def test_group_caption_goes_to_every_figure_of_the_group():
    members = f"<fig id='a'>{CAPTION}{GRAPHIC}</fig><fig id='b'>{GRAPHIC}</fig>"
    group = f"<fig-group id='G'><caption><title>Both scans.</title></caption>{members}</fig-group>"
    parsed = article(f"<p>See <xref ref-type='fig' rid='G'>Fig. 1</xref>.</p>{group}")
    assert [(figure.caption, figure.group_caption) for figure in parsed.figures] == [
        ("A scan.", "Both scans."),
        ("", "Both scans."),
    ]
    assert [len(figure.mentions) for figure in parsed.figures] == [1, 1]


def test_group_with_graphics_and_no_figure_is_the_figure():
    figure = only(article(f"<fig-group id='G'><label>Figure 1</label>{CAPTION}{GRAPHIC}</fig-group>"))
    assert (figure.id, figure.caption, figure.hrefs) == ("G", "A scan.", ("f1",))


def test_title_and_paragraphs_are_joined_with_spaces_and_without_the_label():
    caption = "<caption><title>Chest scan.</title><p>(A) Before.</p><p>(B) After.</p></caption>"
    figure = only(article(f"<fig id='a'><label>Figure <bold>1</bold></label>{caption}{GRAPHIC}</fig>"))
    assert (figure.label, figure.caption) == ("Figure 1", "Chest scan. (A) Before. (B) After.")


def test_nested_inline_text_is_kept_and_not_glued():
    words = "Mean <italic>P<sub>0</sub></italic> value\n  <bold>was <italic>low</italic></bold>; CO<sub>2</sub>."
    caption = f"<caption><p>{words}</p></caption>"
    assert only(article(f"<fig id='a'>{caption}{GRAPHIC}</fig>")).caption == "Mean P0 value was low; CO2."


def test_formula_sources_are_left_out_and_their_readable_form_is_kept():
    formula = (
        "<inline-formula><alternatives><tex-math>\\documentclass{a}</tex-math>"
        "<mml:math><mml:semantics><mml:mi>p</mml:mi><mml:mo>&lt;</mml:mo><mml:mn>1</mml:mn>"
        "<mml:annotation>p&lt;1 latex</mml:annotation></mml:semantics></mml:math></alternatives></inline-formula>"
    )
    caption = f"<caption><p>With {formula} shown.</p></caption>"
    assert only(article(f"<fig id='a'>{caption}{GRAPHIC}</fig>")).caption == "With p<1 shown."


def test_list_items_with_and_without_label_keep_their_words():
    items = "<list-item><p>one</p></list-item><list-item><label>b</label><p>two</p></list-item>"
    caption = f"<caption><p>Parts:<list>{items}</list></p></caption>"
    assert only(article(f"<fig id='a'>{caption}{GRAPHIC}</fig>")).caption == "Parts: one b two"


def test_tables_and_alternative_texts_are_not_caption_words():
    caption = "<caption><p>Scan<table-wrap><table><tr><td>9</td></tr></table></table-wrap>.</p></caption>"
    figure = only(article(f"<fig id='a'>{caption}<graphic xlink:href='f1'><alt-text>hidden</alt-text></graphic></fig>"))
    assert figure.caption == "Scan."


def test_processing_instructions_and_comments_are_not_caption_words():
    caption = "<caption><p>A <?image-name f1?>quiet <!-- not this -->scan.</p></caption>"
    assert only(article(f"<fig id='a'>{caption}{GRAPHIC}</fig>")).caption == "A quiet scan."


def test_identifiers_of_new_and_old_articles():
    new = (
        '<article-id pub-id-type="pmcaid">99</article-id><article-id pub-id-type="pmcid-ver">PMC123.2</article-id>'
        '<article-id pub-id-type="pmcid">PMC123</article-id><article-id pub-id-type="pmid">7</article-id>'
        '<article-id pub-id-type="doi">10.1/x</article-id>'
        "<title-group><article-title>On <italic>scans</italic></article-title></title-group>"
    )
    parsed = article("", meta=new)
    assert (parsed.pmcid, parsed.pmid, parsed.doi, parsed.title, parsed.journal) == (
        "PMC123", "7", "10.1/x", "On scans", "J. Scans",
    )  # fmt: skip
    assert article("", meta='<article-id pub-id-type="pmc">123</article-id>').pmcid == "PMC123"
    assert article("", meta='<article-id pub-id-type="pmcid-ver">PMC123.2</article-id>').pmcid == "PMC123"
    assert article("").pmcid == ""


def test_envelopes_of_oai_and_efetch_are_opened():
    ids = '<article-id pub-id-type="pmcid">PMC5</article-id><title-group><article-title>T</article-title></title-group>'
    plain = (
        f"<article><front><article-meta>{ids}</article-meta></front><body><fig id='a'>{CAPTION}</fig></body></article>"
    )
    oai = (
        f'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><record><metadata>{plain}</metadata></record></OAI-PMH>'
    )
    for wrapped in (plain, f"<pmc-articleset>{plain}</pmc-articleset>", oai):
        found = parse_jats(wrapped.encode())
        assert (found.pmcid, found.title, only(found).caption) == ("PMC5", "T", "A scan.")


def test_default_namespace_changes_nothing():
    body = f"<p>See <xref ref-type='fig' rid='a'>Fig. 1</xref>.</p><fig id='a'>{CAPTION}{GRAPHIC}</fig>"
    plain, spaced = article(body), article(body, attributes='xmlns="https://jats.nlm.nih.gov/ns/archiving/1.4/"')
    assert plain == spaced
    assert only(plain).mentions


def test_caption_in_several_languages_is_taken_in_english_first():
    captions = "<caption xml:lang='pt'><p>Exame.</p></caption><caption xml:lang='en'><p>Scan.</p></caption>"
    assert only(article(f"<fig id='a'>{captions}{GRAPHIC}</fig>", attributes='xml:lang="pt"')).caption == "Scan."
    other = captions.replace("'en'", "'es'")
    assert only(article(f"<fig id='a'>{other}{GRAPHIC}</fig>", attributes='xml:lang="es"')).caption == "Scan."


def test_translations_repeat_no_figure_but_responses_keep_theirs():
    figure = f"<fig id='a'>{CAPTION}{GRAPHIC}</fig>"
    cited = "<p>Ver <xref ref-type='fig' rid='a'>Fig. 1</xref>.</p>"
    parts = (
        f"<sub-article article-type='translation'><body>{cited}{figure}</body></sub-article>"
        f"<sub-article article-type='reply'><body><fig id='r1'>{CAPTION}{GRAPHIC}</fig></body></sub-article>"
    )
    parsed = article(figure, floats=parts)
    assert [found.id for found in parsed.figures] == ["a", "r1"]
    assert parsed.translated_figures == 1
    assert parsed.figures[0].mentions == ()


def test_figures_in_boxes_and_at_the_end_are_found():
    body = f"<boxed-text><fig id='a'>{CAPTION}{GRAPHIC}</fig></boxed-text>"
    parsed = article(body, floats=f"<floats-group><fig id='b'>{CAPTION}{GRAPHIC}</fig></floats-group>")
    assert [figure.id for figure in parsed.figures] == ["a", "b"]


def test_figure_that_names_no_image_has_no_href():
    assert only(article(f"<fig id='a'>{CAPTION}</fig>")).hrefs == ()


def test_credit_line_and_licence_of_the_figure_itself():
    terms = "<permissions><license><license-p>All rights reserved.</license-p></license></permissions>"
    own = f"<attrib>Courtesy of a museum.</attrib>{terms}"
    figure = only(article(f"<fig id='a'>{CAPTION}{GRAPHIC}{own}</fig>"))
    assert figure.credit == "Courtesy of a museum. All rights reserved."
    assert figure.license == UNKNOWN_LICENSE
    assert only(article(f"<fig id='a'>{CAPTION}{GRAPHIC}</fig>")).license is None


def test_article_without_front_or_body_is_read():
    parsed = parse_jats(b"<article><fig><graphic href='x'/></fig></article>")
    assert (only(parsed).hrefs, parsed.license, parsed.title) == (("x",), None, "")
