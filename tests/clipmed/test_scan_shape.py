"""Square pixels without OpenCV: its very bytes."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmed.errors import ItemRejectedError
from clipmed.scans.config import ScanConfig
from clipmed.scans.shape import squared, stretched


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    factor=st.floats(1, 8),
    axis=st.integers(0, 1),
    channels=st.sampled_from([(), (3,)]),
    seed=st.integers(0, 99),
)
def test_a_stretched_side_has_the_bytes_of_open_cv(height, width, factor, axis, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    length = round(pixels.shape[axis] * factor)
    size = (width, length) if axis == 0 else (length, height)
    expected = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR_EXACT)
    np.testing.assert_array_equal(stretched(pixels, length, axis), expected)


def test_the_side_with_the_larger_pixels_is_stretched():
    pixels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    config = ScanConfig()
    assert squared(pixels, 2.0, 1.0, config).shape == (12, 10)
    assert squared(pixels, 1.0, 2.0, config).shape == (6, 20)
    assert squared(pixels, 1.0, 1.005, config) is pixels
    assert squared(pixels, 2.0, 1.0, ScanConfig(square_pixels=False)) is pixels
    for rows, columns in ((0.0, 1.0), (1.0, -1.0), (1.0, 60.0), (float("nan"), 1.0)):
        with pytest.raises(ItemRejectedError, match="not credible"):
            squared(pixels, rows, columns, config)
    with pytest.raises(ItemRejectedError, match="pixels; allowed"):
        squared(pixels, 2.0, 1.0, ScanConfig(max_pixels=100))
