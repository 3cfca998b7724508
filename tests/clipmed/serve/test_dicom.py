"""DICOM files through the server: the library's answer, and nothing of what the file says of a patient."""

import io

import pytest
from PIL import Image
from pydicom import dcmread

from tests.clipmed.serve.serving import dicom


@pytest.mark.parametrize("name", ["MR_small.dcm", "CT_small.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_a_file_is_answered_as_the_library_answers(server, models, name):
    raw = dicom(name)
    answer = server.post("api/classify", raw, name="IM0001", labels=["a", "b"]).raise_for_status()
    for result in answer.json()["results"]:
        (expected,) = models[result["checkpoint"]].classify(raw, ["a", "b"])
        assert result["scores"][0]["probability"] == pytest.approx(expected.probabilities["a"], abs=1e-6)
    assert server.post("api/similar", raw).status_code == 200
    shown = server.post("api/preview", raw).raise_for_status()
    tags = dcmread(io.BytesIO(raw))
    assert Image.open(io.BytesIO(shown.content)).size == (tags.Columns, tags.Rows)
    for said in (answer.content, shown.content, server.log.read_bytes()):
        assert str(tags.PatientName).encode() not in said


def test_a_file_that_is_cut_is_refused_without_its_words(server):
    raw = dicom("MR_small.dcm")
    answer = server.post("api/classify", raw[: len(raw) // 2], labels=["a", "b"])
    assert answer.status_code == 422
    assert "CompressedSamples" not in answer.text + server.log.read_text()
