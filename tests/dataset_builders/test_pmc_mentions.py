"""Paragraphs that cite figures: which ones, of which figures, which panels, and how much of them."""

from __future__ import annotations

import pytest

from dataset_builders.pmc.config import MentionConfig
from dataset_builders.pmc.jats import JatsArticle, parse_jats
from dataset_builders.pmc.mentions import Mention, cut_mention, expand_letters, sentence_spans


def figures(labels: dict[str, str]) -> str:
    return "".join(
        f"<fig id='{name}'><label>{label}</label><caption><p>About {name}.</p></caption><graphic href='{name}'/></fig>"
        for name, label in labels.items()
    )


NUMBERED = figures({"F1": "Figure 1.", "F2": "Figure 2.", "F3": "Figure 3.", "F4": "Figure 4."})


def cited(paragraphs: str, floats: str = NUMBERED) -> dict[str, list[str]]:
    return {
        figure.id: [mention.text for mention in figure.mentions]
        for figure in parse(paragraphs, floats).figures
        if figure.mentions
    }


def parse(paragraphs: str, floats: str = NUMBERED) -> JatsArticle:
    return parse_jats(f"<article><body>{paragraphs}{floats}</body></article>".encode())


def xref(rids: str, text: str, kind: str = "fig") -> str:
    return f"<xref ref-type='{kind}' rid='{rids}'>{text}</xref>"


def test_whole_paragraph_is_the_mention_and_comes_once():
    text = f"<p>First. As {xref('F1', 'Fig. 1A')} shows, <italic>all</italic> is well ({xref('F1', 'Fig. 1C')}).</p>"
    figure = parse(text + text).figures[0]
    (mention,) = figure.mentions
    assert mention.text == "First. As Fig. 1A shows, all is well (Fig. 1C)."
    assert mention.panels == ("A", "C")
    assert [mention.text[at : at + 6] for at in mention.positions] == ["Fig. 1", "Fig. 1"]


def test_one_paragraph_that_cites_two_figures_is_a_mention_of_both():
    assert cited(f"<p>{xref('F1', 'Figure 1')} and {xref('F2', 'Figure 2')}.</p>").keys() == {"F1", "F2"}


def test_references_at_any_depth_are_found_where_they_stand():
    inside = f"<p>First <sup>a {xref('F1', 'Fig. 1B')}</sup> then <italic>{xref('F2', 'Fig. 2C')}</italic> of it.</p>"
    beside = f"<p>First <sup>a</sup> {xref('F1', 'Fig. 1B')} then {xref('F2', 'Fig. 2C')} of <italic>it</italic>.</p>"
    for paragraph in (inside, beside):
        first, second = (figure.mentions[0] for figure in parse(paragraph).figures[:2])
        assert first.text == second.text == "First a Fig. 1B then Fig. 2C of it."
        assert (first.positions, second.positions) == ((8,), (21,))
        assert (first.panels, second.panels) == (("B",), ("C",))


def test_lists_of_ids_cite_every_one():
    assert cited(f"<p>See {xref('F1 F3', 'Figs. 1 and 3')}.</p>").keys() == {"F1", "F3"}


@pytest.mark.parametrize("dash", ["–", "-", "&#8212;", " to ", " through ", "–Fig. "])
def test_ranges_cite_the_figures_between_their_ends(dash: str):
    assert list(cited(f"<p>See Figs. {xref('F1', '1')}{dash}{xref('F4', '4')}.</p>")) == ["F1", "F2", "F3", "F4"]


@pytest.mark.parametrize("rids", ["F1 F3", "F1"])
def test_ranges_inside_one_reference_cite_the_figures_between(rids: str):
    assert list(cited(f"<p>See {xref(rids, 'Figs. 1–3')}.</p>")) == ["F1", "F2", "F3"]


def test_enumerations_are_no_ranges():
    assert list(cited(f"<p>See {xref('F1', 'Fig. 1')}, {xref('F4', '4')} and more.</p>")) == ["F1", "F4"]


def test_ranges_of_one_figures_supplements_do_not_reach_anothers():
    floats = figures({f"F{n}s{k}": f"Figure {n}—figure supplement {k}." for n in (3, 4) for k in (1, 2, 3)})
    shown = xref("F3s1", "Figure 3—figure supplements 1–3")
    assert list(cited(f"<p>See {shown}.</p>", floats)) == ["F3s1", "F3s2", "F3s3"]


def test_ranges_pass_over_figures_that_are_labelled_otherwise():
    mixed = figures({"F1": "Figure 1.", "F1s1": "Figure 1—figure supplement 1.", "F2": "Figure 2.", "F3": "Figure 3."})
    assert list(cited(f"<p>{xref('F1', 'Figures 1')}–{xref('F3', '3')}.</p>", mixed)) == ["F1", "F2", "F3"]
    assert list(cited(f"<p>{xref('F1s1', 'Figure 1—figure supplement 1')}.</p>", mixed)) == ["F1s1"]


