"""Which articles are read: licences, retraction, scans, dates, journals, lists of ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipmed.errors import ConfigError, ItemRejectedError
from dataset_builders.pmc.config import SelectionConfig
from dataset_builders.pmc.metadata import parse_metadata
from dataset_builders.pmc.selection import read_ids, select, select_ids, select_ref
from dataset_builders.pmc.sources import ArticleRef

REF = ArticleRef(number=77, version=1, path="PMC77.1", layout="bucket")
PLAIN = {
    "license_code": "CC BY",
    "pmid": 500,
    "doi": "10.1000/ABC.1",
    "citation": "Breast Cancer Res. 2020 Jul 15; 3:1",
}


def reason(config: SelectionConfig, **metadata: object) -> str:
    """Why an article is not selected; empty where it is."""
    ids = read_ids(config)
    try:
        select_ref(REF, ids)
        select(parse_metadata(PLAIN | metadata), REF, config, ids)
    except ItemRejectedError as error:
        return str(error.reason)
    return ""


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, ""),
        ({"license_code": None}, "license_not_allowed"),
        ({"license_code": "TDM"}, "license_not_allowed"),
        ({"license_code": "NO-CC CODE"}, "license_not_allowed"),
        ({"license_code": "CC BY-NC-ND"}, ""),
        ({"is_retracted": True}, "article_retracted"),
        ({"is_historical_ocr": True}, "article_ocr"),
    ],
)
def test_by_default_open_licences_are_read_and_retracted_or_scanned_articles_are_not(
    metadata: dict[str, object], expected: str
):
    assert reason(SelectionConfig(), **metadata) == expected


def test_what_is_left_out_by_default_can_be_asked_for():
    config = SelectionConfig(retracted=True, historical_ocr=True, license_groups=("other",))
    assert reason(config, is_retracted=True, is_historical_ocr=True, license_code="TDM") == ""
    assert reason(config) == "license_not_allowed"
    assert reason(SelectionConfig(license_groups=("commercial",)), license_code="CC BY-NC") == "license_not_allowed"


@pytest.mark.parametrize(
    ("first", "last", "citation", "selected"),
    [
        ("2020-07-15", "2020-07-15", "J. 2020 Jul 15; 1", True),
        ("2020-07-16", "", "J. 2020 Jul 15; 1", False),
        ("", "2020-07-14", "J. 2020 Jul 15; 1", False),
        ("2020-08", "", "J. 2020 Jul 15; 1", False),
        ("2020", "2020", "J. 2020 Dec 31; 1", True),
        ("2020-07-15", "", "J. 2020 Jul; 1", True),  # some day of July may be meant
        ("2020-07", "", "J. 2020; 1", True),
        ("", "2019", "J. 2020; 1", False),
        ("2020", "", "no date here", False),
        ("", "", "no date here", True),
    ],
)
def test_dates_compare_as_far_as_they_are_known(first: str, last: str, citation: str, selected: bool):
    found = reason(SelectionConfig(published_from=first, published_to=last), citation=citation)
    assert found == ("" if selected else "article_not_selected")


def test_journals_compare_without_case_and_dots():
    assert reason(SelectionConfig(journals=("breast cancer res.",))) == ""
    assert reason(SelectionConfig(journals=("Gut", "Nature"))) == "article_not_selected"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("PMC77", True),
        ("pmc77.3 # a version counts as its article", True),
        ("PMC7\nPMC770", False),
        ("500", True),
        ("77", False),  # digits alone are a PubMed id
        ("https://doi.org/10.1000/abc.1", True),
        ("doi:10.1000/ABC.1", True),
        ("10.1000/abc.12", False),
        ("# nothing but\n\nPMC77\n", True),
        ("\ufeffPMC77\t# as spreadsheets write it\r\n", True),
    ],
)
def test_lists_of_ids_keep_and_leave_out(tmp_path: Path, lines: str, kept: bool):
    path = tmp_path / "ids.txt"
    path.write_text(lines)
    assert reason(SelectionConfig(ids=path)) == ("" if kept else "article_not_selected")
    assert reason(SelectionConfig(exclude_ids=path)) == ("article_not_selected" if kept else "")


def test_numbers_decide_before_anything_is_fetched(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_text("PMC5\n")
    with pytest.raises(ItemRejectedError, match="not in the list"):
        select_ref(REF, read_ids(SelectionConfig(ids=path)))
    path.write_text("PMC5\n500\n")  # the PubMed id may be the article's
    select_ref(REF, read_ids(SelectionConfig(ids=path)))


def test_articles_without_metadata_are_selected_by_what_their_xml_says(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_text("10.1000/abc.1")
    ids = read_ids(SelectionConfig(ids=path))
    select_ids(0, "", "10.1000/ABC.1", ids)
    with pytest.raises(ItemRejectedError, match="not in the list"):
        select_ids(0, "", "", ids)


def test_lists_that_are_no_lists_are_refused(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_text("PMC1\nhello world\nPMC2x\n")
    with pytest.raises(ConfigError, match=r"2 lines are no ids \(lines 2, 3\)"):
        read_ids(SelectionConfig(ids=path))
    path.write_text("# empty\n")
    with pytest.raises(ConfigError, match="holds no id"):
        read_ids(SelectionConfig(ids=path))
    with pytest.raises(ConfigError, match="give a file of ids"):
        read_ids(SelectionConfig(ids=tmp_path / "absent.txt"))


def test_the_digest_is_of_the_ids_and_not_of_the_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("PMC1\nPMC2\n")
    (tmp_path / "b.txt").write_text("PMC2 # second\nPMC1\n")
    first, second = (read_ids(SelectionConfig(ids=tmp_path / name)).digest for name in ("a.txt", "b.txt"))
    assert first == second != read_ids(SelectionConfig()).digest
    assert read_ids(SelectionConfig(exclude_ids=tmp_path / "a.txt")).digest != first


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(ConfigError, match="comes after"):
        SelectionConfig(published_from="2021-03", published_to="2020")
    SelectionConfig(published_from="2020-07", published_to="2020")


@pytest.mark.parametrize("date", ["20", "2020-7", "2020-07-15T00", "July"])
def test_dates_in_another_form_are_refused(date: str):
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        SelectionConfig(published_from=date)
