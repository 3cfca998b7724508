"""Images of every kind to the JPEG that a sample keeps."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.images import ImageConfig, SourceImage, decode_rgb, ingest_image, store_pixels

PHOTO = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
GRADIENT = np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 3) -> Image.Image:
    """Smooth colours under a little grain."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray(np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two pixel arrays of the same shape."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


def with_header_warning(raw: bytes) -> bytes:
    """The same JPEG with an unknown version of JFIF, at which libjpeg warns and decodes all the same."""
    place = raw.index(b"JFIF\0") + 5
    return raw[:place] + b"\x09" + raw[place + 1 :]


def with_broken_codes(raw: bytes) -> bytes:
    """The same JPEG with a hundred bytes of its pixels gone: its end is there, the pixels are not."""
    middle = len(raw) // 2
    return raw[:middle] + raw[middle + 100 :]


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
        (encode(photo(900, 700), "JPEG")[:-400], "image_corrupt"),
        (encode(photo(1500, 700), "JPEG")[:-400], "image_corrupt"),
        (with_broken_codes(encode(photo(900, 700), "JPEG")), "image_corrupt"),
        (with_broken_codes(encode(photo(1500, 700), "JPEG")), "image_corrupt"),
        (encode(Image.new("RGB", (900, 700), (9, 120, 9)), "JPEG"), "image_blank"),
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


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (photo(900, 620), {"format": "JPEG"}),
        (photo(901, 623), {"format": "JPEG", "progressive": True, "subsampling": 2}),
        (photo(900, 620).convert("L"), {"format": "JPEG"}),
        (photo(1500, 1100), {"format": "JPEG", "quality": 90}),
        (photo(1500, 1100).convert("L"), {"format": "JPEG", "quality": 90}),
        (photo(900, 620).convert("CMYK"), {"format": "JPEG"}),
        (photo(900, 620).convert("P", palette=Image.Palette.ADAPTIVE), {"format": "PNG"}),
        (photo(900, 620).convert("L"), {"format": "PNG"}),
        (photo(300, 200), {"format": "TIFF"}),
    ],
    ids=["jpeg", "progressive", "grey", "large", "large-grey", "cmyk", "palette", "grey-png", "tiff"],
)
def test_views_of_an_image_agree_whatever_was_asked_first(picture: Image.Image, options: dict):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    raw = buffer.getvalue()
    truth = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    first, second = SourceImage(raw, ImageConfig()), SourceImage(raw, ImageConfig())
    pixels, small, stored = first.pixels(), first.thumbnail(200), first.stored()
    assert second.stored() == stored == ingest_image(raw, ImageConfig())
    assert np.array_equal(second.thumbnail(200), small)
    assert np.array_equal(second.pixels(), pixels)
    assert difference(pixels, truth) < 1.5
    assert first.size == picture.size == (pixels.shape[1], pixels.shape[0])
    assert (max(stored.width, stored.height), max(small.shape)) == (min(1024, max(picture.size)), 200)
    fitted = np.asarray(Image.fromarray(truth).resize((stored.width, stored.height), Image.Resampling.LANCZOS))
    assert difference(decode_rgb(stored.jpeg), fitted) < 4
    shrunk = np.asarray(Image.fromarray(truth).resize((small.shape[1], small.shape[0]), Image.Resampling.LANCZOS))
    assert difference(small, shrunk) < 4
    assert bits_apart(stored.phash, str(imagehash.phash(Image.fromarray(truth)))) <= 2


def test_pixels_are_turned_as_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo(120, 80)
    image = SourceImage(encode(picture, "JPEG", exif=exif, quality=95), ImageConfig())
    assert image.size == (80, 120)
    assert difference(image.pixels(), np.asarray(picture.rotate(-90, expand=True))) < 4


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_images_without_colour_are_stored_as_grey(mode: str, channels: int):
    stored = ingest_image(encode(photo(1400, 900).convert(mode), "JPEG", subsampling=2), ImageConfig())
    with Image.open(io.BytesIO(stored.jpeg)) as image:
        assert len(image.getbands()) == channels


@pytest.mark.parametrize(
    ("size", "stored_size"),
    [
        ((1025, 700), (1024, 699)),
        ((1534, 900), (1024, 601)),
        ((1537, 901), (769, 451)),
        ((1200, 2047), (600, 1024)),
        ((2051, 1200), (1024, 599)),
        ((3001, 1500), (1024, 512)),
        ((3074, 1502), (769, 376)),
    ],
)
def test_large_jpegs_are_halved_where_that_leaves_three_quarters_of_the_side(size, stored_size):
    picture = photo(*size)
    stored = ingest_image(encode(picture, "JPEG", quality=92), ImageConfig())
    assert (stored.width, stored.height) == stored_size
    shrunk = np.asarray(picture.resize(stored_size, Image.Resampling.LANCZOS))
    assert difference(decode_rgb(stored.jpeg), shrunk) < 3


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_scaled_jpeg_keeps_its_chroma_subsampling(subsampling: int):
    stored = ingest_image(encode(photo(1400, 900), "JPEG", subsampling=subsampling), ImageConfig())
    with Image.open(io.BytesIO(stored.jpeg)) as image:
        assert JpegImagePlugin.get_sampling(image) == subsampling


