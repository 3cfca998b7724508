"""Pixels to square ones, in whole numbers: every processor gives the same bytes, with or without OpenCV."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipmed.rejects import RejectReason
from clipmed.scans.config import Pixels, ScanConfig, check_pixels, rejected

_NEARLY_SQUARE, _ODD_RATIO = 0.01, 50.0
_ONE = 256  # weights are whole numbers of 256ths


def squared(pixels: Pixels, row_mm: float, column_mm: float, config: ScanConfig) -> Pixels:
    """Stretch the side with the larger pixels, so that pixels are square.

    Args:
        pixels: (H, W) or (H, W, 3).
        row_mm: distance of one row to the next; in mm, or any unit that both have.
        column_mm: distance of one column to the next.
        config: whether to do it, and the limit of pixels.

    Raises:
        ItemRejectedError: distances that are no positive numbers, or that are more than 50 to 1.
    """
    if not config.square_pixels:
        return pixels
    ratio = row_mm / column_mm if row_mm > 0 and column_mm > 0 else float("nan")
    if not 1 / _ODD_RATIO <= ratio <= _ODD_RATIO:
        raise rejected(RejectReason.IMAGE_CORRUPT, "the stated size of the pixels is not credible")
    if abs(ratio - 1) < _NEARLY_SQUARE:
        return pixels
    height, width = pixels.shape[:2]
    if ratio > 1:
        check_pixels(width, round(height * ratio), config)
        return stretched(pixels, round(height * ratio), axis=0)
    check_pixels(round(width / ratio), height, config)
    return stretched(pixels, round(width / ratio), axis=1)


def stretched(pixels: Pixels, length: int, axis: int) -> Pixels:
    """Return the pixels with one side lengthened: the bytes of OpenCV's resize with INTER_LINEAR_EXACT.

    Args:
        pixels: (H, W) or (H, W, 3).
        length: the new side.
        axis: 0 lengthens the height, 1 the width.
    """
    first, weights = _places(pixels.shape[axis], length)
    second = np.minimum(first + 1, pixels.shape[axis] - 1)
    weights = weights.reshape([-1 if dimension == axis else 1 for dimension in range(pixels.ndim)])
    low = np.take(pixels, first, axis).astype(np.uint32) * (_ONE - weights)
    sums = low + np.take(pixels, second, axis) * weights
    return np.asarray((sums + _ONE // 2) // _ONE, np.uint8)


def _places(side: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Return between which two pixels of `side` each of `length` lies: the first one's place, the second's weight."""
    centres = (side / length) * (np.arange(length) + 0.5) - 0.5
    first = np.floor(centres).astype(np.int64)
    weights = np.rint((centres - first) * _ONE).astype(np.uint32)
    inside = (first >= 0) & (first < side - 1)
    return np.clip(first, 0, side - 1), np.where(inside, weights, np.uint32(0))
