"""Images of every kind through one door: the same picture, or an error that says why not."""

import io
import os
import socket
import warnings

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile, ImageOps

from clipmed.errors import ClipmedError, ConfigError, ImageError
from clipmed.images import to_rgb8
from clipmed.inputs import InputLimits, image_list, open_image
from tests.clipmed.pictures import encoded, picture, png, several

PICTURE = picture()
GREY = PICTURE[..., 0]
LOSSLESS = {
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {"irreversible": False},
    "PPM": {},
}


def pixels(image, **options) -> np.ndarray:
    opened = open_image(image, **options)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("form", LOSSLESS)
def test_files_as_paths_links_and_bytes_give_their_pixels(tmp_path, form):
    path = tmp_path / "picture.bin"
    path.write_bytes(encoded(PICTURE, form, **LOSSLESS[form]))
    (tmp_path / "link").symlink_to(path)
    raw = path.read_bytes()
    for given in (path, str(path), tmp_path / "link", raw, bytearray(raw), memoryview(raw), Image.open(path)):
        np.testing.assert_array_equal(pixels(given), PICTURE)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [True, False])
def test_jpegs_decode_as_pillow_decodes_them(mode, progressive):
    inks = Image.merge("CMYK", [*Image.fromarray(PICTURE).split(), Image.fromarray(GREY // 2)])
    raw = encoded(inks if mode == "CMYK" else PICTURE, "JPEG", mode, progressive=progressive)
    np.testing.assert_array_equal(pixels(raw), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize(("mode", "form"), [("P", "GIF"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("L", "PPM")])
def test_every_mode_becomes_rgb(mode, form):
    raw = encoded(PICTURE, form, mode)
    np.testing.assert_array_equal(pixels(raw), np.asarray(to_rgb8(Image.open(io.BytesIO(raw)))))


def test_transparent_parts_lie_on_black():
    layers = np.dstack([PICTURE, np.full(GREY.shape, 255, np.uint8)])
    layers[:20, :, 3] = 0
    expected = PICTURE * (layers[..., 3:] > 0)
    np.testing.assert_array_equal(pixels(encoded(layers, "PNG")), expected)
    np.testing.assert_array_equal(pixels(layers), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_of_exif_is_applied(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if form in ("JPEG", "WEBP") else {}
    raw = encoded(PICTURE, form, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))))
    np.testing.assert_array_equal(pixels(raw), expected)
    assert pixels(raw).shape[:2] == ((40, 56) if orientation < 5 else (56, 40))
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(raw))), expected)


def test_a_pillow_image_is_not_changed_and_may_be_lazy():
    opened = Image.open(io.BytesIO(encoded(PICTURE, "JPEG", exif=_turned())))
    open_image(opened)
    assert opened.getexif()[0x0112] == 6
    assert opened.size == (56, 40)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


ARRAYS = {
    "grey": (GREY, grey(GREY)),
    "one channel": (GREY[..., None], grey(GREY)),
    "bool": (GREY > 100, grey((GREY > 100) * np.uint8(255))),
    "float64": (PICTURE / 255, PICTURE),
    "float32": ((PICTURE / 255).astype(np.float32), PICTURE),
    "float16": (np.array([[0.0, 0.5, 1.0]], np.float16), grey(np.array([[0, 128, 255]], np.uint8))),
    "not contiguous": (PICTURE[::-1, ::2], PICTURE[::-1, ::2]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_mean_what_their_type_says(kind):
    array, expected = ARRAYS[kind]
    np.testing.assert_array_equal(pixels(array), expected)


TENSOR = torch.from_numpy(PICTURE).permute(2, 0, 1)


@pytest.mark.parametrize(
    "tensor",
    [
        TENSOR,
        TENSOR / 255,
        (TENSOR / 255).double(),
        (TENSOR / 255).requires_grad_(),
        TENSOR.flip(2).flip(2),
    ],
    ids=lambda tensor: str(tensor.dtype) + str(tensor.stride()),
)
def test_tensors_have_their_channels_first(tensor):
    np.testing.assert_array_equal(pixels(tensor), PICTURE)
    np.testing.assert_array_equal(pixels(tensor[:1]), grey(GREY))
    np.testing.assert_array_equal(pixels(tensor[0]), grey(GREY))


def test_half_floats_are_near():
    for dtype, error in ((torch.float16, 1), (torch.bfloat16, 2)):
        assert np.abs(pixels((TENSOR / 255).to(dtype)).astype(int) - PICTURE).max() <= error


def test_deep_grey_keeps_its_own_range_in_every_form():
    values = (GREY.astype(np.uint16) * 7 + 1000).astype(np.uint16)
    low, high = int(values.min()), int(values.max())
    expected = grey(np.rint((values.astype(float) - low) * 255 / (high - low)).astype(np.uint8))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    forms = [values, Image.fromarray(values), encoded(values, "PNG"), encoded(values, "TIFF"), buffer.getvalue()]
    for form in forms:
        np.testing.assert_array_equal(pixels(form), expected)
    assert len(np.unique(expected)) > 150


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiffs_that_store_white_as_zero_are_turned_over(dtype):
    ramp = np.tile(np.arange(50, dtype=dtype), (20, 1))
    for photometric, sign in (("miniswhite", -1), ("minisblack", 1)):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, ramp, photometric=photometric)
        shown = pixels(buffer.getvalue())[0, :, 0].astype(int)
        assert (np.diff(shown) * sign > 0).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_an_error_unless_one_is_chosen(form):
    raw = several(form)
    with pytest.raises(ImageError, match=r"has 3 frames or pages; choose one: clipmed\.open_image"):
        open_image(raw)
    opened = Image.open(io.BytesIO(raw))
    with pytest.raises(ImageError, match=r"has 3 frames or pages; choose one: image.seek\(0\)"):
        open_image(opened)
    opened.seek(2)
    np.testing.assert_array_equal(pixels(raw, frame=2), pixels(opened.copy()))
    assert (pixels(raw, frame=2) != pixels(raw, frame=0)).any()
    with pytest.raises(ImageError, match="no frame 3; it has 3, from 0"):
        open_image(raw, frame=3)
    with pytest.raises(ImageError, match="frame=0 is for files"):
        open_image(PICTURE, frame=0)


def test_a_photo_with_further_pictures_behind_it_is_its_first_one():
    first, second = (Image.fromarray(picture(seed=seed)) for seed in (0, 1))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second], quality=95)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert opened.format == "MPO"
    np.testing.assert_array_equal(pixels(buffer.getvalue()), np.asarray(opened))
    np.testing.assert_array_equal(pixels(opened), np.asarray(opened))


