"""Embeddings that `benchmarks.search` searches, and our indexes of them; made once and kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clipmed.files import atomic_folder, write_json
from clipmed.search import layout
from clipmed.search.choices import KindChoice
from clipmed.search.clustering import Clustering, choose_clusters
from clipmed.search.layout import IndexFacts
from clipmed.search.rows import Row
from clipmed.search.stock import Place
from clipmed.search.writing import IndexWriter

FOLDER = Path("build/benchmarks/search")
DIMENSION, TOPICS, QUERIES = 512, 4000, 256
CHUNK = 20_000
RECALL = 0.95

Singles = npt.NDArray[np.float32]


class Drawn:
    """Unit vectors around topics, in a cone: images in one, texts in another.

    Two images have a cosine of about 0.4, two of one topic 0.8; an image and its text about 0.3: as with CLIP models.
    """

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.topics = _unit(generator.standard_normal((TOPICS, DIMENSION), dtype=np.float32))
        self.cones = _unit(generator.standard_normal((2, DIMENSION), dtype=np.float32))

    def images(self, seed: int, count: int) -> Singles:
        """Return embeddings of images, shape (count, D)."""
        return self._around(seed, count, self.cones[0])

    def texts(self, seed: int, count: int) -> Singles:
        """Return embeddings of texts, shape (count, D)."""
        return self._around(seed, count, 0.4 * self.cones[0] + 0.9 * self.cones[1])

    def _around(self, seed: int, count: int, cone: Singles) -> Singles:
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((count, DIMENSION), dtype=np.float32) / float(np.sqrt(DIMENSION))
        return _unit(cone + self.topics[generator.integers(TOPICS, size=count)] + 0.7 * noise)


def queries_of(drawn: Drawn) -> tuple[Singles, Singles]:
    """Return held-out images and texts, each (256, D)."""
    return drawn.images(1_000_001, QUERIES), drawn.texts(1_000_002, QUERIES)


def index_folder(rows: int, kind: KindChoice) -> Path:
    """Return the folder of an index of so many images, made when it is not there."""
    folder = FOLDER / f"{kind}-{rows}"
    if not (folder / layout.INDEX_FILE).is_file():
        _write(folder, rows, kind)
    return folder


class _Chunks:
    """Images in the order of their rows, drawn some thousands at a time."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._chunk, self._seed = np.empty((0, DIMENSION), dtype=np.float32), -1

    def embeddings(self, positions: Sequence[int]) -> Singles:
        """Return embeddings of neighbouring rows."""
        parts = []
        for seed in range(positions[0] // CHUNK, positions[-1] // CHUNK + 1):
            if seed != self._seed:
                self._chunk, self._seed = self._drawn.images(seed, CHUNK), seed
            inside = [position - seed * CHUNK for position in positions if position // CHUNK == seed]
            parts.append(self._chunk[inside])
        return np.concatenate(parts)


def _write(folder: Path, rows: int, kind: KindChoice) -> None:
    drawn = Drawn()
    with atomic_folder(folder) as partial:
        writer = IndexWriter(partial)
        names = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(rows))
        writer.write_rows(
            [
                Row(path=f"images/{number:07d}.jpg", caption=None, bytes=1, mtime_ns=0, sha256=name)
                for number, name in enumerate(names)
            ],
            [],
        )
        writer.write_embeddings([Place(0, number) for number in range(rows)], [_Chunks(drawn)], "float32")
        embeddings = writer.embeddings(DIMENSION, "float32")
        begin = time.perf_counter()
        texts = torch.from_numpy(drawn.texts(1_000_003, 200))
        found = choose_clusters(embeddings, ["text"] * 200, lambda _: texts, Clustering(kind, RECALL))
        if found is not None:
            writer.order_by_cluster(embeddings, found[0])
        seconds = time.perf_counter() - begin
        writer.write_facts(
            IndexFacts(
                format=layout.FORMAT,
                version=layout.VERSION,
                created_by="benchmarks.search",
                checkpoint=layout.Source(location="none", digest="none"),
                computed_in="float32",
                kind="exact" if found is None else "clustered",
                dtype="float32",
                dimension=DIMENSION,
                rows=rows,
                rejected=0,
                captions=0,
                captions_without_image=0,
                clusters=None if found is None else found[1],
                files=writer.files,
            )
        )
    write_json(folder.with_suffix(".json"), {"cluster_s": seconds})


def _unit(rows: Singles) -> Singles:
    lengths: Singles = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths
