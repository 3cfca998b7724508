"""The files of an index as arrays, mapped from the disk and checked before use."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from clipmed.files import sha256_file
from clipmed.search import layout
from clipmed.search.clusters import Clusters
from clipmed.search.layout import IndexFacts
from clipmed.search.rows import line_offsets

CHUNK_BYTES = 16 << 20
LENGTH_TOLERANCE = 5e-3  # of unit length: float16 rounds each number by up to 2**-11 of it

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexArrays:
    """Views of an index's files; N rows, D dimensions."""

    embeddings: npt.NDArray[np.floating]
    """(N, D), in row order or cluster by cluster"""
    rows: npt.NDArray[np.uint8]
    row_offsets: Ints
    """(N + 1,)"""
    thumbnails: npt.NDArray[np.uint8] | None
    thumbnail_offsets: Ints | None
    """(N + 1,)"""
    clusters: Clusters | None

    def rows_at(self, positions: Ints) -> Ints:
        """Return the rows of stored embeddings."""
        return positions if self.clusters is None else self.clusters.rows[positions]

    def positions(self, rows: Sequence[int]) -> Ints:
        """Return where the embeddings of these rows are stored."""
        wanted = np.asarray(rows, dtype=np.int64)
        return wanted if self.clusters is None else self.clusters.positions[wanted]


def open_arrays(folder: Path, facts: IndexFacts, *, check_digests: bool) -> IndexArrays:
    """Map the files of an index whose lengths have been checked, and check what they hold.

    Raises:
        DataError: a digest differs, an embedding is not of unit length, or offsets are not in order.
    """
    embeddings = _mapped(folder / layout.EMBEDDINGS, facts.dtype).reshape(facts.rows, facts.dimension)
    if check_digests:
        _check_digests(folder, facts)
        check_lengths(embeddings, folder / layout.EMBEDDINGS)
    rows = _mapped(folder / layout.ROWS, "uint8")
    thumbnails = _mapped(folder / layout.THUMBNAILS, "uint8") if facts.has_thumbnails else None
    return IndexArrays(
        embeddings=embeddings,
        rows=rows,
        row_offsets=_row_offsets(rows, facts.rows, folder / layout.ROWS),
        thumbnails=thumbnails,
        thumbnail_offsets=None if thumbnails is None else _offsets(folder / layout.THUMBNAIL_OFFSETS, thumbnails.size),
        clusters=_clusters(folder, facts) if facts.clusters else None,
    )


def check_lengths(embeddings: npt.NDArray[np.floating], path: Path) -> None:
    """Refuse embeddings that are not finite or not of unit length."""
    step = max(1, CHUNK_BYTES // (4 * embeddings.shape[1]))
    for start in range(0, len(embeddings), step):
        block = embeddings[start : start + step].astype(np.float32, copy=False)
        squares = np.einsum("nd,nd->n", block, block)
        bad = np.flatnonzero(~(np.abs(squares - 1) <= 2 * LENGTH_TOLERANCE))
        if bad.size:
            length = np.sqrt(squares[bad[0]])
            raise DataError(
                f"{path}: embedding {start + bad[0]} has the length {length:g}; allowed: 1; the index is damaged: "
                "build it anew"
            )


def _check_digests(folder: Path, facts: IndexFacts) -> None:
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
            digests = list(pool.map(lambda name: sha256_file(folder / name), facts.files))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}") from error
    for (name, wanted), got in zip(facts.files.items(), digests, strict=True):
        if got != wanted.sha256:
            raise DataError(
                f"{folder / name} has the SHA-256 {got[:16]}…; {layout.INDEX_FILE} says {wanted.sha256[:16]}…; the "
                "index is damaged: build it anew"
            )


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    """Return a file as an array that is read from the disk as it is used."""
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        if not path.stat().st_size:
            return np.empty(0, kind)
        return np.memmap(path, kind, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _row_offsets(rows: npt.NDArray[np.uint8], wanted: int, path: Path) -> Ints:
    try:
        offsets = line_offsets(rows)
    except DataError as error:
        raise DataError(f"{path}: {error}; the index is damaged: build it anew") from error
    if len(offsets) - 1 != wanted:
        raise DataError(f"{path} has {len(offsets) - 1} lines; allowed: {wanted}; the index is damaged: build it anew")
    return offsets


def _offsets(path: Path, end: int) -> Ints:
    """Return offsets that begin at 0, never fall, and end at `end`."""
    offsets = _mapped(path, "uint64")
    in_order = bool((offsets[1:] >= offsets[:-1]).all())
    if not in_order or offsets[0] != 0 or offsets[-1] != end:
        raise DataError(f"{path} does not rise from 0 to {end}; the index is damaged: build it anew")
    return offsets.astype(np.int64)


def _clusters(folder: Path, facts: IndexFacts) -> Clusters:
    assert facts.clusters is not None
    centroids = _mapped(folder / layout.CENTROIDS, "float32").reshape(facts.clusters.count, facts.dimension)
    if not np.isfinite(centroids).all():
        raise DataError(f"{folder / layout.CENTROIDS} holds numbers that are not finite; build the index anew")
    rows = _mapped(folder / layout.CLUSTER_ROWS, "uint64")
    seen = np.zeros(facts.rows, dtype=bool)
    seen[rows[rows < facts.rows].astype(np.int64)] = True
    if not seen.all():
        raise DataError(f"{folder / layout.CLUSTER_ROWS} does not name every row once; build the index anew")
    return Clusters(
        centroids=centroids, offsets=_offsets(folder / layout.CLUSTER_OFFSETS, facts.rows), rows=rows.astype(np.int64)
    )
