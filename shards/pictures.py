"""What tells two pictures apart: small grey views of an image, their hashes, and the correlation of their detail.

A perceptual hash alone is no proof: radiographs of different patients lie within a few bits of each other. So pairs of
close hashes are compared by their pixels, in tiles: of a copy every textured tile agrees, of a look-alike only those
at the outline do. An even border is cut off for a second view, so that a framed copy is found. Tiles that have no
texture in two dimensions tell nothing, and images without enough others are never said to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmed.images import decode_rgb
from clipmed.perceptual import perceptual_hash

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 256  # long side of the grey image that views and hashes are made of, in pixels
VIEW_SIDE = 64  # side of a view
MIN_LIKENESS = 0.95  # least correlation of whole views; that of the detail is a setting
_DETAIL_SIGMA = 3.0  # detail is what a Gaussian of this many view pixels leaves over
_TILES = 4  # tiles along a side of a view
_MIN_TILES = 4  # least textured tiles to compare
_TEXTURE = 2.0  # least standard deviation of a textured tile's detail, in grey levels
_EVEN, _EVEN_SHARE, _MOST_BORDER = 12, 0.95, 0.25  # a border's row: so many of its pixels within so many grey levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The whole picture and, where it has an even border, what lies inside it.

    `hashes` are 64-bit perceptual hashes and `pixels` grey (64, 64) arrays, uint8; one or two of each.
    """

    hashes: tuple[int, ...]
    pixels: tuple[Grey, ...] = field(repr=False)


def grey_image(jpeg: bytes) -> Grey:
    """Decode a stored JPEG to grey of shape (H, W), uint8, its long side at most `SIDE`.

    Raises:
        ItemRejectedError: the bytes do not decode.
    """
    import cv2

    grey = np.asarray(cv2.cvtColor(decode_rgb(jpeg, min_side=SIDE), cv2.COLOR_RGB2GRAY), np.uint8)
    scale = SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def views_of(grey: Grey) -> Views:
    """Return the views of a grey image of shape (H, W), uint8."""
    import cv2

    inner = _inside(grey)
    shown = (grey,) if inner.shape == grey.shape else (grey, inner)
    small = (cv2.resize(part, (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_AREA) for part in shown)
    return Views(
        hashes=tuple(int(perceptual_hash(part), 16) for part in shown),
        pixels=tuple(np.asarray(part, np.uint8) for part in small),
    )


def encode_grey(grey: Grey) -> bytes:
    """Return a grey image as a JPEG."""
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(grey)[..., None], 90, "GRAY", "Gray"))


def correlation(first: Views, second: Views) -> float:
    """Return how well the detail of two pictures agrees, from -1 to 1: the best over their views.

    It is the lower quartile, over the textured tiles, of the correlation of their detail; -1 where whole views differ
    or too few tiles have texture.
    """
    pairs = [(one, other) for one in first.pixels for other in second.pixels]
    return max(_view_correlation(one.astype(np.float32), other.astype(np.float32)) for one, other in pairs)


def _inside(grey: Grey) -> Grey:
    top, bottom, left, right = (_border(side) for side in (grey, grey[::-1], grey.T, grey.T[::-1]))
    height, width = grey.shape
    return np.ascontiguousarray(grey[top : height - bottom, left : width - right])


def _border(rows: Grey) -> int:
    """Return how many rows from the first one on are even; one more where there are any: the seam."""
    limit = int(len(rows) * _MOST_BORDER)
    if not limit:
        return 0
    off = np.abs(rows[:limit].astype(np.int16) - np.int16(np.median(rows[0])))
    even = (off <= _EVEN).mean(axis=1) >= _EVEN_SHARE
    count = int(np.argmin(even))
    return count + 1 if count else 0


def _view_correlation(one: Floats, other: Floats) -> float:
    import cv2

    if _correlation(one.reshape(1, -1), other.reshape(1, -1))[0] < MIN_LIKENESS:
        return -1.0
    first, second = (_tiles(view - cv2.GaussianBlur(view, (0, 0), _DETAIL_SIGMA)) for view in (one, other))
    textured = np.maximum(_texture(first), _texture(second)) > _TEXTURE
    if textured.sum() < _MIN_TILES:
        return -1.0
    shape = (int(textured.sum()), -1)
    tiles = _correlation(first[textured].reshape(shape), second[textured].reshape(shape))
    return float(np.quantile(tiles, 0.25))


def _tiles(view: Floats) -> Floats:
    """Cut a view into (tiles, side, side)."""
    side = VIEW_SIDE // _TILES
    return view.reshape(_TILES, side, _TILES, side).swapaxes(1, 2).reshape(-1, side, side)


def _texture(tiles: Floats) -> Floats:
    """Return the standard deviation of each tile without what its rows and its columns have in common."""
    rest = tiles - tiles.mean(axis=1, keepdims=True) - tiles.mean(axis=2, keepdims=True)
    return np.asarray(rest.std(axis=(1, 2)), np.float32)


def _correlation(first: Floats, second: Floats) -> Floats:
    """Return the correlation of the rows of two arrays of shape (N, P)."""
    first, second = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    norms = np.sqrt((first * first).sum(axis=1) * (second * second).sum(axis=1))
    return np.asarray((first * second).sum(axis=1) / np.maximum(norms, 1e-3), np.float32)