def test_a_jpeg_that_libjpeg_warns_of_is_encoded_anew_so_that_readers_take_it():
    raw = with_header_warning(encode(photo(300, 200), "JPEG"))
    with pytest.raises(ItemRejectedError):
        decode_rgb(raw)
    stored = ingest_image(raw, ImageConfig())
    assert difference(decode_rgb(stored.jpeg), SourceImage(raw, ImageConfig()).pixels()) < 3


def test_fine_lines_do_not_alias_when_they_are_scaled_away():
    lines = np.zeros((600, 4200), np.uint8)
    lines[:, ::2] = 255
    scaled = decode_rgb(ingest_image(encode(Image.fromarray(lines), "PNG"), ImageConfig(max_side=500)).jpeg)
    assert abs(scaled.mean() - 127.5) < 3
    assert scaled.std() < 12


@pytest.mark.parametrize("width", [1400, 1800])
def test_a_pattern_finer_than_the_scaled_image_is_not_blank(width: int):
    board = (np.indices((width // 2, width)).sum(0) % 2 * 255).astype(np.uint8)
    stored = ingest_image(encode(Image.fromarray(board), "JPEG", quality=100), ImageConfig())
    assert 768 <= stored.width <= 1024


def test_an_image_names_the_bytes_that_it_came_as():
    raw = encode(photo(300, 200), "JPEG", comment=b"by somebody")
    image = SourceImage(raw, ImageConfig())
    assert image.source_sha256 == hashlib.sha256(raw).hexdigest()
    assert image.stored().sha256 == hashlib.sha256(image.stored().jpeg).hexdigest() != image.source_sha256


def test_a_pattern_finer_than_the_preview_is_not_blank():
    board = (np.indices((768, 768)).sum(0) % 2 * 255).astype(np.uint8)
    raw = encode(Image.fromarray(board), "JPEG", quality=100)
    assert ingest_image(raw, ImageConfig()).jpeg == raw


def test_a_part_of_an_image_is_stored_under_the_same_rules():
    pixels = np.asarray(photo(1500, 700))
    stored = store_pixels(pixels[100:400, 200:1400], ImageConfig(max_side=600))
    assert (stored.width, stored.height) == (600, 150)
    whole = ingest_image(encode(Image.fromarray(pixels[100:400, 200:1400]), "PNG"), ImageConfig(max_side=600))
    assert stored == whole


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (np.zeros((100, 100, 3), np.uint8), "image_blank"),
        (np.asarray(photo(100, 60)), "image_too_small"),
        (np.asarray(photo(900, 80)), "image_extreme_aspect"),
    ],
    ids=["blank", "small", "long"],
)
def test_a_bad_part_of_an_image_is_rejected(part: np.ndarray, reason: str):
    with pytest.raises(ItemRejectedError) as error:
        store_pixels(part, ImageConfig(min_side=64))
    assert str(error.value.reason) == reason


@pytest.mark.real_data
def test_hashes_of_real_images_are_those_of_imagehash(real_data: Path):
    paths = sorted((real_data / "pairs").rglob("*.jpg"))[::4]
    apart: Counter[int] = Counter()
    for path in paths:
        raw = path.read_bytes()
        with Image.open(io.BytesIO(raw)) as image:
            expected = str(imagehash.phash(image.convert("RGB")))
        apart[bits_apart(ingest_image(raw, ImageConfig(min_side=1, max_aspect=100)).phash, expected)] += 1
    near = sum(count for bits, count in apart.items() if bits <= 2)
    assert len(paths) > 200
    assert near >= 0.99 * len(paths), apart
    assert max(apart) <= 6


def test_scaled_decoding_keeps_both_sides_above_the_bound():
    raw = encode(Image.fromarray(GRADIENT).resize((960, 640)), "JPEG")
    height, width, _ = decode_rgb(raw, min_side=150).shape
    assert 150 <= height <= width < 960


def test_image_config_is_validated():
    with pytest.raises(ConfigError, match="allowed: 1 <= min <= max"):
        ImageConfig(min_side=100, max_side=50)


def test_deep_colours_in_jpeg_2000_are_rejected_as_their_white_would_turn_black():
    imagecodecs = pytest.importorskip("imagecodecs")
    ramp = np.linspace(0, 65535, 64 * 64 * 3).astype(np.uint16).reshape(64, 64, 3)
    with pytest.raises(ItemRejectedError, match="JPEG 2000 of colours above 8 bits") as caught:
        ingest_image(imagecodecs.jpeg2k_encode(ramp, level=0), ImageConfig())
    assert caught.value.reason == "image_unsupported"
    shallow = (ramp >> 8).astype(np.uint8)
    np.testing.assert_array_equal(
        SourceImage(imagecodecs.jpeg2k_encode(shallow, level=0), ImageConfig()).pixels(), shallow
    )
