"""Pages of TIFF files with values of any depth."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason
from clipmed.scans.config import Source, check_memory, check_pixels, rejected
from dataset_builders.readers.bytesources import open_tiff
from dataset_builders.readers.config import ReaderConfig

_MIN_IS_WHITE = 0


class TiffPages:
    """The pages of a TIFF file that have the size and type of the first one.

    Raises:
        ItemRejectedError: a file that is not read, or one with too many pages.
    """

    def __init__(self, source: Source, config: ReaderConfig) -> None:
        self._config = config
        self._file: Any = None
        try:
            self._file = open_tiff(source)
            if len(self._file.pages) > config.max_frames:
                raise rejected(RejectReason.IMAGE_TOO_LARGE, f"more than {config.max_frames} pages")
            first = self._file.pages.first
            alike = [page for page in self._file.pages if (page.shape, page.dtype) == (first.shape, first.dtype)]
        except ItemRejectedError:
            self._file.close()
            raise
        except Exception as error:  # noqa: BLE001 (tifffile raises whatever malformed tags lead it to)
            if self._file is not None:
                self._file.close()
            raise _unreadable(error) from None
        self._pages: list[Any] = alike

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def ordinary(self) -> bool:
        """Whether the file is one image of at most 8 bits a channel."""
        return len(self._pages) == 1 and self._pages[0].dtype in (np.dtype(np.uint8), np.dtype(bool))

    def read(self, number: int) -> npt.NDArray[Any]:
        """Return the values of a page, (H, W) or (H, W, 3); where white is stored as 0, they are turned over.

        Raises:
            ItemRejectedError: no such page, values that do not decode, or a form that is no image.
        """
        if not 0 <= number < len(self._pages):
            raise rejected(RejectReason.MEDIA_MISSING, f"no page {number} of {len(self._pages)}")
        try:
            page = self._pages[number].aspage()
            check_pixels(int(page.imagewidth), int(page.imagelength), self._config)
            check_memory(int(np.prod(page.shape, dtype=object)), page.dtype.itemsize, self._config)
            values = np.asarray(page.asarray())
        except ItemRejectedError:
            raise
        except Exception as error:  # noqa: BLE001 (tifffile and its codecs raise whatever malformed tags lead them to)
            raise _unreadable(error) from None
        if values.dtype == bool:
            values = values.astype(np.uint8) * np.uint8(255)
        if values.ndim == 3 and values.shape[2] in (2, 4):
            values = values[..., : values.shape[2] - 1]  # without transparency
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        if values.dtype.kind not in "iuf" or values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)):
            raise rejected(RejectReason.IMAGE_UNSUPPORTED, f"a TIFF page of shape {page.shape}")
        return -values.astype(np.float64) if page.photometric == _MIN_IS_WHITE else values


def _unreadable(error: Exception) -> ItemRejectedError:
    return rejected(RejectReason.IMAGE_CORRUPT, f"a TIFF file that is not read: {type(error).__name__}")
