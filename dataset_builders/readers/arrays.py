"""Rows of arrays in npz, npy and HDF5 files: images that lie in one array, and slices of volumes that do."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError, ItemRejectedError
from clipmed.rejects import RejectReason
from clipmed.scans.config import PartPixels, Pixels, WindowName, check_memory, check_pixels, chosen, rejected
from clipmed.scans.intensity import check_foreground, limits, to_levels
from dataset_builders.readers.config import ReaderConfig

_READABLE = "biuf"  # dtype kinds: bool, int, unsigned int, float


class ArrayFile:
    """The arrays of an npz, npy or HDF5 file, read row by row.

    HDF5 rows are read from the disk. An npz array is decompressed once and kept. Nothing is unpickled, and links from
    an HDF5 file to another file are not followed.
    """

    def __init__(self, path: Path, config: ReaderConfig) -> None:
        self._path = path
        self._config = config
        self._loaded: dict[str, npt.NDArray[Any]] = {}
        self._hdf: Any = None
        try:
            with path.open("rb") as stream:
                magic = stream.read(8)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        if magic == b"\x89HDF\r\n\x1a\n":
            import h5py

            try:
                self._hdf = h5py.File(path, "r")
            except OSError as error:
                raise rejected(RejectReason.IMAGE_CORRUPT, "not a readable HDF5 file") from error
        elif magic[:4] != b"PK\x03\x04" and magic[:6] != b"\x93NUMPY":
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, "not an npz, npy or HDF5 file")

    def names(self) -> list[str]:
        """Return the names of the arrays at the top, in order; the empty name for the one of an npy file."""
        if self._hdf is not None:
            return sorted(self._hdf)
        if not zipfile.is_zipfile(self._path):
            return [""]
        with zipfile.ZipFile(self._path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, from its header alone.

        Raises:
            ItemRejectedError: no such array, one that is not of numbers, or one that is too large to read.
        """
        if self._hdf is not None:
            return tuple(int(side) for side in self._dataset(name).shape)
        if name in self._loaded:
            return self._loaded[name].shape
        with self._member(name) as stream:
            return _numpy_header(stream)[0]

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a whole array, such as the labels.

        Raises:
            ItemRejectedError: as `shape`, or cut short.
        """
        if self._hdf is not None:
            dataset = self._dataset(name)
            check_memory(int(dataset.size), dataset.dtype.itemsize, self._config)
            return np.asarray(self._read(dataset, ()))
        if name not in self._loaded:
            shape, dtype = self._numpy_shape(name)
            check_memory(int(np.prod(shape, dtype=object)), dtype.itemsize, self._config)
            with self._member(name) as stream:
                self._loaded[name] = _read_numpy(stream)
        return self._loaded[name]

    def row(self, name: str, index: int) -> npt.NDArray[Any]:
        """Return row `index` of an array.

        Raises:
            ItemRejectedError: as `shape`, cut short, or no such row.
        """
        count = (self.shape(name) or (0,))[0]
        if not 0 <= index < count:
            raise rejected(RejectReason.MEDIA_MISSING, f"no row {index} of {count}")
        if self._hdf is None:
            return np.asarray(self.array(name)[index])
        dataset = self._dataset(name)
        check_memory(int(np.prod(dataset.shape[1:], dtype=object)), dataset.dtype.itemsize, self._config)
        return np.asarray(self._read(dataset, index))

    def _dataset(self, name: str) -> Any:
        """Return an HDF5 dataset that lies in this file, after looking at every link on the way to it."""
        try:
            place = self._linked(name)
        except ItemRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 (h5py raises whatever malformed links lead it to)
            raise rejected(RejectReason.IMAGE_CORRUPT, f"HDF5 links that break: {type(error).__name__}") from None
        if place.dtype.kind not in _READABLE:
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, f"the array {name!r} is not of numbers")
        if place.chunks:
            check_memory(int(np.prod(place.chunks, dtype=object)), place.dtype.itemsize, self._config)
        return place

    def _linked(self, name: str) -> Any:
        import h5py

        steps = [step for step in name.split("/") if step]
        place = self._hdf
        for step in steps:
            link = place.get(step, getlink=True) if isinstance(place, h5py.Group) else None
            if not isinstance(link, h5py.HardLink):
                raise rejected(RejectReason.MEDIA_MISSING, f"no array {name!r} in the file itself")
            place = place[step]
        if not isinstance(place, h5py.Dataset) or place.is_virtual or place.external:
            raise rejected(RejectReason.MEDIA_MISSING, f"no array {name!r} in the file itself")
        return place

    def _read(self, dataset: Any, index: Any) -> Any:
        try:
            return dataset[index]
        except Exception as error:  # noqa: BLE001 (h5py raises whatever malformed chunks lead it to)
            raise rejected(RejectReason.IMAGE_CORRUPT, f"an HDF5 row is broken: {type(error).__name__}") from None

    def _numpy_shape(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with self._member(name) as stream:
            return _numpy_header(stream)

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        if not zipfile.is_zipfile(self._path):
            with self._path.open("rb") as stream:
                yield stream
            return
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as stream:
                yield stream
        except KeyError as error:
            detail = f"no array {name!r}; the file has: {', '.join(self.names())}"
            raise rejected(RejectReason.MEDIA_MISSING, detail) from error
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise rejected(RejectReason.IMAGE_CORRUPT, "not a readable npz file") from error


def open_arrays(path: Path, config: ReaderConfig) -> ArrayFile:
    """Return the arrays of a file; a process keeps those of the last two files open.

    Raises:
        DataError: the file cannot be read.
        ItemRejectedError: it is none with arrays.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return _opened(path, (state.st_size, state.st_mtime_ns, os.getpid()), config)


