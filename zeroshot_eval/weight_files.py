"""Facts of weights on disk, read without a tensor library: scalars from safetensors headers, and digests.

Digests of gigabytes take seconds. Within `remembered_digests` they are kept in a folder, and a file whose size and time
of change are the same is not read again.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipmed.errors import CheckpointError
from clipmed.files import atomic_file, sha256_file

HEADER_BYTES_MAX = 100_000_000  # as the format's own readers allow

_RECORDS: ContextVar[Path | None] = ContextVar("folder of digests that are kept", default=None)

# Little-endian floats by their names in safetensors; bfloat16 is the upper half of a float32.
_FLOATS = {"F64": "<d", "F32": "<f", "F16": "<e"}


def read_scalar(files: Sequence[Path], name: str) -> float | None:
    """Return the one number of a tensor by its name, or None where no file holds it.

    Raises:
        CheckpointError: a damaged file, or a tensor that is not one floating-point number.
    """
    for path in files:
        header, start = _header(path)
        if name in header:
            return _scalar(path, name, header[name], start)
    return None


def digest_of(files: Iterable[Path]) -> str:
    """Return a hex SHA-256 over the names and contents of files, in the order of their names."""
    lines = [f"{path.name} {file_digest(path)}" for path in sorted(files, key=lambda path: path.name)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def remembered_digests(folder: Path) -> Iterator[None]:
    """Let `file_digest` keep what it finds in a folder."""
    token = _RECORDS.set(folder)
    try:
        yield
    finally:
        _RECORDS.reset(token)


def file_digest(path: Path) -> str:
    """Return a file's hex SHA-256, as far as possible from what this process or a record knows of it."""
    status = path.stat()
    return _digest_as_of(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_as_of(path: Path, num_bytes: int, mtime_ns: int) -> str:
    records = _RECORDS.get()
    if records is None:
        return sha256_file(path)
    record = records / f"weights-{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    stamp = f"{num_bytes}:{mtime_ns}"
    known = _read_record(record)
    if known.get("stamp") == stamp and len(str(known.get("sha256"))) == 64:
        return str(known["sha256"])
    digest = sha256_file(path)
    with atomic_file(record, durable=False) as temporary:
        temporary.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
    return digest


def _read_record(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # none, or damaged: the file is read


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header, and where the data after it begins."""
    try:
        with path.open("rb") as stream:
            (num_bytes,) = struct.unpack("<Q", stream.read(8))
            if num_bytes > HEADER_BYTES_MAX:
                raise CheckpointError(f"{path} is damaged (a header of {num_bytes} bytes); fetch or save it again")
            header = json.loads(stream.read(num_bytes))
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it again") from error
    return dict(header), 8 + num_bytes


def _scalar(path: Path, name: str, entry: dict[str, Any], start: int) -> float:
    kind, (first, last) = entry["dtype"], entry["data_offsets"]
    with path.open("rb") as stream:
        stream.seek(start + first)
        raw = stream.read(last - first)
    if kind == "BF16" and len(raw) == 2:
        kind, raw = "F32", b"\0\0" + raw
    form = _FLOATS.get(kind)
    if form is None or struct.calcsize(form) != len(raw):
        raise CheckpointError(f"{path}: {name} is {kind} of shape {entry['shape']}; allowed: one floating-point number")
    return float(struct.unpack(form, raw)[0])
