"""Images to squares: by bars, or by their middle."""

from __future__ import annotations

import numpy as np

from clipmed.scans.config import Pixels, check_pixels
from dataset_builders.readers.config import ReaderConfig


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
