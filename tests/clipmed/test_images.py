"""Images of every kind to the JPEG that a sample keeps."""

import io

import numpy as np
import pytest
from PIL import Image

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.images import ImageConfig, decode_rgb, ingest_image

PHOTO = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
GRADIENT = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def test_a_small_jpeg_is_kept_byte_for_byte():
    raw = encode(Image.fromarray(GRADIENT), "JPEG")
    stored = ingest_image(raw, ImageConfig())
    assert stored.jpeg == raw
    assert (stored.width, stored.height) == (96, 64)


def test_the_same_picture_has_the_same_perceptual_hash_in_any_format():
    jpeg = ingest_image(encode(Image.fromarray(PHOTO), "JPEG"), ImageConfig())
    png = ingest_image(encode(Image.fromarray(PHOTO), "PNG"), ImageConfig())
    distance = bin(int(jpeg.phash, 16) ^ int(png.phash, 16)).count("1")
    assert distance <= 4
    assert jpeg.sha256 != png.sha256


def test_large_images_are_scaled_once_to_the_longest_side():
    stored = ingest_image(encode(Image.fromarray(GRADIENT).resize((960, 640)), "PNG"), ImageConfig(max_side=480))
    assert (stored.width, stored.height) == (480, 320)
    assert decode_rgb(stored.jpeg).shape == (320, 480, 3)


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = ingest_image(encode(Image.fromarray(GRADIENT), "JPEG", exif=exif), ImageConfig())
    assert (stored.width, stored.height) == (64, 96)


def test_sixteen_bit_greys_keep_their_range():
    deep = (GRADIENT.astype(np.uint16) * 16 + 1000).astype(np.uint16)  # 12-bit values on an offset
    stored = ingest_image(encode(Image.fromarray(deep), "PNG"), ImageConfig())
    pixels = decode_rgb(stored.jpeg)
    assert pixels.min() < 5
    assert pixels.max() > 250
    assert len(np.unique(pixels[..., 0])) > 200


def test_transparency_lies_on_black():
    rgba = np.dstack(
        [np.full((64, 64, 3), 200, np.uint8), np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, 1) * 4]
    )
    stored = ingest_image(encode(Image.fromarray(rgba), "PNG"), ImageConfig())
    pixels = decode_rgb(stored.jpeg)
    assert pixels[0].mean() < 5
    assert pixels[-1].mean() > 180


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "image_empty"),
        (b"not an image at all", "image_unsupported"),
        (encode(Image.fromarray(GRADIENT), "JPEG")[:-400], "image_corrupt"),
        (encode(Image.fromarray(PHOTO), "PNG")[:-100], "image_corrupt"),
        (encode(Image.new("RGB", (64, 64), (9, 9, 9)), "PNG"), "image_blank"),
        (encode(Image.fromarray(GRADIENT).resize((20, 20)), "PNG"), "image_too_small"),
        (encode(Image.fromarray(GRADIENT).resize((640, 40)), "PNG"), "image_extreme_aspect"),
        (encode(Image.new("1", (15000, 15000)), "PNG"), "image_too_large"),
        (encode(Image.new("1", (30000, 30000)), "PNG"), "image_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_images_are_rejected_with_a_reason(raw, reason):
    with pytest.raises(ItemRejectedError) as error:
        ingest_image(raw, ImageConfig())
    assert (str(error.value.stage), str(error.value.reason)) == ("image", reason)


def test_scaled_decoding_keeps_both_sides_above_the_bound():
    raw = encode(Image.fromarray(GRADIENT).resize((960, 640)), "JPEG")
    height, width, _ = decode_rgb(raw, min_side=150).shape
    assert 150 <= height <= width < 960


def test_image_config_is_validated():
    with pytest.raises(ConfigError, match="allowed: 1 <= min <= max"):
        ImageConfig(min_side=100, max_side=50)
