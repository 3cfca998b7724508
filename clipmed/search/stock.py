"""What is embedded already: the rows of the index that is replaced, and of the parts that a killed run has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from clipmed.files import FileStamp
from clipmed.search.index import SearchIndex
from clipmed.search.parts import Part, part_files, read_part
from clipmed.search.rows import Reject, Row


class Embedded(Protocol):
    """Rows with their embeddings."""

    def embeddings(self, positions: Sequence[int]) -> npt.NDArray[np.floating]:
        """Return embeddings (n, D)."""


class Source(Embedded, Protocol):
    """Rows with their embeddings and thumbnails."""

    def thumbnail(self, position: int) -> bytes:
        """Return a JPEG."""


class Place(NamedTuple):
    """Where a row is: which source, and which of its rows."""

    source: int
    position: int


class IndexSource:
    """An index that is replaced."""

    def __init__(self, index: SearchIndex) -> None:
        self._index = index

    def embeddings(self, positions: Sequence[int]) -> npt.NDArray[np.floating]:
        """Return embeddings (n, D)."""
        return self._index.embeddings(positions)

    def thumbnail(self, position: int) -> bytes:
        """Return a JPEG."""
        return self._index.thumbnail(position)


class PartSource:
    """A part file."""

    def __init__(self, path: Path, settings: str) -> None:
        self._path, self._settings = path, settings

    def embeddings(self, positions: Sequence[int]) -> npt.NDArray[np.floating]:
        """Return embeddings (n, D)."""
        return _part(self._path, self._settings).embeddings[list(positions)]

    def thumbnail(self, position: int) -> bytes:
        """Return a JPEG."""
        return _part(self._path, self._settings).thumbnails[position]


class Stock:
    """All that is embedded, by file and by content."""

    def __init__(self, settings: str) -> None:
        self.settings = settings
        self.sources: list[Source] = []
        self.rejects: dict[FileStamp, Reject] = {}
        self._rows: dict[FileStamp, tuple[Row, Place]] = {}
        self._contents: dict[str, FileStamp] = {}
        self._sizes: set[int] = set()

    def add_index(self, index: SearchIndex) -> None:
        """Take in the rows of an index. Its rejects are tried again: another clipmed may read them."""
        self._add([index.row(number) for number in range(len(index))], IndexSource(index))

    def add_parts(self, folder: Path) -> None:
        """Take in the rows and rejects of all parts that are whole and were made with the same settings."""
        for path in part_files(folder):
            part = read_part(path, self.settings)
            if part is None:
                path.unlink()
            else:
                self.add_part(part, path)

    def add_part(self, part: Part, path: Path) -> None:
        """Take in the rows and rejects of a part, which lies in a file."""
        self._add(part.rows, PartSource(path, self.settings))
        self.rejects |= {reject.stamp: reject for reject in part.rejects}

    def known(self, stamp: FileStamp) -> bool:
        """Whether the file is embedded, or was rejected by the run that is taken up again."""
        return stamp in self._rows or stamp in self.rejects

    def may_hold(self, num_bytes: int) -> bool:
        """Whether a file of this size is embedded."""
        return num_bytes in self._sizes

    def add_moved(self, stamp: FileStamp, sha256: str) -> bool:
        """Take in a file with the content of one that is embedded; return False where there is none."""
        if sha256 not in self._contents:
            return False
        row, place = self._rows[self._contents[sha256]]
        moved = replace(row, path=stamp.path, bytes=stamp.bytes, mtime_ns=stamp.mtime_ns)
        self._rows[stamp] = (moved, place)
        return True

    def row(self, stamp: FileStamp) -> tuple[Row, Place] | None:
        """Return the row of a file and where it is; None where the file is no image."""
        return self._rows.get(stamp)

    def _add(self, rows: Sequence[Row], source: Source) -> None:
        number = len(self.sources)
        self.sources.append(source)
        for position, row in enumerate(rows):
            self._rows[row.stamp] = (row, Place(number, position))
            self._contents.setdefault(row.sha256, row.stamp)
            self._sizes.add(row.bytes)


@lru_cache(maxsize=2)
def _part(path: Path, settings: str) -> Part:
    part = read_part(path, settings)
    assert part is not None, f"{path} was read a moment ago"
    return part
