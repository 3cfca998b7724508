"""The files of an index, written in one pass and hashed on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmed.files import HashingFile, write_json
from clipmed.search import layout
from clipmed.search.clusters import Clusters
from clipmed.search.layout import FileFacts, IndexFacts
from clipmed.search.rows import Reject, Row, line_of
from clipmed.search.stock import Embedded, Place, Source

CHUNK_ROWS = 8192


class IndexWriter:
    """Writes the files of an index into a folder and collects what `index.json` says of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, FileFacts] = {}

    def write_rows(self, rows: Sequence[Row], rejects: Sequence[Reject]) -> None:
        """Write rows and rejects."""
        for name, items in ((layout.ROWS, rows), (layout.REJECTS, rejects)):
            with self._hashed(name) as file:
                for item in items:
                    file.write(line_of(item))

    def write_embeddings(self, places: Sequence[Place], sources: Sequence[Embedded], dtype: str) -> None:
        """Write the embeddings of all rows in their order."""
        with self._hashed(layout.EMBEDDINGS) as file:
            for source, positions in _runs(places):
                file.write(_little(sources[source].embeddings(positions), dtype))

    def write_thumbnails(self, places: Sequence[Place], sources: Sequence[Source]) -> None:
        """Write the thumbnails of all rows in their order, and where each begins."""
        offsets = [0]
        with self._hashed(layout.THUMBNAILS) as file:
            for source, position in places:
                offsets.append(offsets[-1] + file.write(sources[source].thumbnail(position)))
        self._write_array(layout.THUMBNAIL_OFFSETS, np.array(offsets), "uint64")

    def embeddings(self, dimension: int, dtype: str) -> npt.NDArray[np.floating]:
        """Return the embeddings that were written, shape (N, D), from the disk."""
        stored = np.memmap(self._folder / layout.EMBEDDINGS, np.dtype(dtype).newbyteorder("<"), mode="r")
        return stored.view(np.ndarray).reshape(-1, dimension)

    def order_by_cluster(self, embeddings: npt.NDArray[np.floating], clusters: Clusters) -> None:
        """Write the embeddings (N, D) again, cluster by cluster, and the clusters."""
        (self._folder / layout.EMBEDDINGS).unlink()  # the array keeps what it was mapped from
        with self._hashed(layout.EMBEDDINGS) as file:
            for start in range(0, len(embeddings), CHUNK_ROWS):
                file.write(embeddings[clusters.rows[start : start + CHUNK_ROWS]].tobytes())
        self._write_array(layout.CENTROIDS, clusters.centroids, "float32")
        self._write_array(layout.CLUSTER_OFFSETS, clusters.offsets, "uint64")
        self._write_array(layout.CLUSTER_ROWS, clusters.rows, "uint64")

    def write_facts(self, facts: IndexFacts) -> None:
        """Write `index.json`, last."""
        write_json(self._folder / layout.INDEX_FILE, asdict(facts))

    def _write_array(self, name: str, array: npt.NDArray[np.generic], dtype: str) -> None:
        with self._hashed(name) as file:
            file.write(_little(array, dtype))

    @contextlib.contextmanager
    def _hashed(self, name: str) -> Iterator[HashingFile]:
        """Yield a new file of the index, and note its length and SHA-256 when it is written."""
        with (self._folder / name).open("wb") as stream:
            file = HashingFile(stream)
            yield file
            self.files[name] = FileFacts(bytes=file.tell(), sha256=file.sha256())


def _little(array: npt.NDArray[np.generic], dtype: str) -> bytes:
    return array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def _runs(places: Sequence[Place]) -> Iterator[tuple[int, list[int]]]:
    """Yield the source of neighbouring rows that have the same, and their positions in it, some thousands at a time."""
    for source, run in groupby(places, key=lambda place: place.source):
        positions = [place.position for place in run]
        for start in range(0, len(positions), CHUNK_ROWS):
            yield source, positions[start : start + CHUNK_ROWS]
