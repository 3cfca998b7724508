"""One pass over the images that any task needs and one over the texts: cached, resumable, spread by the executor.

<cache>/images-<key of checkpoint, data, preprocessing, dtype>/part-00007.safetensors  rows (n,), embeddings (n, D)
<cache>/texts-<key of checkpoint, tokenization, dtype>.safetensors  digests (n, 32), embeddings (n, D)

Checkpoints that see images alike share the decoded images: each image is decoded once for all of them.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clipmed.devices import DType
from clipmed.errors import DataError
from clipmed.jobs import JobsConfig, run_units
from zeroshot_eval.cache import CacheDamagedError, cache_key, read_arrays, write_arrays
from zeroshot_eval.collections import open_collection
from zeroshot_eval.encoders import Encoder, EncoderFacts, open_encoder

if TYPE_CHECKING:
    import torch

BLOCK_ROWS = 4096  # rows of a part: what an interrupted run loses at most
BATCHES_AHEAD = 3
MODELS_AT_ONCE = 4  # checkpoints that are held in memory together

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int], object]


class Images(Protocol):
    """Images by row."""

    @property
    def image_digest(self) -> str:
        """The digest of the images and their rows."""

    def image_bytes(self, row: int) -> bytes:
        """Return an image's encoded bytes."""

    def key(self, row: int) -> str:
        """Return an image's name, for messages."""


class Place(Protocol):
    """Where images lie, as plain data that goes to other processes; hashable."""

    def __hash__(self) -> int:
        """Return the hash of the place's data."""

    def open(self) -> Images:
        """Open the images."""


@dataclass(frozen=True, slots=True)
class CollectionPlace:
    """The images of a collection."""

    location: str
    cache: Path | None = None

    def open(self) -> Images:
        """Open the collection."""
        return open_collection(self.location, self.cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """Which checkpoint embeds, where it runs and where its results are kept."""

    location: str
    facts: EncoderFacts
    device: str
    dtype: DType
    batch_size: int
    cache: Path

    def image_folder(self, image_digest: str) -> Path:
        """Return the cache folder of the embeddings of a collection's images."""
        return self.cache / f"images-{cache_key(self.facts.digest, image_digest, self.facts.preprocessing, self.dtype)}"

    def text_file(self) -> Path:
        """Return the cache file of the text embeddings."""
        key = cache_key(self.facts.digest, self.facts.tokenization, self.dtype)
        return self.cache / f"texts-{key}.safetensors"


@dataclass(frozen=True, slots=True)
class Part:
    """One unit of work: rows of one place to embed for some checkpoints, and the part file of each."""

    embedders: tuple[Embedder, ...]
    place: Place
    image_digest: str
    block: int
    rows: tuple[int, ...]

    def file(self, embedder: Embedder) -> Path:
        """Return the part file of a checkpoint."""
        return _part_file(embedder, self.image_digest, self.block)


@dataclass(frozen=True, slots=True)
class ImageEmbeddings:
    """Unit-length embeddings of some rows of one collection; `rows` is sorted."""

    rows: Ints
    embeddings: Singles

    def of(self, rows: Sequence[int]) -> Singles:
        """Return the embeddings of these rows, shape (n, D), in their order."""
        found: Singles = self.embeddings[np.searchsorted(self.rows, np.asarray(rows, dtype=np.int64))]
        return found


def embed_images(
    embedders: Sequence[Embedder], wanted: Mapping[tuple[Place, str], Sequence[int]], jobs: JobsConfig
) -> None:
    """Embed the wanted rows of every place for every checkpoint, as far as the cache lacks them.

    Args:
        embedders: the checkpoints.
        wanted: rows by (place, digest of its images).
        jobs: where the work runs.

    Raises:
        DataError: an image that does not decode, or a checkpoint that gives NaN.
    """
    parts = [
        part
        for (place, digest), rows in wanted.items()
        for part in _missing_parts(embedders, place, digest, sorted(set(rows)))
    ]
    total = sum(len(part.rows) * len(part.embedders) for part in parts)
    if not total:
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="embedding images", unit="image", file=sys.stderr) as bar:
        if jobs.executor == "inline":
            for part in parts:
                embed_part(part, bar.update)
        else:
            for part, _ in run_units(embed_part, parts, jobs, "clipmed-embed"):
                bar.update(len(part.rows) * len(part.embedders))


def embed_part(part: Part, progress: Progress | None = None) -> None:
    """Embed the rows of one part for each of its checkpoints and add them to their files."""
    encoders = [_loaded(embedder) for embedder in part.embedders]
    images = _opened(part.place, part.image_digest)
    embedded: list[list[Singles]] = [[] for _ in encoders]
    for pixels in _pixel_batches(images, part.rows, encoders[0], part.embedders[0].batch_size):
        for encoder, found in zip(encoders, embedded, strict=True):
            found.append(encoder.embed_images(pixels).cpu().numpy())
        if progress is not None:
            progress(len(pixels) * len(encoders))
    for embedder, found in zip(part.embedders, embedded, strict=True):
        fresh = np.concatenate(found)
        _refuse_nan(fresh, embedder, "images")
        _add_rows(part.file(embedder), np.asarray(part.rows, dtype=np.int64), fresh)


