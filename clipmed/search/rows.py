"""The rows of an index and the images that are not in it, as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from clipmed.files import FileStamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image of an index."""

    path: str
    caption: str | None
    bytes: int
    mtime_ns: int
    sha256: str
    """of the file, in hex"""

    @property
    def stamp(self) -> FileStamp:
        """The file as it was."""
        return FileStamp(self.path, self.bytes, self.mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One image that is not in an index, and why."""

    path: str
    bytes: int
    mtime_ns: int
    reason: str

    @property
    def stamp(self) -> FileStamp:
        """The file as it was."""
        return FileStamp(self.path, self.bytes, self.mtime_ns)


_TYPES: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "caption": (str, type(None)),
    "bytes": (int,),
    "mtime_ns": (int,),
    "sha256": (str,),
    "reason": (str,),
}


def line_of(item: Row | Reject) -> bytes:
    """Return the item as one line of ASCII JSON."""
    return json.dumps(asdict(item), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def row_of(line: bytes, where: str) -> Row:
    """Return the row that a line holds.

    Raises:
        DataError: the line is not JSON, or lacks a value, or has another one.
    """
    return Row(**_values(line, ("path", "caption", "bytes", "mtime_ns", "sha256"), where))


def reject_of(line: bytes, where: str) -> Reject:
    """Return the reject that a line holds; errors as in `row_of`."""
    return Reject(**_values(line, ("path", "bytes", "mtime_ns", "reason"), where))


def line_offsets(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return where each line begins, and last where the data end: lines + 1 places. The last line must be ended."""
    ends = np.flatnonzero(data == ord("\n")) + 1
    if data.size and (not ends.size or ends[-1] != data.size):
        raise DataError("the last line is cut short")
    return np.concatenate([[0], ends]).astype(np.int64)


def _values(line: bytes, names: tuple[str, ...], where: str) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}; the index is damaged: build it anew") from error
    if not isinstance(values, dict) or values.keys() != set(names):
        raise DataError(f"{where} must hold {', '.join(names)}; the index is damaged: build it anew")
    for name, value in values.items():
        if type(value) not in _TYPES[name]:
            raise DataError(f"{where}: {name} is {type(value).__name__}; the index is damaged: build it anew")
    return values
