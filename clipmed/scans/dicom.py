"""DICOM images: every frame to 8-bit pixels as a viewer shows it, and nothing of the patient with them."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipmed.decoding import strict_decoders
from clipmed.errors import ClipmedError
from clipmed.extras import require
from clipmed.images import decode_jpeg
from clipmed.rejects import RejectReason
from clipmed.scans.config import (
    PartPixels,
    Pixels,
    ScanConfig,
    Source,
    WindowName,
    check_memory,
    check_pixels,
    chosen,
    rejected,
)
from clipmed.scans.dicom_codecs import JPEG_BASELINE, check_size, decoder_of
from clipmed.scans.dicom_facts import facts_of
from clipmed.scans.intensity import check_foreground, limits, to_levels
from clipmed.scans.shape import squared

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PYDICOM = threading.RLock()  # its settings are the process's: one thread at a time
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MAPS = frozenset({"SEG", "RTDOSE"})  # pixels that are drawn over an image, and none themselves
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
# Groups of tags of multi-frame files, and what is taken from each.
_FUNCTIONAL = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
}
_FRAME_TAGS = (
    "BitsStored",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    *(tag for tags in _FUNCTIONAL.values() for tag in tags),
)


def dicom_parts(source: Source, config: ScanConfig) -> list[str]:
    """Return the names of the frames: the empty name where there is one, else such as frame-007."""
    frames = num_frames(source)
    numbers = chosen(frames, config)
    return [""] if frames == 1 else [f"frame-{number:03d}" for number in numbers]


def num_frames(source: Source) -> int:
    """Return how many frames a file has, from its header.

    Raises:
        ItemRejectedError: not a DICOM file, or one without an image.
    """
    with _judged("the header"):
        return _num_frames(_read(source, headers=True))


def read_frame(source: Source, part: str, window: WindowName, config: ScanConfig) -> PartPixels:
    """Return a frame, of a name as `dicom_parts` gives them, as a viewer shows it; see `DicomFile.frame`."""
    return DicomFile(source).frame(int(part.rpartition("-")[2] or 0), window, config)


class DicomFile:
    """A file whose tags are read, once for all that is asked of it.

    Raises:
        ItemRejectedError: not a DICOM file, or one without an image.
    """

    def __init__(self, source: Source) -> None:
        with _judged("the image"):
            self._dataset = _read(source, headers=False) if isinstance(source, bytes) else _kept(source, _state(source))
            self.num_frames = _num_frames(self._dataset)

    def frame(self, number: int, window: WindowName, config: ScanConfig) -> PartPixels:
        """Return a frame, counted from 0, as a viewer shows it.

        Grey images: modality lookup table or rescale, then the window; MONOCHROME1 is inverted, padding is black. With
        `stored`, the first window or lookup table of the file; where it has none, 8-bit values as they are, and deeper
        ones by percentiles of the frame.
        Colour images: RGB, from whatever colours the file has.

        Raises:
            ItemRejectedError: no image, no such frame, pixels that do not decode, a frame of a longer file with too
                little content, or annotations burned in.
        """
        dataset = self._dataset
        with _judged("the image"):
            _check(dataset, config)
            if not 0 <= number < self.num_frames:
                raise rejected(RejectReason.MEDIA_MISSING, f"no frame {number} of {self.num_frames}")
            frame = _frame_tags(dataset, number)
            values = _decoded(dataset, number)
            if str(dataset.PhotometricInterpretation) in _GREY:
                levels = _grey_levels(values, dataset, frame, window, config)
            else:
                levels = _colour_levels(values, dataset)
            facts = facts_of(dataset, frame)
            spacing = _spacing(dataset, frame)
        if self.num_frames > 1:
            check_foreground(levels, config)
        return PartPixels(pixels=squared(np.ascontiguousarray(levels), *spacing, config), facts=facts)


@contextmanager
def _judged(what: str) -> Iterator[None]:
    """Turn whatever pydicom and its decoders raise into a rejection that quotes nothing: values may name a patient."""
    disable_value_validation = require("pydicom.config", "dicom").disable_value_validation
    try:
        with _PYDICOM, strict_decoders(), disable_value_validation(), _no_messages():
            yield
    except ClipmedError:
        raise
    except OSError as error:
        detail = f"cannot read the file: {error.strerror or type(error).__name__}"
        raise rejected(RejectReason.IMAGE_CORRUPT, detail) from None
    except NotImplementedError:
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, f"{what} has a form that is not read") from None
    except Exception as error:  # noqa: BLE001 (pydicom raises whatever malformed values lead it to)
        raise rejected(RejectReason.IMAGE_CORRUPT, f"{what} does not decode: {type(error).__name__}") from None


@contextmanager
def _no_messages() -> Iterator[None]:
    """Keep pydicom's log quiet: its warnings quote values. One thread at a time."""
    log = logging.getLogger("pydicom")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _read(source: Source, headers: bool) -> Dataset:
    """Return the tags of a file, values behind the pixels left on the disk where `headers` are enough."""
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial

    def opened() -> Any:
        return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")

    with opened() as stream:
        start = read_partial(stream, stop_when=lambda tag, vr, length: tag.group != 0x0002, force=True)
        if str(start.file_meta.get("TransferSyntaxUID", "")) == _DEFLATED:
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, "deflated DICOM, which may grow without bound when read")
    with opened() as stream:
        try:
            dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=headers)
        except InvalidDicomError:
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, "not a DICOM file") from None
    if "Rows" not in dataset or "Columns" not in dataset:
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "a DICOM file without an image")
    return dataset


