"""Drawing primitives: soft masks on a unit square (x to the right, y down, -1 to 1) and paint through them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.float32]  # (S, S), 0 … 1
Picture = npt.NDArray[np.float32]  # (S, S, 3), RGB, 0 … 1
Point = tuple[float, float]
Colour = tuple[float, float, float]

SUBPIXEL_BITS = 4


def grey(level: float) -> Colour:
    """Return a grey as a colour."""
    return (level, level, level)


@functools.cache
def _grid(size: int) -> tuple[Mask, Mask]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


class Brush:
    """One seeded hand at one image size: every random choice of an image comes from `rng`."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.x, self.y = _grid(size)

    def between(self, low: float, high: float) -> float:
        """Return a number between the two."""
        return float(low + (high - low) * self.rng.random())

    def sign(self) -> float:
        """Return -1 or 1."""
        return 1.0 if self.rng.random() < 0.5 else -1.0

    def canvas(self, colour: Colour) -> Picture:
        """Return a picture of one colour."""
        return np.full((self.size, self.size, 3), colour, dtype=np.float32)

    def ellipse(self, centre: Point, radii: Point, angle: float = 0.0, soft: float = 0.05) -> Mask:
        """Return a filled ellipse, rotated by `angle` radians, whose edge fades over `soft` units."""
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = self.x - centre[0], self.y - centre[1]
        radius = np.hypot((dx * cos + dy * sin) / radii[0], (dy * cos - dx * sin) / radii[1])
        return np.clip((1.0 - radius) * (min(radii) / soft) + 0.5, 0.0, 1.0).astype(np.float32)

    def blob(self, centre: Point, radius: float, ragged: float, soft: float = 0.05) -> Mask:
        """Return a filled closed shape whose radius wavers by about the fraction `ragged`."""
        dx, dy = self.x - centre[0], self.y - centre[1]
        theta = np.arctan2(dy, dx)
        edge = np.full_like(theta, radius)
        for order in (2, 3, 5, 8):
            edge += radius * ragged * self.between(0.3, 1.0) * np.cos(order * theta + self.between(0, 6.3)) / order**0.5
        filled: Mask = np.clip((edge - np.hypot(dx, dy)) / soft + 0.5, 0.0, 1.0).astype(np.float32)
        return filled

    def strokes(self, lines: Sequence[Sequence[Point]], width: float) -> Mask:
        """Return antialiased polylines `width` units wide."""
        layer = np.zeros((self.size, self.size), dtype=np.uint8)
        thickness = max(1, round(width * self.size / 2))
        points = [self._pixels(line) for line in lines]
        cv2.polylines(layer, points, False, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        return layer.astype(np.float32) * np.float32(1 / 255)

    def dots(self, centres: npt.NDArray[np.float32], radii: npt.NDArray[np.float32]) -> Mask:
        """Return filled discs; `centres` has the shape (N, 2), `radii` (N,). Drawn twice as large, then averaged."""
        side = 2 * self.size
        layer = np.zeros((side, side), dtype=np.uint8)
        scale = side / 2 * (1 << SUBPIXEL_BITS)
        places = np.rint((centres + 1.0) * scale - (1 << SUBPIXEL_BITS) / 2).astype(int).tolist()
        for (x, y), radius in zip(places, np.rint(radii * scale).astype(int).tolist(), strict=True):
            cv2.circle(layer, (x, y), radius, 255, -1, cv2.LINE_AA, SUBPIXEL_BITS)
        small = cv2.resize(layer, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) * np.float32(1 / 255)

    def texture(self, cells: int) -> Mask:
        """Return smooth noise of standard deviation near 0.5, with about `cells` bumps along a side."""
        coarse = self.rng.standard_normal((cells + 3, cells + 3), dtype=np.float32) * np.float32(0.7)
        return np.asarray(cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)

    def grain(self) -> Mask:
        """Return white noise of standard deviation 1."""
        return self.rng.standard_normal((self.size, self.size), dtype=np.float32)

    def spot(self, where: Mask) -> Point:
        """Return a random point of the region where the mask is above one half."""
        places = np.flatnonzero(where > 0.5)
        place = int(places[int(self.rng.integers(len(places)))])
        return float(self.x.flat[place]), float(self.y.flat[place])

    def spots(self, where: Mask, number: int) -> npt.NDArray[np.float32]:
        """Return random points of the region where the mask is above one half, shape (number, 2)."""
        places = np.flatnonzero(where > 0.5)
        chosen = places[self.rng.integers(len(places), size=number)]
        return np.stack([self.x.flat[chosen], self.y.flat[chosen]], axis=1)

    def radii(self, low: float, high: float, number: int) -> npt.NDArray[np.float32]:
        """Return `number` lengths between the two."""
        return (low + (high - low) * self.rng.random(number)).astype(np.float32)

    def _pixels(self, points: Sequence[Point]) -> npt.NDArray[np.int32]:
        pixels = (np.asarray(points, dtype=np.float64) + 1.0) * (self.size / 2) - 0.5
        return np.rint(pixels * (1 << SUBPIXEL_BITS)).astype(np.int32)


def paint(picture: Picture, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
    """Blend the colour into the picture where the mask is, in place."""
    weight = (mask * np.float32(opacity))[..., None]
    picture += weight * (np.asarray(colour, dtype=np.float32) - picture)


def lighten(picture: Picture, mask: Mask, amount: float) -> None:
    """Add the mask, times `amount`, to all channels of the picture, in place."""
    picture += (mask * np.float32(amount))[..., None]


def arc(centre: Point, radii: Point, start: float, end: float, points: int = 16) -> list[Point]:
    """Return points along an ellipse from the angle `start` to `end`, in radians, clockwise on the screen."""
    angles = np.linspace(start, end, points)
    return [
        (centre[0] + radii[0] * math.cos(angle), centre[1] + radii[1] * math.sin(angle)) for angle in angles.tolist()
    ]
