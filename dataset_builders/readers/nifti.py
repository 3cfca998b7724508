"""Slices of NIfTI volumes, turned as radiologists look at them: NIfTI-1 and -2, single files, gzipped or not."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from clipmed.rejects import RejectReason
from clipmed.scans.config import PartPixels, Source, WindowName, check_memory, check_pixels, chosen, rejected
from clipmed.scans.intensity import check_foreground, limits, to_levels
from clipmed.scans.shape import squared
from dataset_builders.readers.bytesources import first_bytes
from dataset_builders.readers.config import ReaderConfig

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # of a volume whose axes go to the right, to the front and up
_MAX_OFFSET = 16_000_000  # bytes before the values: header and extensions


@dataclass(frozen=True, slots=True)
class Volume:
    """The values of a NIfTI file, as stored, and how they lie.

    With an anatomical axis, (X, Y, Z) run to the patient's left, to the back and down; otherwise as stored. `window`
    is the one that the header states, `ends` those that were found so far.
    """

    values: npt.NDArray[Any]
    slope: float
    intercept: float
    window: tuple[float, float] | None
    spacing: tuple[float, float, float]
    oriented: bool
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)


def is_nifti(start: bytes) -> bool:
    """Whether a file that starts with these bytes, 352 of them or more, is a single-file NIfTI, gzipped or not."""
    if start[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, 352)
        except zlib.error:
            return False
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def nifti_parts(source: Source, config: ReaderConfig) -> list[str]:
    """Return the names of a volume's slices, such as axial-012, counted from the left, the back, or below."""
    with _opened(source) as stream:
        header = _header(stream)
    shape, _ = _shape(header, config)
    count = shape[_stored_axis(header, config)]
    return [f"{_axis_name(config)}-{number:03d}" for number in chosen(count, config)]


def read_slice(source: Source, part: str, window: WindowName, config: ReaderConfig) -> PartPixels:
    """Return a slice, the patient's right (or front) at the left and the front (or the head) at the top.

    The window is that of the whole volume. `stored` is the one that the header states.

    Raises:
        ItemRejectedError: no such slice, too little content in it, or a volume that cannot be read.
    """
    volume = _kept(source, _state(source), config) if isinstance(source, Path) else _load(source, config)
    number = int(part.rsplit("-", 1)[1])
    named = isinstance(config.axis, str)
    axis = AXES[config.axis] if isinstance(config.axis, str) else config.axis
    count = volume.values.shape[axis]
    if not 0 <= number < count:
        raise rejected(RejectReason.MEDIA_MISSING, f"no slice {number} of {count}")
    # Names count along axes that run to the right, to the front and up; the volume's run the other way.
    plane = np.moveaxis(volume.values, axis, 0)[count - 1 - number if named else number]
    columns_mm, rows_mm = [mm for place, mm in enumerate(volume.spacing) if place != axis]
    levels = np.ascontiguousarray(_levels(plane, volume, window, config).swapaxes(0, 1))
    check_foreground(levels, config)
    facts = {"view": str(config.axis)} if named and volume.oriented else {}
    return PartPixels(pixels=squared(levels, rows_mm, columns_mm, config), facts=facts)


def _levels(plane: npt.NDArray[Any], volume: Volume, window: WindowName, config: ReaderConfig) -> npt.NDArray[np.uint8]:
    if plane.dtype.names:
        return np.stack([plane[name] for name in "RGB"], axis=-1)
    if window not in volume.ends:
        volume.ends[window] = _ends(volume, window, config)
    return to_levels(plane * np.float64(volume.slope) + volume.intercept, *volume.ends[window])


def _ends(volume: Volume, window: WindowName, config: ReaderConfig) -> tuple[float, float]:
    """Return the scaled values that become black and white, the same for all slices."""
    if window == "stored" and volume.window is not None:
        return volume.window
    found = limits(volume.values, "percentile" if window == "stored" else window, config)
    if window not in ("stored", "range", "percentile"):
        return found
    low, high = sorted(volume.slope * end + volume.intercept for end in found)  # `found` are stored values
    return low, high


def _opened(source: Source) -> BinaryIO:
    """Return the file's bytes, decompressed."""
    packed = first_bytes(source, 2) == b"\x1f\x8b"
    if isinstance(source, Path):
        return cast("BinaryIO", gzip.open(source)) if packed else source.open("rb")
    return cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(source))) if packed else io.BytesIO(source)


def _header(stream: BinaryIO) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    try:
        block = stream.read(540)
        make: Any = Nifti2Header if block[4:8] == b"n+2\0" else Nifti1Header
        return make(block[: make.sizeof_hdr])
    except Exception as error:
        raise rejected(
            RejectReason.IMAGE_CORRUPT, f"a NIfTI header that is not read: {type(error).__name__}"
        ) from error


def _shape(header: Any, config: ReaderConfig) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape, (X, Y, Z) or more, and the type of the values, after the limits."""
    try:
        shape = tuple(int(side) for side in header.get_data_shape())
        dtype = header.get_data_dtype()
    except Exception as error:
        raise rejected(
            RejectReason.IMAGE_CORRUPT, f"a NIfTI header that is not read: {type(error).__name__}"
        ) from error
    shape = shape if len(shape) >= 3 else (*shape, *(1,) * (3 - len(shape)))
    if min(shape) < 1:
        raise rejected(RejectReason.IMAGE_CORRUPT, f"a volume of shape {shape}")
    if dtype.kind not in "iuf" and dtype.names not in (("R", "G", "B"), ("R", "G", "B", "A")):
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "NIfTI values that are neither numbers nor RGB")
    check_memory(int(np.prod(shape, dtype=object)), dtype.itemsize, config)
    return shape, dtype


def _orientation(header: Any) -> npt.NDArray[Any]:
    """Return nibabel's orientation of the stored axes, shape (3, 2): the anatomical axis of each, and its sense."""
    from nibabel import orientations

    turn: Any = orientations.io_orientation
    try:
        turns = turn(header.get_best_affine())
    except Exception as error:
        raise rejected(RejectReason.IMAGE_CORRUPT, "a NIfTI affine that is not read") from error
    if np.isnan(turns).any():
        raise rejected(RejectReason.IMAGE_CORRUPT, "a NIfTI affine that leaves out an axis")
    return np.asarray(turns)


def _stored_axis(header: Any, config: ReaderConfig) -> int:
    if not isinstance(config.axis, str):
        return config.axis
    return int(np.flatnonzero(_orientation(header)[:, 0] == AXES[config.axis])[0])


def _axis_name(config: ReaderConfig) -> str:
    return config.axis if isinstance(config.axis, str) else f"axis{config.axis}"


def _state(source: Path) -> tuple[int, int]:
    state = source.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=1)
def _kept(source: Path, state: tuple[int, int], config: ReaderConfig) -> Volume:
    return _load(source, config)


def _load(source: Source, config: ReaderConfig) -> Volume:
    """Return the volume of a file: all its values, of one channel, turned as the config's axis asks."""
    from nibabel import orientations

    reorient: Any = orientations.apply_orientation
    with _opened(source) as stream:
        header = _header(stream)
        shape, dtype = _shape(header, config)
        values = _values(stream, shape, dtype, header, config)
    spacing = tuple(float(mm) for mm in (*header.get_zooms(), 1.0, 1.0, 1.0)[:3])
    if isinstance(config.axis, str):
        turns = _orientation(header)
        values = np.flip(reorient(values, turns), (0, 1, 2))
        spacing = tuple(spacing[int(np.flatnonzero(turns[:, 0] == place)[0])] for place in range(3))
    check_pixels(max(values.shape), sorted(values.shape)[1], config)
    slope, intercept = header.get_slope_inter() if dtype.names is None else (None, None)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    return Volume(
        values=values,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        window=(low, high) if np.isfinite([low, high]).all() and high > low else None,
        spacing=(spacing[0], spacing[1], spacing[2]),
        oriented=int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0,
    )


def _values(
    stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], header: Any, config: ReaderConfig
) -> npt.NDArray[Any]:
    """Return the values of the config's channel, (X, Y, Z), as stored."""
    offset = int(header["vox_offset"])
    channels = int(np.prod(shape[3:], dtype=object))
    if not 0 <= offset <= _MAX_OFFSET:
        raise rejected(RejectReason.IMAGE_CORRUPT, "values that start too far behind the header")
    if config.channel >= channels:
        raise rejected(RejectReason.MEDIA_MISSING, f"no channel {config.channel} of {channels}")
    size = int(np.prod(shape[:3], dtype=object)) * dtype.itemsize
    try:
        stream.seek(offset + size * config.channel)
        data = stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise rejected(RejectReason.IMAGE_CORRUPT, f"values that are not read: {type(error).__name__}") from error
    if len(data) < size:
        raise rejected(RejectReason.IMAGE_CORRUPT, f"{len(data)} bytes of values; the header promises {size}")
    return np.frombuffer(data, dtype).reshape(shape[:3], order="F")