def _state(source: Path) -> tuple[int, int]:
    state = source.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=1)
def _kept(source: Path, state: tuple[int, int]) -> Dataset:
    return _read(source, headers=False)


def _num_frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _check(dataset: Dataset, config: ScanConfig) -> None:
    """Raise ItemRejectedError where a file has no image that may be decoded."""
    from pydicom.uid import ImplicitVRLittleEndian

    if "PixelData" not in dataset or str(dataset.get("Modality")) in _MAPS:
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "a DICOM file without an image of 8 or 16 bits")
    if config.burned_in == "reject" and str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        detail = "says that annotations, perhaps of the patient, are burned into the pixels"
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, detail)
    check_pixels(int(dataset.Columns), int(dataset.Rows), config)
    samples = int(dataset.get("SamplesPerPixel", 1))
    check_memory(int(dataset.Columns) * int(dataset.Rows) * samples, 8, config)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def _decoded(dataset: Dataset, number: int) -> npt.NDArray[Any]:
    """Return a frame's stored values, (H, W) or (H, W, 3): grey ones as stored, YBR colours as RGB."""
    uid = str(dataset.file_meta.TransferSyntaxUID)
    decoder, plugin = decoder_of(uid, int(dataset.BitsStored))
    if uid == JPEG_BASELINE:
        _check_undamaged(dataset, number)
    values, _ = decoder.as_array(dataset, index=number, raw=False, decoding_plugin=plugin)
    return np.asarray(values)


def _check_undamaged(dataset: Dataset, number: int) -> None:
    """Raise ItemRejectedError where libjpeg finds a frame's codes cut short or damaged, which Pillow fills up."""
    from pydicom.encaps import get_frame

    colours = "GRAY" if int(dataset.get("SamplesPerPixel", 1)) == 1 else "RGB"
    codes = get_frame(dataset.PixelData, number, number_of_frames=_num_frames(dataset))
    size = int(dataset.Columns), int(dataset.Rows)
    check_size(codes, *size)
    decode_jpeg(codes, colours, size)


def _frame_tags(dataset: Dataset, number: int) -> Dataset:
    """Return the tags that decide how a frame is shown: the frame's own before the shared before the file's."""
    from pydicom.dataset import Dataset as Tags

    tags = Tags()
    sources = [dataset]
    for keyword, place in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", number)):
        groups = dataset.get(keyword) or ()
        if place < len(groups):
            sources.extend(groups[place][name][0] for name in _FUNCTIONAL if groups[place].get(name))
    for source in sources:
        for keyword in _FRAME_TAGS:
            if source.get(keyword) not in (None, ""):
                tags[keyword] = source[keyword]
    return tags


