"""Licences of articles: what their wording stands for, and what several statements mean together."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from clipmed.licenses import UNKNOWN_LICENSE, LicenseGroup, license_group
from dataset_builders.pmc.licensing import combined_license, jats_license, stated_license


@pytest.mark.parametrize(
    ("text", "license_id"),
    [
        ("Creative Commons Attribution 3.0 Unported License", "CC-BY-3.0"),
        ("the Creative Commons Attribution License (CC BY), version 2.0", "CC-BY-2.0"),
        ("the Creative Commons Attribution License", "CC-BY-4.0"),
        ("a CCBY licence", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 3.0", "CC-BY-NC-SA-3.0"),
        ("made available under the Creative Commons CC0 public domain dedication", "CC0-1.0"),
        ("This is an open-access article, free of all copyright", "LicenseRef-public-domain"),
        ("Publication of EHP lies in the public domain", "LicenseRef-public-domain"),
        ("This article is a work of the U.S. Government", "LicenseRef-public-domain"),
        ("a work of the United States government, not subject to copyright", "LicenseRef-public-domain"),
        ("Portions of this article are in the public domain", None),
        ("Contains public sector information licensed under the Open Government Licence v3.0.", "OGL-UK-3.0"),
        ("Open Government License version 2", "OGL-UK-2.0"),
        ("© Crown copyright 2012", None),
        ("view, print, copy, and download text and data-mine the content", "LicenseRef-TDM"),
        ("Creative Commons Deed, Attribution 2.5, which does not permit commercial exploitation", UNKNOWN_LICENSE),
        ("CC BY 4.0. Commercial use is not permitted.", UNKNOWN_LICENSE),
        ("CC BY-NC 4.0, which does not permit commercial use", "CC-BY-NC-4.0"),
        ("CC 0.5 mg/kg", None),
        ("All rights reserved", None),
    ],
)
def test_wordings(text: str, license_id: str | None):
    assert stated_license(text) == license_id


def test_the_open_government_licence_is_commercial_and_third_parties_are_not():
    assert license_group("OGL-UK-3.0") is LicenseGroup.COMMERCIAL
    assert license_group("LicenseRef-third-party") is LicenseGroup.OTHER


@pytest.mark.parametrize(
    ("permissions", "license_id"),
    [
        ("<copyright-statement>© 2012 A Press. All rights reserved.</copyright-statement>", UNKNOWN_LICENSE),
        (
            "<copyright-statement>© 2012 A Press. All rights reserved.</copyright-statement>"
            "<license><p>Creative Commons Attribution 3.0 License</p></license>",
            "CC-BY-3.0",
        ),
        ("<license><p>Reproduced from Hughes, 2008 with permission.</p></license>", UNKNOWN_LICENSE),
        ("<copyright-statement>© Crown copyright 2012</copyright-statement>", None),
    ],
)
def test_rights_reserved_count_where_no_licence_is_named(permissions: str, license_id: str | None):
    assert jats_license(etree.fromstring(f"<permissions>{permissions}</permissions>"))[0] == license_id


@pytest.mark.parametrize(
    ("stated", "license_id"),
    [
        (["CC-BY-4.0", "CC-BY-SA-3.0"], "CC-BY-SA-3.0"),
        (["CC-BY-SA-4.0", "CC-BY-ND-4.0"], "CC-BY-ND-4.0"),
        (["CC-BY-ND-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["CC-BY-NC-SA-4.0", "LicenseRef-unknown"], UNKNOWN_LICENSE),
        (["LicenseRef-unknown", "LicenseRef-TDM"], "LicenseRef-TDM"),
        ([], UNKNOWN_LICENSE),
    ],
)
def test_the_most_restrictive_statement_holds(stated: list[str | None], license_id: str):
    assert combined_license(stated) == license_id


@pytest.mark.real_data
def test_all_but_two_licences_of_real_articles_are_known(real_data: Path):
    parser = etree.XMLParser(resolve_entities=False, huge_tree=True)
    unknown = []
    for path in sorted((real_data / "jats").rglob("*.*ml")):
        permissions = etree.parse(path, parser).getroot().find("{*}front/{*}article-meta/{*}permissions")
        found, wording = jats_license(permissions)
        if found == UNKNOWN_LICENSE:
            unknown.append(wording)
    assert [wording[:40] for wording in unknown] == [
        "Re-use of this article is permitted in a",
        "This is an open-access article subject t",
    ]