BOMB = png(60_000, 60_000)
WRONG = {
    "no bytes": (b"", "0 bytes; the file is empty"),
    "noise": (b"noise", "5 bytes that are no image; allowed: PNG, JPEG"),
    "page": (b"<!doctype html>", "perhaps a page of HTML"),
    "pdf": (b"%PDF-1.7 ...", "a PDF file; render its page first"),
    "eps": (encoded(PICTURE, "EPS"), "a PostScript file"),
    "icon": (encoded(PICTURE, "ICO"), "are no image"),
    "bomb": (BOMB, "60000x60000 pixels; allowed: 200000000, before decoding"),
    "strip": (png(6000, 10), "6000x10; allowed: sides up to 50 to 1"),
    "nothing in it": (png(30, 30), "does not decode"),
    "no width": (png(0, 30), "does not decode"),
    "half": (encoded(PICTURE, "PNG")[:900], "cut short"),
    "flipped": (encoded(PICTURE, "PNG")[:600] + b"!" + encoded(PICTURE, "PNG")[601:], "a checksum in it is wrong"),
    "half with an end": (encoded(PICTURE, "JPEG")[:700] + b"\xff\xd9", "premature end"),
    "half inks with an end": (encoded(PICTURE, "JPEG", "CMYK")[:1000] + b"\xff\xd9", "premature end"),
    "array of 2 channels": (PICTURE[..., :2], r"allowed shapes: \(H, W\)"),
    "several grey arrays": (np.stack([GREY] * 5), r"allowed shapes: .* as list\(images\) makes of \(N, H, W\)"),
    "several grey tensors": (TENSOR[:1].repeat(5, 1, 1), r"allowed shapes: .* as list\(images\) makes of \(N, H, W\)"),
    "channels first": (PICTURE.transpose(2, 0, 1), r"channels come last: array.transpose\(1, 2, 0\)"),
    "tensor last": (TENSOR.permute(1, 2, 0), r"channels come first: tensor.permute\(2, 0, 1\)"),
    "no rows": (PICTURE[:0], "56x0: it has no pixels"),
    "no rows of a tensor": (TENSOR[:, :0], "56x0: it has no pixels"),
    "no size": (Image.new("RGB", (0, 3)), "0x3: it has no pixels"),
    "wide floats": (PICTURE * 1.0, "floats from 0 to 248; allowed: 0 to 1"),
    "normalised": (TENSOR / 255 - 0.5, "floats from -0.5 .*as before normalisation"),
    "nan": (np.where(PICTURE > 50, np.nan, 0.5), "NaN or infinite"),
    "nan in pillow": (Image.fromarray(np.full((9, 9), np.nan, np.float32)), "NaN or infinite"),
    "complex": (PICTURE * 1j, "allowed types: uint8, uint16, bool, and floats"),
    "complex tensor": (TENSOR * 1j, "allowed types"),
    "whole numbers": (PICTURE.astype(np.int64), "allowed types.*such as CT by a window"),
    "objects": (PICTURE.astype(object), "allowed types"),
    "letters": (np.array([["a", "b"]]), "allowed types"),
    "masked": (np.ma.masked_greater(PICTURE, 100), "fill them first"),
    "sparse": (TENSOR[0].to_sparse(), "not sparse"),
    "number": (np.array(3), "allowed shapes"),
    "none": (None, "allowed: a path, bytes, a Pillow image"),
    "stream": (io.BytesIO(encoded(PICTURE, "PNG")), "allowed: a path, bytes, a Pillow image"),
    "empty path": ("", "the path is empty"),
    "url": ("https://example.org/a.png", "URLs are not fetched"),
    "zero byte": ("a\0b.png", "null byte"),
    "device": ("/dev/zero", "a pipe, a socket or a device"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_one_whole_still_image_is_an_error(kind):
    given, message = WRONG[kind]
    with pytest.raises(ImageError, match=f"cannot read image .*{message}"):
        open_image(given)


def test_places_that_are_no_files_are_errors_and_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    with listener:
        for name, message in {
            "pipe": "a pipe, a socket",
            "socket": "a pipe, a socket",
            "loop": "too many levels",
            "dangling": "no such file",
            "absent": "no such file",
            ".": "it is a folder",
            "a" * 5000: "name too long",
        }.items():
            with pytest.raises(ImageError, match=message) as caught:
                open_image(tmp_path / name)
            assert len(str(caught.value)) < 500


def test_a_bomb_is_refused_from_its_header_by_the_callers_limit_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # of which Pillow warns, and refuses twice as many
    raw = encoded(PICTURE, "PNG")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_image(raw).size == (56, 40)
        with pytest.raises(ImageError, match="56x40 pixels; allowed: 2000"):
            open_image(raw, InputLimits(max_pixels=2000))
    assert not caught


def test_limits_are_the_callers_to_set(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(PICTURE, "PNG"))
    size = path.stat().st_size
    assert open_image(path, InputLimits(max_bytes=size, max_pixels=40 * 56, max_aspect=1.4)).size == (56, 40)
    for limits, message in (
        (InputLimits(max_bytes=size - 1), "bytes; allowed"),
        (InputLimits(max_pixels=40 * 56 - 1), "pixels; allowed"),
        (InputLimits(max_aspect=1.3), "sides up to 1.3 to 1"),
    ):
        with pytest.raises(ImageError, match=message):
            open_image(path, limits)
        with pytest.raises(ImageError, match=message):
            open_image(path.read_bytes(), limits)
    with pytest.raises(ConfigError, match="allowed: 1 or more"):
        InputLimits(max_pixels=0)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_cut_files_are_errors_even_where_pillow_is_told_to_fill_them(form, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    raw = encoded(PICTURE, form)
    with pytest.raises(ImageError):
        open_image(raw[: len(raw) * 2 // 3])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_one_image_or_many():
    assert len(image_list("a.png")) == len(image_list(PICTURE)) == len(image_list(TENSOR)) == 1
    assert len(image_list(torch.stack([TENSOR] * 3))) == len(image_list(np.stack([PICTURE] * 3))) == 3
    assert image_list(path for path in ("a", "b")) == ["a", "b"]
    for wrong, message in (
        ([], "empty list or batch"),
        (np.stack([PICTURE])[:0], "empty list or batch"),
        (TENSOR[None][:0], "empty list or batch"),
        (3, "got int"),
        ({"a": 1}, "got dict"),
    ):
        with pytest.raises(ClipmedError, match=message):
            image_list(wrong)
