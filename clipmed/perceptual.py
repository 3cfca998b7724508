"""The perceptual hash of an image: near pictures have near hashes."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Doubles = npt.NDArray[np.float64]

_SIDE, _BITS = 32, 8  # the DCT is of 32 by 32 pixels; of it the lowest 8 by 8 coefficients count
_GAP = 4  # pixels are first averaged down to about so many times that
_ROWS = 192  # at least so many are looked at
_LOBES = 3  # of the Lanczos window
_PIECE = 32  # rows of one product: so few that no threads are woken for it, which take more time than it does
_UNIT = 1 << 22  # weights of the resampling are whole multiples of 1 / _UNIT, as Pillow's are
_COSINE_UNIT = 1 << 14
_ROW = np.arange(_SIDE)[:, None]


def perceptual_hash(pixels: npt.NDArray[np.uint8], extent: tuple[float, float] | None = None) -> str:
    """Return the 64-bit DCT hash of RGB (H, W, 3) or grey (H, W) pixels as 16 hex digits.

    With `extent`, the image covers that width and height of the pixels, and no more.

    It is `imagehash.phash` of an image that is first averaged down to about four times its 32 by 32 pixels, from some
    200 of its rows or more: fast, and nearly always within 2 bits of the hash of the whole image. Every processor gives
    the same bits: all sums are of whole numbers that a double holds.
    """
    import cv2

    step = 1 if extent else max(1, min(pixels.shape[:2]) // _ROWS)
    pixels = pixels[step // 2 :: step]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    width, height = extent or (grey.shape[1], grey.shape[0])
    across, down = (max(1, int(side / (_SIDE * _GAP))) for side in (width, height))
    if across * down > 1:
        grey = np.asarray(Image.fromarray(grey).reduce((across, down)))
    columns = _weights(grey.shape[1], width / across).T
    pieces = [grey[row : row + _PIECE].astype(np.float64) @ columns for row in range(0, len(grey), _PIECE)]
    small = _rounded(_weights(grey.shape[0], height / down) @ _rounded(np.concatenate(pieces)))
    low = (_cosines() @ small @ _cosines().T).ravel()
    ordered = np.sort(low)
    return np.packbits(2 * low > ordered[low.size // 2 - 1] + ordered[low.size // 2]).tobytes().hex()


def _rounded(sums: Doubles) -> Doubles:
    """Weighted sums as the grey levels that an image of bytes would hold."""
    return np.clip(np.floor(sums / _UNIT + 0.5), 0, 255)


@lru_cache(maxsize=1024)
def _weights(count: int, extent: float) -> Doubles:
    """The weights (32, count) by which pixels, of which `extent` count, are resampled to 32: Pillow's Lanczos."""
    scale = extent / _SIDE
    stretch = max(scale, 1.0)
    centre = (_ROW + 0.5) * scale
    first = np.maximum((centre - _LOBES * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + _LOBES * stretch + 0.5).astype(np.int64), math.ceil(extent))
    pixel = first + np.arange(int(2 * _LOBES * stretch) + 2)
    phase = np.pi / stretch * (pixel + 0.5 - centre)
    phase[phase == 0] = 1e-9
    window = np.sin(phase) * np.sin(phase / _LOBES) / (phase * phase)
    window[(pixel >= last) | (np.abs(phase) >= _LOBES * np.pi)] = 0
    weights = np.zeros((_SIDE, max(count, int(pixel.max()) + 1)))
    weights[_ROW, pixel] = np.rint(window * (_UNIT / window.sum(1, keepdims=True)))
    return weights[:, :count]


@lru_cache(maxsize=1)
def _cosines() -> Doubles:
    """The lowest rows of the DCT-II of 32 values, in steps of 2**-14: whole numbers, of shape (8, 32)."""
    steps = np.outer(np.arange(_BITS), 2 * np.arange(_SIDE) + 1)
    cosines: Doubles = np.rint(np.cos(steps * (np.pi / (2 * _SIDE))) * _COSINE_UNIT)
    return cosines
