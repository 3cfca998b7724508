"""Bytes of any kind give a picture or an error of ours: no other exception, no warning, no cut file as a picture."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from clipmed.errors import ClipmedError
from clipmed.inputs import InputLimits, open_image
from tests.clipmed.pictures import encoded, picture

SMALL = picture(24, 30)
LIMITS = InputLimits(max_pixels=1_000_000)  # so that a changed header costs little time
FILES = {
    "png": encoded(SMALL, "PNG"),
    "palette": encoded(SMALL, "PNG", "P"),
    "deep": encoded(SMALL[..., 0].astype(np.uint16) * 200, "PNG"),
    "jpeg": encoded(SMALL, "JPEG"),
    "progressive": encoded(SMALL, "JPEG", progressive=True),
    "inks": encoded(SMALL, "JPEG", "CMYK"),
    "tiff": encoded(SMALL, "TIFF"),
    "lzw": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "deflate": encoded(SMALL, "TIFF", compression="tiff_deflate"),
    "packbits": encoded(SMALL, "TIFF", compression="packbits"),
    "webp": encoded(SMALL, "WEBP"),
    "lossless": encoded(SMALL, "WEBP", lossless=True),
    "gif": encoded(SMALL, "GIF", "P"),
    "bmp": encoded(SMALL, "BMP"),
    "pgm": encoded(SMALL, "PPM", "L"),
    "jp2": encoded(SMALL, "JPEG2000"),
    "tiles": encoded(SMALL, "JPEG2000", tile_size=(16, 16), no_jp2=True),
    **{
        name: Path(str(get_testdata_file(name))).read_bytes()
        for name in (
            "MR_small.dcm",
            "JPEG2000.dcm",
            "SC_rgb_jpeg_dcmtk.dcm",
            "MR_small_RLE.dcm",
            "SC_rgb_small_odd.dcm",
        )
    },
}
WHOLE = {name: np.asarray(open_image(raw)) for name, raw in FILES.items()}
quick = settings(max_examples=60, deadline=10_000, suppress_health_check=[HealthCheck.too_slow])


def attempt(raw: bytes) -> np.ndarray | None:
    """The picture, or None for an error of ours; pytest turns warnings into errors, which would be none of ours."""
    try:
        opened = open_image(raw, LIMITS)
    except ClipmedError:
        return None
    assert opened.mode == "RGB"
    assert opened.width * opened.height <= LIMITS.max_pixels
    return np.asarray(opened)


@quick
@given(st.binary(max_size=400))
def test_noise_is_no_picture(raw):
    assume(raw[:2] not in (b"P4", b"P5", b"P6"))  # a few letters and numbers are one of those already
    assert attempt(raw) is None


@pytest.mark.parametrize("name", FILES)
@quick
@given(noise=st.binary(max_size=300), keep=st.integers(2, 40))
def test_noise_behind_the_start_of_a_file(name, noise, keep):
    attempt(FILES[name][:keep] + noise)


@pytest.mark.parametrize("name", FILES)
@quick
@given(data=st.data())
def test_changed_bytes(name, data):
    raw = bytearray(FILES[name])
    place = st.one_of(st.integers(0, min(len(raw), 400) - 1), st.integers(0, len(raw) - 1))
    for where, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=6)):
        raw[where] = value
    found = attempt(bytes(raw))
    if name in ("png", "palette", "deep") and bytes(raw) != FILES[name]:
        assert found is None  # every byte of a PNG is under a checksum


@pytest.mark.parametrize("name", FILES)
@quick
@given(data=st.data())
def test_a_cut_file_is_an_error_or_lacks_nothing_of_the_picture(name, data):
    raw = FILES[name]
    near_the_end = st.integers(max(0, len(raw) - 40), len(raw) - 1)
    found = attempt(raw[: data.draw(st.one_of(st.integers(0, len(raw) - 1), near_the_end))])
    if found is not None:
        np.testing.assert_array_equal(found, WHOLE[name])


@pytest.mark.parametrize(("name", "codes"), [("jpeg", b"\xff\xda"), ("inks", b"\xff\xda"), ("jp2", b"\xff\x93")])
@quick
@given(data=st.data())
def test_codes_cut_and_ended_properly_are_an_error(name, codes, data):
    raw = FILES[name]
    cut = raw[: data.draw(st.integers(raw.index(codes) + 20, len(raw) - 12))]
    assume(not cut.endswith(b"\xff"))
    assert attempt(cut + b"\xff\xd9") is None


@quick
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from(
        ["u1", "u2", "u4", "i1", "i2", "i8", "f2", "f4", "f8", "c8", "?", "O", "U1", "S1", "M8[s]", "V2"]
    ),
    seed=st.integers(0, 9),
)
def test_arrays_of_any_shape_and_type(shape, dtype, seed):
    values = np.random.default_rng(seed).integers(0, 2, shape)
    try:
        opened = open_image(values.astype(dtype), LIMITS)
    except ClipmedError:
        return
    assert opened.size == (shape[1], shape[0])
    assert np.dtype(dtype).kind in "buf"


def test_every_file_is_read_whole():
    for name, raw in FILES.items():
        if not name.endswith(".dcm"):
            reference = Image.open(io.BytesIO(raw))
            assert WHOLE[name].shape[:2] == (reference.height, reference.width) == (24, 30)
