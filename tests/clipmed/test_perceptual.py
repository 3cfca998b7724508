"""The perceptual hash against imagehash's, which everybody else's hashes are."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image

from clipmed.perceptual import perceptual_hash


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A grey picture of blobs under grain."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (11, 13), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray(np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (20, 31), (33, 200), (120, 90), (255, 199)])
def test_pictures_too_small_to_be_averaged_have_the_hash_of_imagehash(size: tuple[int, int]):
    for seed in range(8):
        image = picture(seed, *size)
        assert perceptual_hash(np.asarray(image)) == str(imagehash.phash(image))


def test_larger_pictures_have_nearly_that_hash():
    apart = []
    for seed in range(12):
        image = picture(seed, 700 + 61 * seed, 520 + 47 * seed)
        bits = int(perceptual_hash(np.asarray(image.convert("RGB"))), 16) ^ int(str(imagehash.phash(image)), 16)
        apart.append(bits.bit_count())
    assert max(apart) <= 4
    assert sorted(apart)[len(apart) // 2] <= 2


def test_pixels_outside_of_the_extent_do_not_count():
    image = np.asarray(picture(3, 150, 110))
    padded = np.pad(image, ((0, 70), (0, 90)), constant_values=255)
    assert perceptual_hash(padded, (150, 110)) == perceptual_hash(image)