@pytest.mark.parametrize(
    ("shown", "panels"),
    [
        (xref("F4", "Fig. 4B"), "B"),
        (f"Figure {xref('F4', '4')}B, C", "BC"),
        (f"Fig. {xref('F4', '4')}<italic>a</italic>", "A"),
        (f"Fig. {xref('F4', '4')} (a–c)", "ABC"),
        (f"Figures {xref('F4', '4A and D')}", "AD"),
        (f"Figure {xref('F4', '4')} B and more", "B"),
        (f"Figure {xref('F4', '4')} a scan", ""),
        (f"Figure {xref('F4', '4')} and Figure 5B", ""),
        (xref("F2 F4", "Figs. 2A, 4C"), "C"),
    ],
)
def test_panel_letters_behind_the_figures_number(shown: str, panels: str):
    (mention,) = parse(f"<p>See {shown}.</p>").figures[3].mentions
    assert "".join(mention.panels) == panels


def test_citations_count_whatever_their_type_and_in_captions_of_other_figures_only():
    floats = (
        f"<fig id='F1'><caption><p>As in {xref('F2', 'Fig. 2')}, not {xref('F1', 'Fig. 1')}.</p></caption></fig>"
        "<fig id='F2'><caption><p>Two.</p></caption></fig>"
    )
    assert cited(f"<p>Odd {xref('F2', 'Fig. 2', 'other')}.</p>", floats) == {
        "F2": ["Odd Fig. 2.", "As in Fig. 2, not Fig. 1."]
    }


def test_citations_in_table_cells_and_of_unknown_ids_are_no_mentions():
    table = f"<p>Text<table-wrap><table><tr><td>{xref('F1', 'Fig. 1')}</td></tr></table></table-wrap></p>"
    assert cited(f"{table}<p>{xref('F9', 'Fig. 9')} {xref('', '')} <xref>none</xref></p>") == {}


def test_floats_inside_a_paragraph_are_not_its_text():
    paragraph = f"<p>See {xref('F1', 'Fig. 1')}. {NUMBERED} End.</p>"
    assert cited(paragraph, "") == {"F1": ["See Fig. 1. End."]}


def test_mention_is_named_by_the_paragraphs_id():
    figure = parse(f"<p>{xref('F2', '2')}</p><p id='par7'>{xref('F1', '1')}</p><p>{xref('F1', 'one')}</p>").figures[0]
    assert [mention.paragraph for mention in figure.mentions] == ["par7", "p2"]


def mention(text: str, at: int) -> Mention:
    return Mention(paragraph="p", text=text, positions=(at,), panels=())


def test_short_mentions_stay_whole():
    assert cut_mention(mention("One. Two.", 5), MentionConfig(max_chars=9, max_sentences=1)) == "One. Two."


def test_long_mentions_are_cut_to_sentences_around_the_citation():
    text = "Aaa one. Bbb two. Ccc (Fig. 3) three. Ddd four. Eee five."
    at = text.index("Fig")
    assert cut_mention(mention(text, at), MentionConfig(max_chars=40, max_sentences=1)) == "Ccc (Fig. 3) three."
    assert (
        cut_mention(mention(text, at), MentionConfig(max_chars=30, max_sentences=3)) == "Ccc (Fig. 3) three. Ddd four."
    )
    assert cut_mention(mention(text, at), MentionConfig(max_chars=40, max_sentences=3)) == (
        "Ccc (Fig. 3) three. Ddd four. Eee five."
    )
    assert cut_mention(mention(text, at), MentionConfig(max_chars=56, max_sentences=9)) == text[9:]


def test_one_sentence_longer_than_the_limit_is_cut_at_words_around_the_citation():
    text = "word " * 100 + "Fig. 7 " + "tail " * 100
    cut = cut_mention(mention(text.strip(), text.index("Fig. 7")), MentionConfig(max_chars=60))
    assert "Fig. 7" in cut
    assert 40 <= len(cut) <= 60
    assert set(cut.split()) <= {"word", "tail", "Fig.", "7"}


def test_abbreviations_do_not_end_sentences():
    text = "Shown by Smith et al. Figures agree (Fig. 2). E. coli grew. Next."
    assert [text[a:b].strip() for a, b in sentence_spans(text)] == [
        "Shown by Smith et al. Figures agree (Fig. 2).", "E. coli grew.", "Next.",
    ]  # fmt: skip


def test_letter_ranges_are_filled():
    assert expand_letters("a–c, E") == ["A", "B", "C", "E"]
    assert expand_letters("B and D") == ["B", "D"]
