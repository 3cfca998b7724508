"""Tiles of whole slides: a grid over the finest level, drawn where there is tissue.

Pyramid TIFF files (SVS, NDPI, SCN, OME and plain ones) are read through tifffile, other scanners' files through
OpenSlide where it is installed. Tissue is what is more coloured than glass: its saturation lies above Otsu's threshold
(IEEE Transactions on Systems, Man, and Cybernetics 9, 1979) of a small view of the slide.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmed.rejects import RejectReason
from clipmed.scans.config import PartPixels, Pixels, Source, check_pixels, rejected
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.slide_files import Slide, open_slide

_PART = re.compile(r"x(\d+)-y(\d+)-l(\d+)")
_VIEW_PIXELS = 16_000_000  # a level of at most as many is looked at for tissue
_LEAST_SATURATION, _MOST_SATURATION = 12, 60  # bounds of the threshold, for slides that are all tissue or all glass
_MAX_TILES = 10_000_000


def slide_parts(source: Source, config: ReaderConfig) -> list[str]:
    """Return the names of the tiles to take, such as x1024-y2048-l1: their corner at the finest level, and the level.

    Tiles do not overlap. Where the slide has a small level, only those with enough tissue in it are named; of more than
    `max_tiles`, those whose place has the lowest hash. The order is that of the grid, row by row.

    Raises:
        ItemRejectedError: a file that is not read, or one whose scale is asked for and not stated.
    """
    opened = _opened(source, config)
    slide = opened.slide
    level, side = _scale(slide, config)
    step = round(side * slide.levels[level].scale)
    across, down = slide.levels[0].width // step, slide.levels[0].height // step
    if across * down > _MAX_TILES:
        raise rejected(RejectReason.IMAGE_TOO_LARGE, f"{across}x{down} tiles; allowed: {_MAX_TILES}")
    share = opened.tissue_share(step, across, down)
    places = [
        (column * step, row * step)
        for row in range(down)
        for column in range(across)
        if share is None or share[row, column] >= config.min_tissue
    ]
    if config.max_tiles is not None and len(places) > config.max_tiles:
        drawn = set(sorted(places, key=_place_hash)[: config.max_tiles])
        places = [place for place in places if place in drawn]
    return [f"x{x}-y{y}-l{level}" for x, y in places]


def read_tile(source: Source, part: str, config: ReaderConfig) -> PartPixels:
    """Return a tile as RGB, (tile_size, tile_size, 3).

    Raises:
        ItemRejectedError: no such tile, too little tissue, or pixels that do not decode.
    """
    import cv2

    opened = _opened(source, config)
    slide = opened.slide
    level, side = _scale(slide, config)
    match = _PART.fullmatch(part)
    if match is None or int(match[3]) != level:
        raise rejected(RejectReason.MEDIA_MISSING, f"no tile {part!r} at this scale; the level is {level}")
    scale = slide.levels[level].scale
    x, y = round(int(match[1]) / scale), round(int(match[2]) / scale)
    if x + side > slide.levels[level].width + 1 or y + side > slide.levels[level].height + 1:
        raise rejected(RejectReason.MEDIA_MISSING, f"the tile {part!r} lies outside the slide")
    pixels = slide.region(level, x, y, side, side)
    if side != config.tile_size:
        size = (config.tile_size, config.tile_size)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)
    share = float((_saturation(pixels) > opened.threshold).mean())
    if share < config.min_tissue:
        detail = f"{share:.4f} of the tile is tissue; allowed: {config.min_tissue:g} or more"
        raise rejected(RejectReason.IMAGE_BLANK, detail)
    return PartPixels(pixels=pixels)


class _OpenedSlide:
    """A slide with what is known of its tissue."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide

    @cached_property
    def view(self) -> tuple[Pixels, float] | None:
        """The largest level that is small enough to look at, and its scale; None where there is none."""
        levels = self.slide.levels
        small = [place for place, level in enumerate(levels) if level.width * level.height <= _VIEW_PIXELS]
        if not small:
            return None
        place = min(small, key=lambda place: levels[place].scale)
        return self.slide.region(place, 0, 0, levels[place].width, levels[place].height), levels[place].scale

    @cached_property
    def threshold(self) -> float:
        """The saturation above which a pixel is tissue."""
        import cv2

        if self.view is None:
            return float(_LEAST_SATURATION)
        otsu, _ = cv2.threshold(_saturation(self.view[0]), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        return float(min(max(otsu, _LEAST_SATURATION), _MOST_SATURATION))

    def tissue_share(self, step: int, across: int, down: int) -> npt.NDArray[np.float64] | None:
        """Return the share of tissue of every tile of the grid, (down, across), from the view; None without one."""
        import cv2

        if self.view is None or not across or not down:
            return None
        view, scale = self.view
        tissue = (_saturation(view) > self.threshold).astype(np.float64)
        width, height = round(across * step / scale), round(down * step / scale)
        covered = tissue[: max(1, height), : max(1, width)]
        return np.asarray(cv2.resize(covered, (across, down), interpolation=cv2.INTER_AREA), np.float64)


def _opened(source: Source, config: ReaderConfig) -> _OpenedSlide:
    """Return the slide; a process keeps the last one open."""
    if isinstance(source, bytes):
        return _OpenedSlide(open_slide(source, config))
    state = source.stat()
    return _kept(source, (state.st_size, state.st_mtime_ns, os.getpid()), config)


@lru_cache(maxsize=1)
def _kept(source: Path, state: tuple[int, ...], config: ReaderConfig) -> _OpenedSlide:
    return _OpenedSlide(open_slide(source, config))


def _scale(slide: Slide, config: ReaderConfig) -> tuple[int, int]:
    """Return the level to read from, the coarsest that is fine enough, and the side of a tile in its pixels."""
    if config.microns_per_pixel is None:
        return 0, config.tile_size
    if slide.microns is None:
        detail = "the slide does not state its scale, and microns_per_pixel is given"
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, detail)
    target = config.microns_per_pixel / slide.microns  # finest pixels for one of the tile's
    fine = [place for place, level in enumerate(slide.levels) if level.scale <= target * 1.01]
    level = max(fine, key=lambda place: slide.levels[place].scale, default=0)
    side = max(1, round(config.tile_size * target / slide.levels[level].scale))
    check_pixels(side, side, config)
    return level, side


def _place_hash(place: tuple[int, int]) -> bytes:
    return hashlib.sha256(f"{place[0]},{place[1]}".encode()).digest()


def _saturation(pixels: Pixels) -> Pixels:
    """Return how far the strongest colour of a pixel lies above the weakest, (H, W): low for glass and for ink."""
    return np.asarray(pixels.max(axis=2) - pixels.min(axis=2))
