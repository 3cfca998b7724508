"""The files of whole slides: levels, scale and regions, through tifffile or OpenSlide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipmed.rejects import RejectReason
from clipmed.scans.config import Pixels, Source, check_memory, check_pixels, rejected
from dataset_builders.readers.bytesources import TIFF_MAGIC, first_bytes, open_tiff
from dataset_builders.readers.config import ReaderConfig

_MICRONS = {2: 25400.0, 3: 10000.0}  # TIFF's ResolutionUnit: an inch, a centimetre
_CREDIBLE_MICRONS = (0.01, 100.0)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a slide: its size in pixels, and how many pixels of the finest level one of its own is wide."""

    width: int
    height: int
    scale: float


class Slide(Protocol):
    """A slide's levels, the finest first, the micrometres of a finest pixel, and its pixels."""

    levels: list[Level]
    microns: float | None

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Return pixels of a level as RGB, (height, width, 3), white outside; x and y are the level's own."""


def is_slide(source: Source) -> bool:
    """Whether a TIFF file has several levels of one image."""
    try:
        with open_tiff(source) as file:
            return bool(file.is_svs or file.is_ndpi or file.is_scn or len(file.series[0].levels) > 1)
    except Exception:  # noqa: BLE001 (tifffile raises whatever malformed tags lead it to; decoding rejects the file)
        return False


def open_slide(source: Source, config: ReaderConfig) -> Slide:
    """Return the slide in a file.

    Raises:
        ItemRejectedError: a file that is not read, or one that needs OpenSlide where it is not installed.
    """
    if first_bytes(source, 4).startswith(TIFF_MAGIC):
        return TiffSlide(source, config)
    if isinstance(source, bytes):
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "a slide that is no TIFF file is read from a path alone")
    return ForeignSlide(source, config)


class TiffSlide:
    """A slide in a TIFF file, of which only the chunks that a region touches are decoded."""

    def __init__(self, source: Source, config: ReaderConfig) -> None:
        try:
            self._file: Any = open_tiff(source)
            self._pages: list[Any] = [level.keyframe.aspage() for level in self._file.series[0].levels]
            sizes = [(int(page.imagewidth), int(page.imagelength)) for page in self._pages]
            chunks = [tuple(page.chunks) for page in self._pages]
            self._tables = [(page.jpegtables, page.jpegheader) for page in self._pages]
            self._places = [(page.dataoffsets, page.databytecounts) for page in self._pages]
            self.microns = _tiff_microns(self._pages[0])
            self._reopens = isinstance(source, Path)
            self._shut()
        except Exception as error:  # noqa: BLE001 (tifffile raises whatever malformed tags lead it to)
            raise rejected(RejectReason.IMAGE_CORRUPT, f"a slide that is not read: {type(error).__name__}") from None
        self.levels = [Level(width, height, sizes[0][0] / max(1, width)) for width, height in sizes]
        for page, chunk in zip(self._pages, chunks, strict=True):
            if page.dtype != np.uint8 or len(chunk) != 3 or chunk[2] not in (3, 4) or min(chunk) < 1:
                raise rejected(RejectReason.IMAGE_UNSUPPORTED, "a slide that is not 8-bit RGB")
            check_memory(int(np.prod(chunk, dtype=object)), 1, config)
        self._config = config

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Return pixels of a level as RGB, (height, width, 3), white outside; x and y are the level's own."""
        check_pixels(width, height, self._config)
        self._file.filehandle.open()
        try:
            return self._region(level, x, y, width, height)
        finally:
            self._shut()

    def _shut(self) -> None:
        """Close the file until the next region, so that processes made meanwhile do not share its place."""
        if self._reopens:
            self._file.filehandle.close()

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        page = self._pages[level]
        rows, columns = page.chunks[:2]
        found = np.full((height, width, 3), 255, np.uint8)
        bottom, right = min(y + height, page.imagelength), min(x + width, page.imagewidth)
        for top in range(y - y % rows, bottom, rows):
            for left in range(x - x % columns, right, columns):
                chunk = self._chunk(level, top // rows * page.chunked[1] + left // columns)
                if chunk is None:
                    continue
                inner = chunk[max(0, y - top) : bottom - top, max(0, x - left) : right - left, :3]
                place_y, place_x = max(top, y) - y, max(left, x) - x
                found[place_y : place_y + inner.shape[0], place_x : place_x + inner.shape[1]] = inner
        return found

    def _chunk(self, level: int, index: int) -> Pixels | None:
        """Return a tile or strip of a level, (rows, columns, 3 or 4); None where the scanner left it out."""
        offsets, sizes = self._places[level]
        tables, header = self._tables[level]
        try:
            if not sizes[index]:
                return None
            self._file.filehandle.seek(offsets[index])
            data = self._file.filehandle.read(sizes[index])
            segment = self._pages[level].decode(data, index, jpegtables=tables, jpegheader=header)[0]
        except Exception as error:  # noqa: BLE001 (codecs raise whatever malformed codes lead them to)
            raise rejected(RejectReason.IMAGE_CORRUPT, f"a tile that does not decode: {type(error).__name__}") from None
        return None if segment is None else np.asarray(segment[0], np.uint8)


class ForeignSlide:
    """A slide that OpenSlide reads."""

    def __init__(self, path: Path, config: ReaderConfig) -> None:
        try:
            import openslide
        except ImportError:
            detail = "a slide that is no TIFF file; openslide-python and openslide-bin read it"
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, detail) from None
        try:
            self._slide = openslide.OpenSlide(path)
            sizes = zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
            self.levels = [Level(width, height, scale) for (width, height), scale in sizes]
            self.microns = _credible(self._slide.properties.get("openslide.mpp-x"))
        except openslide.OpenSlideError:
            raise rejected(RejectReason.IMAGE_CORRUPT, "a slide that OpenSlide does not read") from None
        self._config = config

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Return pixels of a level as RGB, (height, width, 3), white outside; x and y are the level's own."""
        import openslide

        check_pixels(width, height, self._config)
        scale = self.levels[level].scale
        try:
            image = self._slide.read_region((round(x * scale), round(y * scale)), level, (width, height))
        except openslide.OpenSlideError:
            raise rejected(RejectReason.IMAGE_CORRUPT, "a tile that OpenSlide does not decode") from None
        layered = np.asarray(image, np.float64)
        share = layered[..., 3:] / 255.0
        return np.rint(layered[..., :3] * share + 255.0 * (1.0 - share)).astype(np.uint8)


def _tiff_microns(page: Any) -> float | None:
    """Return the micrometres of a pixel, from Aperio's description or TIFF's own tags; None where not stated."""
    import tifffile

    if page.is_svs:
        return _credible(tifffile.tifffile.svs_description_metadata(page.description).get("MPP"))
    unit = page.tags.valueof("ResolutionUnit")
    resolution = page.tags.valueof("XResolution")
    if unit is None or int(unit) not in _MICRONS or not resolution or not resolution[0]:
        return None
    return _credible(_MICRONS[int(unit)] * resolution[1] / resolution[0])


def _credible(value: Any) -> float | None:
    """Return a number of micrometres; None for what is none, or none of a microscope (72 dots per inch is 353)."""
    try:
        microns = float(value)
    except (TypeError, ValueError):
        return None
    return microns if _CREDIBLE_MICRONS[0] <= microns <= _CREDIBLE_MICRONS[1] else None
