"""DICOM files through the one door for images: shown as a viewer does, or an error that quotes nothing of them."""

import io
import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from clipmed.errors import ImageError
from clipmed.inputs import InputLimits, open_image


def pixels(image, **options) -> np.ndarray:
    return np.asarray(open_image(image, **options))


def scan(values: np.ndarray, **tags) -> bytes:
    """The bytes of an MR image, of other values (H, W) or (N, H, W), and other tags."""
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.PixelData = values.astype("<i2").tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


RAMP = np.arange(64 * 64).reshape(64, 64)


def test_a_dicom_file_is_shown_by_its_own_window_whatever_it_is_called(tmp_path):
    source = Path(str(get_testdata_file("MR_small.dcm")))
    shown = pixels(source)
    assert shown.shape == (64, 64, 3)
    assert len(np.unique(shown)) > 50
    renamed = tmp_path / "scan"
    renamed.write_bytes(source.read_bytes())
    for form in (renamed, source.read_bytes()):
        np.testing.assert_array_equal(pixels(form), shown)
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(source.read_bytes()[132:])  # without the preamble that says DICM
    np.testing.assert_array_equal(pixels(bare), shown)


def test_a_dicom_file_of_several_frames_needs_a_choice():
    raw = Path(str(get_testdata_file("SC_rgb_rle_2frame.dcm"))).read_bytes()
    with pytest.raises(ImageError, match="has 2 frames or pages"):
        open_image(raw)
    assert pixels(raw, frame=1).shape == (100, 100, 3)
    with pytest.raises(ImageError, match="no frame 7 of 2"):
        open_image(raw, frame=7)


def test_errors_of_dicom_files_quote_nothing_of_them(tmp_path):
    raw = bytearray(Path(str(get_testdata_file("MR_small.dcm"))).read_bytes())
    with pytest.raises(ImageError) as caught:
        open_image(bytes(raw[: len(raw) // 2]))
    assert "CompressedSamples" not in str(caught.value)


def test_a_dicom_file_whose_jpeg_is_cut_and_ended_properly_is_an_error():
    raw = Path(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))).read_bytes()
    start, end = raw.rindex(b"\xff\xda"), raw.rindex(b"\xff\xd9")
    middle = (start + end) // 2
    open_image(raw)
    with pytest.raises(ImageError, match="Corrupt JPEG data"):
        open_image(raw[:middle] + b"\xff\xd9" + b"\0" * (end - middle - 2) + raw[end:])


def test_a_dark_frame_of_several_is_shown():
    raw = scan(np.stack([RAMP * 0, RAMP]), WindowCenter=2000, WindowWidth=4000)
    assert not pixels(raw, frame=0).any()
    assert pixels(raw, frame=1).max() == 255
    for frame in (-1, 2):
        with pytest.raises(ImageError, match=f"no frame {frame} of 2"):
            open_image(raw, frame=frame)


def test_an_image_that_says_that_annotations_are_burned_in_is_shown():
    np.testing.assert_array_equal(pixels(scan(RAMP, BurnedInAnnotation="YES")), pixels(scan(RAMP)))


def test_the_shape_is_limited_as_it_is_shown():
    strip = RAMP[:4].repeat(5, axis=1)
    assert pixels(scan(strip, PixelSpacing=[8, 1])).shape == (32, 320, 3)
    with pytest.raises(ImageError, match="320x4; allowed: sides up to 50 to 1"):
        open_image(scan(strip))
    assert pixels(scan(strip), limits=InputLimits(max_aspect=80)).shape == (4, 320, 3)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_the_log_of_pydicom_is_the_callers_again(level):
    log = logging.getLogger("pydicom")
    before = log.level
    log.setLevel(level)
    try:
        open_image(scan(RAMP))
        with pytest.raises(ImageError):
            open_image(scan(RAMP)[:3000])
        assert log.level == level
    finally:
        log.setLevel(before)


def test_the_tags_of_a_file_are_read_once(monkeypatch):
    calls = []
    read = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: calls.append(args) or read(*args, **options))
    raw = scan(RAMP)
    calls.clear()
    open_image(raw)
    assert len(calls) == 1
