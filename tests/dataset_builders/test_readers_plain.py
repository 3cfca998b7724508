"""Ordinary image files: 8-bit ones as `ingest_image` takes them, deep PNG and TIFF with their range, pages, and fit."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from clipmed.images import ImageConfig, decode_rgb, ingest_image
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.parts import ingest_part, list_parts, read_part

RAMP = np.linspace(0, 4095, 96 * 128).reshape(96, 128).astype(np.uint16)


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def test_ordinary_images_are_ingest_images_byte_for_byte(tmp_path):
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for raw in (
        encoded(photo, "JPEG"),
        encoded(photo, "PNG"),
        encoded(photo, "TIFF"),
        encoded(photo, "JPEG", exif=exif),
    ):
        (tmp_path / "image").write_bytes(raw)
        assert list_parts(tmp_path / "image", ReaderConfig()) == [""]
        assert ingest_part(tmp_path / "image", "", ReaderConfig(), ImageConfig()) == (
            ingest_image(raw, ImageConfig()),
            {},
        )
    turned = read_part(encoded(photo, "JPEG", exif=exif), "", ReaderConfig()).pixels
    assert turned.shape == (80, 60, 3)


@pytest.mark.parametrize("form", ["png", "png-colour", "tiff", "tiff-colour", "tiff-float", "tiff-signed"])
@pytest.mark.parametrize("window", ["stored", "percentile"])
def test_deep_images_keep_their_dynamic_range(form, window):
    values = RAMP
    if "colour" in form:
        values = np.stack([RAMP, RAMP // 2, RAMP // 4], axis=-1)
    if form.startswith("png"):
        raw = cv2.imencode(".png", values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()
    else:
        buffer = io.BytesIO()
        kinds = {"tiff-float": np.float32, "tiff-signed": np.int16}
        tifffile.imwrite(buffer, values.astype(kinds.get(form, np.uint16)))
        raw = buffer.getvalue()
    config = ReaderConfig(windows=(window,))
    levels = read_part(raw, "", config).pixels
    strongest = levels[..., 0] if values.ndim == 3 else levels
    if strongest.ndim == 3:
        strongest = strongest[..., 0]
    assert len(np.unique(strongest)) >= 200
    assert (np.diff(strongest.reshape(-1).astype(int)) >= 0).all()
    assert np.mean(levels == 255) < 0.01
    stored, _ = ingest_part(raw, "", config, ImageConfig())
    assert len(np.unique(decode_rgb(stored.jpeg)[..., 0])) >= 200


def test_a_deep_tiff_whose_white_is_zero_is_turned_over():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RAMP, photometric="miniswhite")
    levels = read_part(buffer.getvalue(), "", ReaderConfig()).pixels
    assert levels[0, 0] == 255
    assert levels[-1, -1] == 0


def test_pages_of_a_tiff_are_images():
    pages = np.stack([np.roll(RAMP, number, 1) for number in range(4)])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, photometric="minisblack")
    raw = buffer.getvalue()
    assert list_parts(raw, ReaderConfig()) == ["page-000", "page-001", "page-002", "page-003"]
    assert (read_part(raw, "page-002", ReaderConfig()).pixels == np.rint(pages[2] / 4095 * 255)).all()


@pytest.mark.parametrize(("fit", "shape"), [("none", (60, 80)), ("crop", (60, 60)), ("letterbox", (80, 80))])
def test_fit_makes_images_square(fit, shape):
    pixels = np.random.default_rng(1).integers(50, 255, (60, 80), dtype=np.uint8)
    found = read_part(encoded(Image.fromarray(pixels), "PNG"), "", ReaderConfig(fit=fit)).pixels
    assert found.shape[:2] == shape
    grey = found[..., 0] if found.ndim == 3 else found
    if fit == "crop":
        assert (grey == pixels[:, 10:70]).all()
    if fit == "letterbox":
        assert (grey[10:70] == pixels).all()
        assert not grey[:10].any()
        assert not grey[70:].any()
