"""Pixels to their shape: square pixels, and square images by bars or by the middle."""

from __future__ import annotations

import numpy as np

from clipmed.rejects import RejectReason
from dataset_builders.readers.config import Pixels, ReaderConfig, check_pixels, rejected

_NEARLY_SQUARE, _ODD_RATIO = 0.01, 50.0


def squared(pixels: Pixels, row_mm: float, column_mm: float, config: ReaderConfig) -> Pixels:
    """Stretch the side with the larger pixels, so that pixels are square.

    Args:
        pixels: (H, W) or (H, W, 3).
        row_mm: distance of one row to the next; in mm, or any unit that both have.
        column_mm: distance of one column to the next.
        config: whether to do it, and the limit of pixels.

    Raises:
        ItemRejectedError: distances that are no positive numbers, or that are more than 50 to 1.
    """
    import cv2

    if not config.square_pixels:
        return pixels
    ratio = row_mm / column_mm if row_mm > 0 and column_mm > 0 else float("nan")
    if not 1 / _ODD_RATIO <= ratio <= _ODD_RATIO:
        raise rejected(RejectReason.IMAGE_CORRUPT, "the stated size of the pixels is not credible")
    if abs(ratio - 1) < _NEARLY_SQUARE:
        return pixels
    height, width = pixels.shape[:2]
    height, width = (round(height * ratio), width) if ratio > 1 else (height, round(width / ratio))
    check_pixels(width, height, config)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def fitted(pixels: Pixels, config: ReaderConfig) -> Pixels:
    """Return the pixels, (H, W) or (H, W, 3), as the config's `fit` says: square, or as they are."""
    height, width = pixels.shape[:2]
    if config.fit == "none" or height == width:
        return pixels
    if config.fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.ascontiguousarray(pixels[top : top + side, left : left + side])
    side = max(height, width)
    check_pixels(side, side, config)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, *pixels.shape[2:]), np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square