def stored_images(embedder: Embedder, image_digest: str, rows: Sequence[int]) -> ImageEmbeddings:
    """Return the embeddings of these rows from the cache, where `embed_images` has put them."""
    blocks = sorted({row // BLOCK_ROWS for row in rows})
    stored = [read_arrays(_part_file(embedder, image_digest, block)) for block in blocks]
    present = [arrays for arrays in stored if arrays is not None]
    return ImageEmbeddings(
        np.concatenate([arrays["rows"] for arrays in present]),
        np.concatenate([arrays["embeddings"] for arrays in present]),
    )


def embed_texts(embedder: Embedder, texts: Sequence[str]) -> dict[str, Singles]:
    """Return the unit-length embedding (D,) of every distinct text, computing what the cache lacks."""
    unique = sorted(set(texts))
    digests = [hashlib.sha256(text.encode()).digest() for text in unique]
    stored = _read_or_none(embedder.text_file())
    known = (
        {}
        if stored is None
        else {bytes(row): vector for row, vector in zip(stored["digests"], stored["embeddings"], strict=True)}
    )
    missing = [(digest, text) for digest, text in zip(digests, unique, strict=True) if digest not in known]
    if missing:
        encoder = _loaded(embedder)
        step = embedder.batch_size
        from tqdm import tqdm

        with tqdm(total=len(missing), desc="embedding texts", unit="text", file=sys.stderr) as bar:
            for start in range(0, len(missing), step):
                batch = missing[start : start + step]
                vectors = encoder.embed_texts([text for _, text in batch]).cpu().numpy()
                _refuse_nan(vectors, embedder, "texts")
                known.update(zip((digest for digest, _ in batch), vectors, strict=True))
                bar.update(len(batch))
        names = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 32)
        write_arrays(embedder.text_file(), {"digests": names, "embeddings": np.stack(list(known.values()))})
    return {text: known[digest] for text, digest in zip(unique, digests, strict=True)}


def _missing_parts(
    embedders: Sequence[Embedder], place: Place, image_digest: str, rows: Sequence[int]
) -> Iterator[Part]:
    """Yield parts of checkpoints that see images alike and lack the same rows."""
    blocks: dict[int, list[int]] = {}
    for row in rows:
        blocks.setdefault(row // BLOCK_ROWS, []).append(row)
    for block, wanted in blocks.items():
        together: dict[tuple[str, tuple[int, ...]], list[Embedder]] = {}
        for embedder in embedders:
            stored = _read_or_none(_part_file(embedder, image_digest, block))
            known = set() if stored is None else set(stored["rows"].tolist())
            if missing := tuple(row for row in wanted if row not in known):
                together.setdefault((embedder.facts.preprocessing, missing), []).append(embedder)
        for (_, missing), many in together.items():
            for start in range(0, len(many), MODELS_AT_ONCE):
                yield Part(tuple(many[start : start + MODELS_AT_ONCE]), place, image_digest, block, missing)


def _part_file(embedder: Embedder, image_digest: str, block: int) -> Path:
    return embedder.image_folder(image_digest) / f"part-{block:05d}.safetensors"


def _add_rows(file: Path, rows: Ints, fresh: Singles) -> None:
    kept = _read_or_none(file)
    if kept is not None:
        rows, fresh = np.concatenate([kept["rows"], rows]), np.concatenate([kept["embeddings"], fresh])
    order = np.argsort(rows)
    write_arrays(file, {"rows": rows[order], "embeddings": fresh[order]})


def _read_or_none(path: Path) -> dict[str, npt.NDArray[np.generic]] | None:
    try:
        return read_arrays(path)
    except CacheDamagedError as error:
        print(f"embedding cache is damaged and is computed anew: {error}", file=sys.stderr)  # noqa: T201
        path.unlink()
        return None


def _pixel_batches(images: Images, rows: Sequence[int], encoder: Encoder, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches of what the image tower takes, decoded by threads a few batches ahead of the model."""
    import torch

    decode = partial(_pixels, images, encoder)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ahead = [[pool.submit(decode, row) for row in batch] for batch in batches[:BATCHES_AHEAD]]
        for number in range(len(batches)):
            yield torch.stack([future.result() for future in ahead.pop(0)])
            if number + BATCHES_AHEAD < len(batches):
                ahead.append([pool.submit(decode, row) for row in batches[number + BATCHES_AHEAD]])


def _pixels(images: Images, encoder: Encoder, row: int) -> torch.Tensor:
    encoded = images.image_bytes(row)
    try:
        return encoder.pixels(encoded)
    except DataError as error:
        raise DataError(
            f"image {images.key(row)}: {error}; mend it or take it out (`python -m shards verify` checks a packed set)"
        ) from error


def _refuse_nan(embeddings: Singles, embedder: Embedder, what: str) -> None:
    bad = int((~np.isfinite(embeddings)).any(axis=1).sum())
    if bad:
        raise DataError(
            f"the checkpoint {embedder.facts.name} gives embeddings that are not finite for {bad} of {len(embeddings)} "
            f"{what}; its weights are unusable: take an earlier checkpoint of the run"
        )


@lru_cache(maxsize=MODELS_AT_ONCE)
def _loaded(embedder: Embedder) -> Encoder:
    return open_encoder(embedder.location, embedder.device, embedder.dtype)


@lru_cache(maxsize=4)
def _opened(place: Place, _digest: str) -> Images:
    """Open images once a process; the digest keeps what was changed from being mistaken for the old."""
    return place.open()
