"""What caption words say of modality and panels, and what licence statements amount to."""

from __future__ import annotations

import pytest
from lxml import etree

from clipmed.licenses import UNKNOWN_LICENSE
from dataset_builders.pmc.captions import caption_modality
from dataset_builders.pmc.licensing import combined_license, jats_license


@pytest.mark.parametrize(
    ("caption", "modality"),
    [
        ("Chest X-ray on admission", "xray"),
        ("Lateral radiographs of the knee", "xray"),
        ("Axial CT of the abdomen", "ct"),
        ("Contrast-enhanced computed tomography", "ct"),
        ("X-ray computed tomography of bone", "ct"),
        ("T2-weighted image of the brain", "mri"),
        ("Sagittal MRI", "mri"),
        ("Transthoracic echocardiogram", "ultrasound"),
        ("PET/CT of the whole body", "nuclear"),
        ("Bone scintigraphy", "nuclear"),
        ("Hematoxylin and eosin", "histopathology"),
        ("H&E, x40", "histopathology"),
        ("Confocal images of cells", "microscopy"),
        ("Scanning electron micrograph", "microscopy"),
        ("Fundus photograph of the left eye", "fundus"),
        ("Fluorescein angiogram", "fundus"),
        ("Optical coherence tomography of the macula", "oct"),
        ("Dermoscopic image", "dermatology"),
        ("Colonoscopy shows a polyp", "endoscopy"),
    ],
)
def test_captions_that_name_one_modality(caption: str, modality: str):
    assert caption_modality(caption) == modality


@pytest.mark.parametrize(
    "caption",
    [
        "Survival over time",
        "CT and MRI of the brain",
        "The ct values and Ct of the assay",
        "ΔCT and CT values of the genes",
        "OCT4 expression",
        "Her pet in oct",
        "Products and effects",
        "",
    ],
)
def test_captions_that_name_none_or_several_are_other(caption: str):
    assert caption_modality(caption) == "other"


def stated(inner: str) -> str | None:
    return jats_license(etree.fromstring(f"<permissions xmlns:ali='http://ali'>{inner}</permissions>"))[0]


@pytest.mark.parametrize(
    ("permissions", "license_id"),
    [
        ("<license href='http://creativecommons.org/licenses/by/2.0'/>", "CC-BY-2.0"),
        ("<license href='https://creativecommons.org/publicdomain/zero/1.0/'/>", "CC0-1.0"),
        ("<ali:license_ref>https://creativecommons.org/licenses/by-nc/4.0/</ali:license_ref>", "CC-BY-NC-4.0"),
        ("<license><p>See <uri href='http://creativecommons.org/licenses/by-nd/3.0/'/></p></license>", "CC-BY-ND-3.0"),
        ("<license><p>Creative Commons Attribution-NonCommercial-NoDerivs License</p></license>", "CC-BY-NC-ND-4.0"),
        ("<license><p>Creative Commons Attribution License, for non-commercial use too</p></license>", "CC-BY-4.0"),
        ("<license><p>published under CC BY-NC-SA 4.0.</p></license>", "CC-BY-NC-SA-4.0"),
        (
            "<license><p>http://creativecommons.org/publicdomain/zero/1.0/ applies to the data; the text is under "
            "http://creativecommons.org/licenses/by/4.0/</p></license>",
            "CC-BY-4.0",
        ),
        ("<copyright-statement>Creative Commons Attribution License.</copyright-statement>", "CC-BY-4.0"),
        ("<license><p>This work is in the public domain.</p></license>", "LicenseRef-public-domain"),
        ("<license><p>All rights reserved.</p></license>", UNKNOWN_LICENSE),
        ("<copyright-statement>© 2010 Somebody</copyright-statement>", None),
        ("", None),
    ],
)  # fmt: skip
def test_licence_statements(permissions: str, license_id: str | None):
    assert stated(permissions) == license_id


def test_most_restrictive_group_holds_and_the_first_of_a_group():
    assert combined_license(["CC-BY-NC-4.0", "CC-BY-3.0"]) == "CC-BY-NC-4.0"
    assert combined_license(["CC-BY-4.0", "CC-BY-NC-3.0"]) == "CC-BY-NC-3.0"
    assert combined_license(["CC-BY-4.0", "CC-BY-3.0"]) == "CC-BY-4.0"
    assert combined_license([None, "CC-BY-3.0"]) == "CC-BY-3.0"
    assert combined_license(["LicenseRef-TDM", "CC-BY-4.0"]) == "LicenseRef-TDM"
    assert combined_license([None, None]) == UNKNOWN_LICENSE