@lru_cache(maxsize=2)
def _opened(path: Path, state: tuple[int, ...], config: ReaderConfig) -> ArrayFile:
    return ArrayFile(path, config)


def array_parts(path: Path, config: ReaderConfig) -> list[str]:
    """Return the names of the images: the row's number, such as 12, or with the slice of a volume, such as 12-003."""
    shape = open_arrays(path, config).shape(config.array)
    if not shape or shape[0] > config.max_frames * 100:
        raise rejected(RejectReason.IMAGE_TOO_LARGE, f"an array of shape {shape} holds no rows that are read")
    if not _is_volume(shape[1:]):
        return [str(row) for row in range(shape[0])]
    numbers = chosen(shape[1 + _axis(config)], config)
    return [f"{row}-{number:03d}" for row in range(shape[0]) for number in numbers]


def read_row(path: Path, part: str, window: WindowName, config: ReaderConfig) -> PartPixels:
    """Return the image of a row, or of a row's slice: 8-bit values as they are, others by the window.

    `stored` is the range of the row.

    Raises:
        ItemRejectedError: no such row or slice, a shape that is no image, or too little content in a slice.
    """
    number, _, depth = part.partition("-")
    values = open_arrays(path, config).row(config.array, int(number))
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    volume = values
    if depth:
        if values.ndim < 3 or int(depth) >= values.shape[_axis(config)]:
            raise rejected(RejectReason.MEDIA_MISSING, f"no slice {int(depth)} in a row of shape {values.shape}")
        values = np.moveaxis(values, _axis(config), 0)[int(depth)]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, f"a row of shape {values.shape} is no image")
    check_pixels(values.shape[1], values.shape[0], config)
    levels = _levels(values, volume, window, config)
    if depth:
        check_foreground(levels, config)
    return PartPixels(pixels=np.ascontiguousarray(levels))


def _levels(values: npt.NDArray[Any], volume: npt.NDArray[Any], window: WindowName, config: ReaderConfig) -> Pixels:
    if values.dtype == np.uint8 and window == "stored":
        return np.asarray(values, np.uint8)
    return to_levels(values, *limits(volume, "range" if window == "stored" else window, config))


def _is_volume(shape: tuple[int, ...]) -> bool:
    """Whether a row of this shape is a volume: (D, H, W) or (D, H, W, 3), and not (H, W, 3) or (H, W, 1)."""
    return len(shape) == 4 or (len(shape) == 3 and shape[2] not in (1, 3))


def _axis(config: ReaderConfig) -> int:
    return config.axis if isinstance(config.axis, int) else 0


def _numpy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception as error:
        detail = f"an array without a readable header: {type(error).__name__}"
        raise rejected(RejectReason.IMAGE_CORRUPT, detail) from error
    if dtype.kind not in _READABLE:
        raise rejected(RejectReason.IMAGE_UNSUPPORTED, "an array that is not of numbers")
    return shape, dtype


def _read_numpy(stream: IO[bytes]) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except Exception as error:
        raise rejected(RejectReason.IMAGE_CORRUPT, f"an array that is cut short: {type(error).__name__}") from error
