"""Samples, keys, licences, work units."""

import doctest

import pytest

import clipmed.licenses
from clipmed.errors import DataError
from clipmed.licenses import LicenseGroup, license_group, spdx_id
from clipmed.records import Caption, Modality, Sample, canonical_json, sample_key, unit_of_group


def test_license_examples_of_the_docstrings():
    results = doctest.testmod(clipmed.licenses)
    assert results.attempted == 2
    assert results.failed == 0


@pytest.mark.parametrize(
    ("text", "spdx", "group"),
    [
        ("CC BY", "CC-BY-4.0", LicenseGroup.COMMERCIAL),
        ("CC BY-ND", "CC-BY-ND-4.0", LicenseGroup.COMMERCIAL),
        ("CC BY-NC-SA", "CC-BY-NC-SA-4.0", LicenseGroup.NONCOMMERCIAL),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0", "CC-BY-NC-ND-3.0", LicenseGroup.NONCOMMERCIAL),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0", LicenseGroup.COMMERCIAL),
        ("CC-BY-4.0", "CC-BY-4.0", LicenseGroup.COMMERCIAL),
        ("cc0", "CC0-1.0", LicenseGroup.COMMERCIAL),
        ("TDM", "LicenseRef-TDM", LicenseGroup.OTHER),
        ("NO-CC CODE", "LicenseRef-unknown", LicenseGroup.OTHER),
        (None, "LicenseRef-unknown", LicenseGroup.OTHER),
    ],
)
def test_licenses_of_sources_have_an_spdx_id_and_a_group(text, spdx, group):
    assert spdx_id(text) == spdx
    assert license_group(spdx) is group


def test_keys_are_stable_unique_over_sources_and_safe_for_webdataset():
    assert sample_key("pmc", "PMC1/F1/a.jpg") == "pmc-cd92620947d015cd"
    assert sample_key("pmc", "x") != sample_key("other", "x")
    with pytest.raises(DataError, match=r"source name 'a\.b' cannot start a key"):
        sample_key("a.b", "x")


def test_units_of_groups_cover_all_units_evenly():
    counts = [0] * 8
    for patient in range(4000):
        counts[unit_of_group(f"patient-{patient}", 8)] += 1
    assert min(counts) > 400
    assert unit_of_group("patient-1", 8) == unit_of_group("patient-1", 8)


def make_sample(**changes):
    values = {
        "key": "s-0",
        "source": "s",
        "image": b"\xff",
        "captions": (Caption(text="A caption.", origin="figure"),),
        "modality": Modality.CT,
        "group": "p1",
        "license": "CC-BY-NC-4.0",
        "width": 1,
        "height": 1,
        "sha256": "0",
        "phash": "0",
    }
    return Sample(**(values | changes))


def test_a_row_holds_everything_but_the_image():
    row = make_sample(labels={"t": ["b"]}, facts={"modality": "ct"}).row()
    assert row["captions"] == [{"text": "A caption.", "origin": "figure", "model": None, "prompt": None}]
    assert row["license_group"] == "noncommercial"
    assert row["labels"] == [{"task": "t", "classes": ["b"]}]
    assert row["facts"] == '{"modality":"ct"}'
    assert "image" not in row


def test_empty_captions_are_refused():
    with pytest.raises(DataError, match="a caption must hold text"):
        Caption(text="  ", origin="figure")
    with pytest.raises(DataError, match="has no caption"):
        make_sample(captions=())


def test_canonical_json_is_the_same_for_equal_values():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(float("nan"))
