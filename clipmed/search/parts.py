"""Parts of an index that is being built: what a killed run has finished, taken up again by the next.

.<name>.parts/part-<digest of its files>.safetensors
    embeddings (n, D), thumbnails (bytes end to end), thumbnail_offsets (n + 1,), and as metadata the lines of the rows
    and rejects, the settings they were made with, and a checksum of it all
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmed import parts
from clipmed.search.rows import Reject, Row, line_of, reject_of, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that are done: n of them, each with its embedding and thumbnail, and the rejects among them."""

    rows: Sequence[Row]
    rejects: Sequence[Reject]
    embeddings: npt.NDArray[np.floating]
    """(n, D)"""
    thumbnails: Sequence[bytes]
    """n, or none"""


def joined(several: Sequence[Part]) -> Part:
    """Return one part with the content of several, one after the other."""
    return Part(
        rows=[row for part in several for row in part.rows],
        rejects=[reject for part in several for reject in part.rejects],
        embeddings=np.concatenate([part.embeddings for part in several]),
        thumbnails=[jpeg for part in several for jpeg in part.thumbnails],
    )


def parts_folder(out: Path) -> Path:
    """Return where the parts of an index lie while it is built."""
    return out.with_name(f".{out.name}.parts")


def write_part(folder: Path, part: Part, settings: str) -> Path:
    """Write a part atomically and return its file; `settings` is what embeddings and thumbnails depend on."""
    rows = b"".join(line_of(row) for row in part.rows)
    rejects = b"".join(line_of(reject) for reject in part.rejects)
    arrays = {
        "embeddings": part.embeddings,
        "thumbnails": np.frombuffer(b"".join(part.thumbnails), dtype=np.uint8),
        "thumbnail_offsets": np.cumsum([0, *map(len, part.thumbnails)], dtype=np.int64),
    }
    path = folder / f"part-{hashlib.sha256(rows + rejects).hexdigest()[:24]}.safetensors"
    parts.write(path, arrays, {"rows": rows.decode(), "rejects": rejects.decode(), "settings": settings})
    return path


def read_part(path: Path, settings: str) -> Part | None:
    """Return a part, or None where it is damaged or was made with other settings."""
    found = parts.read(path)
    if found is None or found[1].get("settings") != settings:
        return None
    arrays, texts = found
    thumbnails, offsets = arrays["thumbnails"].tobytes(), arrays["thumbnail_offsets"].tolist()
    return Part(
        rows=[row_of(line, str(path)) for line in texts["rows"].encode().splitlines()],
        rejects=[reject_of(line, str(path)) for line in texts["rejects"].encode().splitlines()],
        embeddings=arrays["embeddings"],
        thumbnails=[thumbnails[a:b] for a, b in itertools.pairwise(offsets)],
    )


def part_files(folder: Path) -> Iterator[Path]:
    """Yield the files of finished parts, in the order of their names."""
    if folder.is_dir():
        yield from sorted(folder.glob("part-*.safetensors"))
