"""A search index that was built: opened, checked, searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipmed.errors import ClipmedError, ConfigError, DataError
from clipmed.search import clusters, files, layout, nearest, thumbnails
from clipmed.search.layout import IndexFacts, read_facts
from clipmed.search.rows import Reject, Row, reject_of, row_of

if TYPE_CHECKING:
    import torch

QUERIES_AT_ONCE = 64
KEPT_ROWS = 1 << 12  # that were read and may be found again: some 2 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One image that a search found."""

    path: str
    """as it was given when the index was built"""
    score: float
    """cosine of query and image, -1 to 1"""
    caption: str | None
    """of the image, where the index has one"""
    row: int
    """of the index: 0 … len(index) - 1, in the order of the paths"""


class SearchIndex:
    """An index that was opened; made by `SearchIndex.open` or `build_index`."""

    def __init__(self, folder: Path, facts: IndexFacts, arrays: files.IndexArrays) -> None:
        self.folder = folder
        """where it lies"""
        self.facts = facts
        """what index.json says: the checkpoint, the number of images, how they are stored"""
        self._arrays = arrays
        self._read_row = lru_cache(KEPT_ROWS)(partial(_row_at, folder, arrays))

    @classmethod
    def open(cls, folder: str | Path, *, check_digests: bool = True) -> SearchIndex:
        """Open an index folder and check all of it.

        Args:
            folder: what `build_index` wrote.
            check_digests: read every file once and compare its SHA-256: some 0.7 s a gigabyte. Without, lengths and
                types are checked still, and damage inside of a file stays unseen.

        Raises:
            ConfigError: there is no index in the folder.
            DataError: a file is missing, damaged, cut short, or not what `index.json` says.
        """
        facts = read_facts(Path(folder))
        return cls(Path(folder), facts, files.open_arrays(Path(folder), facts, check_digests=check_digests))

    def __len__(self) -> int:
        return self.facts.rows

    @property
    def dimension(self) -> int:
        """D of the embeddings."""
        return self.facts.dimension

    @property
    def has_thumbnails(self) -> bool:
        """Whether `thumbnail` works."""
        return self.facts.has_thumbnails

    def search(
        self, embeddings: torch.Tensor | npt.NDArray[np.floating], k: int = 10, *, probes: int | None = None
    ) -> list[list[Hit]]:
        """Return the k images of the highest cosine for every query, best first; equals in the order of their paths.

        Exact for an index of the kind `exact`. A clustered one looks only into the clusters nearest to the query, with
        the recall that `facts.clusters` states; with `probes` as many as there are clusters it is exact too.

        Args:
            embeddings: queries of shape (Q, D) or (D,), from the checkpoint that built the index (`require_checkpoint`
                tells); they are scaled to unit length.
            k: how many images to return, 1 … len(index).
            probes: clusters to look into, instead of those the index states.

        Raises:
            ClipmedError: k or D is out of range, or a query is not finite or has no length.
        """
        queries = nearest.unit_queries(embeddings, self.dimension)
        if not 1 <= k <= len(self):
            raise ClipmedError(f"k: got {k}; allowed: 1 to {len(self)}, the number of images in {self.folder}")
        found: list[list[Hit]] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            found += self._search(queries[start : start + QUERIES_AT_ONCE], k, probes)
        return found

    def row(self, number: int) -> Row:
        """Return what is known of a row: path, caption, the file's size, time of change and SHA-256."""
        self._check_row(number)
        return self._read_row(number)

    def rejects(self) -> list[Reject]:
        """Return the images that were given and are not in the index, with the reasons."""
        path = self.folder / layout.REJECTS
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        return [reject_of(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]

    def embeddings(self, rows: Sequence[int]) -> npt.NDArray[np.floating]:
        """Return the unit-length embeddings (n, D) of rows, in the numbers they are stored in."""
        for number in rows:
            self._check_row(number)
        stored: npt.NDArray[np.floating] = self._arrays.embeddings[self._arrays.positions(rows)]
        return stored

    def thumbnail(self, number: int) -> bytes:
        """Return the JPEG of a row: up to 128 pixels a side.

        Raises:
            ConfigError: the index was built without.
            DataError: what is stored is no such JPEG.
        """
        self._check_row(number)
        if self._arrays.thumbnails is None or self._arrays.thumbnail_offsets is None:
            raise ConfigError(f"{self.folder} holds no thumbnails; build it without --no-thumbnails")
        first, last = self._arrays.thumbnail_offsets[number : number + 2]
        return thumbnails.checked(self._arrays.thumbnails[first:last].tobytes(), f"row {number} of {self.folder}")

    def require_checkpoint(self, digest: str) -> None:
        """Refuse a checkpoint that did not build this index: its embeddings would mean something else.

        Raises:
            ConfigError: `digest` is not that of the checkpoint.
        """
        built_by = self.facts.checkpoint
        if digest != built_by.digest:
            raise ConfigError(
                f"{self.folder} was built by another checkpoint: {built_by.location} with digest "
                f"{built_by.digest[:16]}…, got one with {digest[:16]}…; load that one, or build the index anew"
            )

    def _search(self, queries: npt.NDArray[np.float32], k: int, probes: int | None) -> list[list[Hit]]:
        arrays = self._arrays
        candidates = [nearest.Candidates(k, self.dimension) for _ in queries]
        if arrays.clusters is None:
            nearest.add_all(candidates, queries, arrays.embeddings)
        else:
            assert self.facts.clusters is not None
            wanted = self.facts.clusters.probes if probes is None else probes
            clusters.add_probed(candidates, queries, arrays.embeddings, arrays.clusters, (wanted, k))
        return [self._hits(one, query, k) for one, query in zip(candidates, queries, strict=True)]

    def _hits(self, candidates: nearest.Candidates, query: npt.NDArray[np.float32], k: int) -> list[Hit]:
        embeddings = self._arrays.embeddings
        positions, scores = candidates.best(lambda at: nearest.exact_scores(query, embeddings, at))
        rows = self._arrays.rows_at(positions)
        order = np.lexsort((rows, -scores))[:k]
        hits = []
        for number, score in zip(rows[order].tolist(), scores[order].tolist(), strict=True):
            row = self._read_row(number)
            hits.append(Hit(path=row.path, score=score, caption=row.caption, row=number))
        return hits

    def _check_row(self, number: int) -> None:
        if not 0 <= number < len(self):
            raise ClipmedError(f"row: got {number}; allowed: 0 to {len(self) - 1}")


def _row_at(folder: Path, arrays: files.IndexArrays, number: int) -> Row:
    first, last = arrays.row_offsets[number : number + 2].tolist()
    return row_of(arrays.rows[first:last].tobytes(), f"row {number} of {folder}")
