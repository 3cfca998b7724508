"""Headers of safetensors files: what tensors there are, read without a tensor library and without their numbers.

The file is an unsigned 64-bit length, a JSON header of that many bytes, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmed.errors import CheckpointError

HEADER_BYTES_MAX = 100_000_000  # as the format's own readers allow
METADATA_KEY = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's entry in a header, less its place."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of one number; the types are called after their bits, as in BF16 or F8_E4M3, but for BOOL."""
        digits = "".join(letter for letter in self.dtype.partition("_")[0] if letter.isdigit())
        return int(digits) // 8 if digits else 1

    @property
    def num_values(self) -> int:
        """Numbers of the tensor."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.num_values * self.item_bytes

    @property
    def is_float(self) -> bool:
        """Whether its numbers are floating-point ones."""
        return self.dtype.startswith(("F", "BF"))


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file by name.

    Raises:
        CheckpointError: no such file, or one that is cut short or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (num_bytes,) = struct.unpack("<Q", stream.read(8))
            if num_bytes > min(HEADER_BYTES_MAX, size - 8):
                raise CheckpointError(f"{path} is damaged (a header of {num_bytes} bytes); fetch or save it again")
            header = json.loads(stream.read(num_bytes))
        entries = {name: _entry(entry) for name, entry in header.items() if name != METADATA_KEY}
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} is not readable: {error.strerror}") from error
    except (struct.error, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); fetch or save it again") from error
    total = sum(entry.num_bytes for entry in entries.values())
    if 8 + num_bytes + total != size:
        raise CheckpointError(
            f"{path} is damaged: {size} bytes, its header tells of {8 + num_bytes + total}; fetch or save it again"
        )
    return entries


def count_values(entries: Mapping[str, TensorEntry]) -> int:
    """Return the number of numbers in all tensors."""
    return sum(entry.num_values for entry in entries.values())


def _entry(entry: Mapping[str, Any]) -> TensorEntry:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str) or not all(type(side) is int and side >= 0 for side in shape):
        raise TypeError(f"an entry with dtype {dtype!r} and shape {shape!r}"[:200])
    return TensorEntry(dtype, shape)