def _grey_levels(
    stored: npt.NDArray[Any], dataset: Dataset, frame: Dataset, window: WindowName, config: ScanConfig
) -> Pixels:
    from pydicom.pixels.processing import apply_modality_lut

    padding = _padding(stored, dataset)
    values = np.asarray(apply_modality_lut(stored, frame))
    if window == "stored" and ("WindowWidth" in frame or "VOILUTSequence" in frame):
        levels = _voi_levels(values, frame)
    elif window == "stored" and _is_shown_as_stored(frame):
        levels = to_levels(stored, 0.0, float(2 ** int(frame.BitsStored) - 1))
    else:
        kept = values if padding is None else values[~padding]
        kept = values if kept.size == 0 else kept
        levels = to_levels(values, *limits(kept, "percentile" if window == "stored" else window, config))
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1":
        levels = 255 - levels
    return levels if padding is None else np.where(padding, np.uint8(0), levels)


def _is_shown_as_stored(frame: Dataset) -> bool:
    """Whether values are levels already: 8 bits at most, and no other unit."""
    scaled = float(frame.get("RescaleSlope", 1)) != 1 or float(frame.get("RescaleIntercept", 0)) != 0
    return (
        int(frame.BitsStored) <= 8
        and int(frame.PixelRepresentation) == 0
        and not scaled
        and ("ModalityLUTSequence" not in frame)
    )


def _voi_levels(values: npt.NDArray[Any], frame: Dataset) -> Pixels:
    """Return values through the file's first window or lookup table; its lowest output is 0, its highest 255."""
    from pydicom.pixels.processing import apply_voi_lut

    if frame.get("VOILUTSequence"):
        shown = np.asarray(apply_voi_lut(values, frame, index=0), np.float64)
        table = frame.VOILUTSequence[0]
        ends = np.asarray([table.LUTDescriptor[1], table.LUTDescriptor[1] + (table.LUTDescriptor[0] or 65536) - 1])
        first, last = np.asarray(apply_voi_lut(ends.astype(np.int64), frame, index=0), np.float64)
        return to_levels(shown, min(first, last), max(first, last))
    center, width = (_first(frame[keyword].value) for keyword in ("WindowCenter", "WindowWidth"))
    far = abs(width) * 1e6 + 1.0  # where every kind of window has reached its ends
    ends = np.asarray([center - far, center + far])
    with np.errstate(over="ignore"):
        lowest, highest = apply_voi_lut(ends, frame, index=0)
        return to_levels(np.asarray(apply_voi_lut(values, frame, index=0)), float(lowest), float(highest))


def _colour_levels(values: npt.NDArray[Any], dataset: Dataset) -> Pixels:
    from pydicom.pixels.processing import apply_color_lut

    bits = int(dataset.BitsStored)
    if str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        values = np.asarray(apply_color_lut(values, dataset))[..., :3]
        bits = values.dtype.itemsize * 8
    if values.ndim != 3 or values.shape[2] != 3:
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "colours that are neither RGB, YBR nor a palette")
    if bits == 8 and values.dtype == np.uint8:
        return values
    return to_levels(values, 0.0, float(2**bits - 1))


def _padding(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Return where a pixel only fills the image, as its tags say; None where they say nothing."""
    value = dataset.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit in (None, "") else limit)))
    inside = (stored >= low) & (stored <= high)
    return inside if inside.any() else None


def _spacing(dataset: Dataset, frame: Dataset) -> tuple[float, float]:
    """Return the distance of rows and of columns, in mm or as a ratio; 1 to 1 where the file does not say."""
    for tags, keyword in ((frame, "PixelSpacing"), (dataset, "ImagerPixelSpacing"), (dataset, "PixelAspectRatio")):
        value = tags.get(keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2:
            rows, columns = float(value[0]), float(value[1])
            if rows > 0 and columns > 0:
                return rows, columns
    return 1.0, 1.0


def _first(value: Any) -> float:
    return float(value) if not hasattr(value, "__len__") else float(value[0])
