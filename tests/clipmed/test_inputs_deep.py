"""Colours of more than 8 bits: the library sees what the builders made training data of, or says why it cannot."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from clipmed.errors import ImageError
from clipmed.inputs import open_image
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.plain import read_image
from tests.clipmed.pictures import deep_png, encoded, picture

PICTURE = picture()
DEEP = PICTURE.astype(np.uint16) * 35 + 700  # far from either end of 16 bits, and its lower bytes count
ALPHA = np.random.default_rng(0).integers(0, 65536, (*DEEP.shape[:2], 1)).astype(np.uint16)
OPAQUE = np.full_like(ALPHA, 65535)
LOW, HIGH = int(DEEP.min()), int(DEEP.max())
STRETCHED = np.rint((DEEP.astype(float) - LOW) * 255 / (HIGH - LOW)).astype(np.uint8)


def pixels(image, **options) -> np.ndarray:
    return np.asarray(open_image(image, **options))


def tiff(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "rgb"} | options)
    return buffer.getvalue()


def ppm(values: np.ndarray, highest: int) -> bytes:
    height, width, _ = values.shape
    return b"P6\n%d %d\n%d\n" % (width, height, highest) + values.astype(">u2").tobytes()


def as_builders_read(raw: bytes) -> np.ndarray:
    levels = read_image(raw, "", "stored", ReaderConfig()).pixels
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


TIFFS = {
    "plain": {},
    "packed": {"compression": "zlib"},
    "predicted": {"compression": "zlib", "predictor": True},
    "other byte order": {"byteorder": ">"},
    "other byte order, packed": {"byteorder": ">", "compression": "lzw"},
    "tiles": {"tile": (16, 16)},
    "strips": {"rowsperstrip": 7},
}
FILES = {
    **{f"TIFF, {kind}": tiff(DEEP, **options) for kind, options in TIFFS.items()},
    "TIFF, opaque": tiff(np.dstack([DEEP, OPAQUE]), extrasamples=["unassalpha"]),
    "TIFF, fourth band": tiff(np.dstack([DEEP, ALPHA]), extrasamples=["unspecified"]),
    "PNG": deep_png(DEEP),
    "PNG, opaque": deep_png(np.dstack([DEEP, OPAQUE])),
}


@pytest.mark.parametrize("kind", FILES)
def test_colours_of_16_bits_are_stretched_from_their_own_range_as_training_data_was(kind):
    np.testing.assert_array_equal(pixels(FILES[kind]), STRETCHED)
    np.testing.assert_array_equal(as_builders_read(FILES[kind]), STRETCHED)


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_parts_of_deep_files_lie_on_black_before_they_are_stretched(channels):
    values = np.dstack([DEEP[..., : channels - 1], ALPHA])
    raw = deep_png(values)
    np.testing.assert_array_equal(pixels(raw), as_builders_read(raw))
    colours = np.rint(values[..., :-1] * (ALPHA / 65535))
    low, high = colours.min(), colours.max()
    expected = np.broadcast_to(np.rint((colours - low) * 255 / (high - low)), DEEP.shape)
    np.testing.assert_array_equal(pixels(raw), expected)
    if channels == 4:
        np.testing.assert_array_equal(pixels(values), expected)


def test_a_colour_that_stands_for_nothing_is_black():
    raw = deep_png(DEEP, transparent=DEEP[3, 4])
    assert (pixels(raw)[3, 4] == 0).all()
    np.testing.assert_array_equal(pixels(raw), as_builders_read(raw))


def test_grey_with_alpha_is_seen_as_grey_is():
    grey = DEEP[..., :1]
    np.testing.assert_array_equal(pixels(deep_png(np.dstack([grey, OPAQUE]))), pixels(encoded(grey[..., 0], "PNG")))


@pytest.mark.parametrize(
    "given",
    [
        DEEP,
        DEEP.astype(">u2"),
        np.dstack([DEEP, OPAQUE]),
        torch.from_numpy(DEEP.astype(np.int32)).permute(2, 0, 1).to(torch.uint16),
    ],
    ids=["array", "other byte order", "opaque", "tensor"],
)
def test_deep_arrays_and_tensors_are_seen_as_files_are(given):
    np.testing.assert_array_equal(pixels(given), STRETCHED)


def test_an_even_deep_picture_is_black_as_an_even_grey_one_is():
    assert not pixels(np.full_like(DEEP, 900)).any()


def test_the_orientation_and_the_page_of_a_deep_tiff_are_heeded():
    other = np.flipud(DEEP)
    raw = tiff(np.stack([DEEP, other]), extratags=[(274, "H", 1, 6, False)])
    for number, values in enumerate((STRETCHED, np.flipud(STRETCHED))):
        np.testing.assert_array_equal(pixels(raw, frame=number), np.rot90(values, -1))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_colours_in_planes_are_refused(compression):
    raw = tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate", compression=compression)
    with pytest.raises(ImageError, match=r"separate planes; save them pixel by pixel, or give an array"):
        open_image(raw)
    shallow = tiff(np.moveaxis(PICTURE, 2, 0), planarconfig="separate", compression=compression)
    np.testing.assert_array_equal(pixels(shallow), PICTURE)


HALF = (PICTURE.astype(np.uint16) + 7) * 257  # its lightest is 255 of 255
UPPER = {
    "PPM": lambda values: ppm(values, 65535),
    "PPM of 12 bits": lambda values: ppm(values >> 4, 4095),
}


@pytest.mark.parametrize("kind", UPPER)
def test_where_only_upper_bits_are_to_be_had_dark_pictures_are_an_error(kind):
    bright, dim = UPPER[kind](HALF), UPPER[kind](HALF // 5 * 2)
    np.testing.assert_array_equal(pixels(bright), as_builders_read(bright))
    assert pixels(bright).max() >= 254
    with pytest.raises(ImageError, match=r"below half of the range.*convert it to 8 bits or to PNG, or give .* uint16"):
        open_image(dim)


JPEG_2000 = {
    "RGB": (HALF, {}),
    "RGB, codes alone": (HALF, {"codecformat": "j2k"}),
    "RGB of 12 bits": (HALF >> 4, {"bitspersample": 12}),
    "RGBA": (np.dstack([HALF, OPAQUE]), {}),
    "LA": (np.dstack([HALF[..., :1], OPAQUE]), {}),
}


@pytest.mark.parametrize("kind", JPEG_2000)
def test_deep_colours_in_jpeg_2000_are_refused_as_their_white_would_turn_black(kind):
    values, options = JPEG_2000[kind]
    raw = imagecodecs.jpeg2k_encode(values, level=0, **options)
    with pytest.raises(ImageError, match=r"JPEG 2000 of colours above 8 bits; convert it to PNG, or give .* uint16"):
        open_image(raw)
    opened = Image.open(io.BytesIO(raw))
    with pytest.raises(ImageError, match=r"Pillow keeps 8 bits of its colours"):
        open_image(opened)
    opened.load()  # the file is as it was
    assert opened.size == (56, 40)


@pytest.mark.parametrize("codecformat", ["jp2", "j2k"])
def test_deep_grey_and_shallow_colours_in_jpeg_2000_are_read(codecformat):
    grey = HALF[..., 0]
    raw = imagecodecs.jpeg2k_encode(grey, level=0, codecformat=codecformat)
    np.testing.assert_array_equal(pixels(raw), pixels(grey))
    raw = imagecodecs.jpeg2k_encode(PICTURE, level=0, codecformat=codecformat)
    for given in (raw, Image.open(io.BytesIO(raw))):
        np.testing.assert_array_equal(pixels(given), PICTURE)


@pytest.mark.parametrize("highest", [4095, 65535])
def test_dim_deep_grey_in_pgm_is_stretched(highest):
    grey = PICTURE[..., 0].astype(np.uint16) // 2
    raw = b"P5\n56 40\n%d\n" % highest + grey.astype(">u2").tobytes()
    assert np.abs(pixels(raw).astype(int) - pixels(grey)).max() <= 1
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(raw))), pixels(raw))


def test_dark_pictures_of_8_bits_are_read():
    dark = PICTURE // 8
    for raw in (imagecodecs.jpeg2k_encode(dark, level=0), encoded(dark, "PPM"), encoded(dark, "TIFF")):
        np.testing.assert_array_equal(pixels(raw), dark)


def test_a_bmp_of_16_bits_a_pixel_has_no_deep_colours():
    dark = (PICTURE // 4).astype(np.uint16)
    words = (dark[..., 0] >> 3 << 11) | (dark[..., 1] >> 2 << 5) | (dark[..., 2] >> 3)
    codes = words[::-1].astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII3I", 40, 56, 40, 1, 16, 3, len(codes), 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)
    start = 14 + len(header)
    raw = b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + header + codes
    for given in (raw, Image.open(io.BytesIO(raw))):
        assert np.abs(pixels(given).astype(int) - dark).max() <= 8


@pytest.mark.parametrize("ink", [0, 3])
def test_faint_deep_inks_are_an_error_and_not_white(ink):
    inks = np.zeros((40, 56, 4), np.uint16)
    inks[..., ink] = HALF[..., 0]
    expected = np.asarray(Image.fromarray((inks >> 8).astype(np.uint8), "CMYK").convert("RGB"))
    np.testing.assert_array_equal(pixels(tiff(inks, photometric="separated")), expected)
    with pytest.raises(ImageError, match="below half of the range"):
        open_image(tiff(inks // 5 * 2, photometric="separated"))


def test_deep_colours_with_alpha_multiplied_in_are_read_by_their_upper_bits():
    bright = tiff(np.dstack([HALF, OPAQUE]), extrasamples=["assocalpha"])
    np.testing.assert_array_equal(pixels(bright), HALF >> 8)
    with pytest.raises(ImageError, match="below half of the range"):
        open_image(tiff(np.dstack([HALF // 5 * 2, OPAQUE]), extrasamples=["assocalpha"]))


def test_a_pillow_image_of_deep_colours_is_refused_before_it_loses_them():
    for raw in (deep_png(DEEP), deep_png(np.dstack([DEEP[..., :1], ALPHA])), tiff(DEEP), ppm(HALF, 65535)):
        with pytest.raises(ImageError, match=r"Pillow keeps 8 bits of its colours.*give the file's path or its bytes"):
            open_image(Image.open(io.BytesIO(raw)))


def test_whole_numbers_of_32_bits_are_read_or_refused_by_their_sign():
    values = (PICTURE[..., 0].astype(np.uint32) * 8_000_000).astype(np.uint32)
    top = int(values.max())
    expected = np.rint((values - float(values.min())) * 255 / (top - float(values.min())))
    np.testing.assert_array_equal(pixels(tiff(values, photometric="minisblack"))[..., 0], expected)
    signed = (values.astype(np.int64) - 10**9).astype(np.int32)
    np.testing.assert_array_equal(pixels(tiff(signed, photometric="minisblack"))[..., 0], expected)
    with pytest.raises(ImageError, match="values of 32 bits above 2147483647; map them to 16 bits"):
        open_image(tiff(values * 2, photometric="minisblack"))
