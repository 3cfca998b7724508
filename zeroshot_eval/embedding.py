"""One pass over the images that any task needs and one over the texts: cached, resumable, spread by the executor.

<cache>/images-<key of checkpoint, set, preprocessing>/part-00007.safetensors   a block's rows (n,), embeddings (n, D)
<cache>/texts-<key of checkpoint>.safetensors                                   digests (n, 32), embeddings (n, D)
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from clipmed.checkpoints import load_checkpoint
from clipmed.errors import DataError
from clipmed.jobs import JobsConfig, run_units
from clipmed.zeroshot import embed_images, embed_texts, eval_pixels
from shards.reader import ShardSet
from zeroshot_eval.cache import PREPROCESSING, CacheDamagedError, cache_key, read_arrays, write_arrays

if TYPE_CHECKING:
    import torch

    from clipmed.towers import TwoTower

BLOCK_ROWS = 4096  # rows of a part: what an interrupted run loses at most
BATCHES_AHEAD = 3

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """Which checkpoint embeds, where it runs and where its results are kept."""

    checkpoint: Path
    digest: str
    device: str
    batch_size: int
    cache: Path

    def image_folder(self, set_digest: str) -> Path:
        """Return the cache folder of a set's image embeddings."""
        return self.cache / f"images-{cache_key(self.digest, set_digest, PREPROCESSING)}"

    def text_file(self) -> Path:
        """Return the cache file of the text embeddings."""
        return self.cache / f"texts-{cache_key(self.digest, 'float32')}.safetensors"


@dataclass(frozen=True, slots=True)
class Part:
    """One unit of work: rows of a set to embed and to add to one part file."""

    embedder: Embedder
    set_location: str
    set_digest: str
    file: Path
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageEmbeddings:
    """Unit-length embeddings of some rows of one set; `rows` is sorted."""

    rows: Ints
    embeddings: Singles

    def of(self, rows: Sequence[int]) -> Singles:
        """Return the embeddings of these rows, shape (n, D), in their order."""
        found: Singles = self.embeddings[np.searchsorted(self.rows, np.asarray(rows, dtype=np.int64))]
        return found


def embed_sets(
    embedder: Embedder, locations: Sequence[str], wanted: Mapping[int, Sequence[int]], jobs: JobsConfig
) -> dict[int, ImageEmbeddings]:
    """Embed the wanted rows of every set, as far as the cache lacks them, and return them by set index.

    Raises:
        DataError: an image that does not decode, or a checkpoint that gives NaN.
    """
    digests = {index: ShardSet(locations[index]).digest for index in wanted}
    parts = [
        part
        for index, rows in wanted.items()
        for part in _missing_parts(embedder, locations[index], digests[index], sorted(set(rows)))
    ]
    total = sum(len(part.rows) for part in parts)
    if total:
        with tqdm(total=total, desc="embedding images", unit="image", file=sys.stderr) as bar:
            if jobs.executor == "inline":
                for part in parts:
                    embed_part(part, bar.update)
            else:
                for part, _ in run_units(embed_part, parts, jobs, "clipmed-embed"):
                    bar.update(len(part.rows))
    return {index: _collect(embedder, digests[index], rows) for index, rows in wanted.items()}


def embed_part(part: Part, progress: Progress | None = None) -> None:
    """Embed the rows of one part and add them to its file."""
    two_tower = _loaded(part.embedder)
    shard_set = _opened(part.set_location, part.set_digest)
    embedded = []
    for pixels in _pixel_batches(shard_set, part.rows, two_tower, part.embedder.batch_size):
        embedded.append(embed_images(two_tower, pixels).cpu().numpy())
        if progress is not None:
            progress(len(pixels))
    fresh = np.concatenate(embedded)
    _refuse_nan(fresh, f"images of {part.set_location}")
    rows = np.asarray(part.rows, dtype=np.int64)
    kept = _read_or_none(part.file)
    if kept is not None:
        rows, fresh = np.concatenate([kept["rows"], rows]), np.concatenate([kept["embeddings"], fresh])
    order = np.argsort(rows)
    write_arrays(part.file, {"rows": rows[order], "embeddings": fresh[order]})


def embed_unique_texts(embedder: Embedder, texts: Sequence[str]) -> dict[str, Singles]:
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
        two_tower = _loaded(embedder)
        step = embedder.batch_size
        for start in tqdm(range(0, len(missing), step), desc="embedding texts", unit="batch", file=sys.stderr):
            batch = missing[start : start + step]
            vectors = embed_texts(two_tower, [text for _, text in batch]).cpu().numpy()
            known.update(zip((digest for digest, _ in batch), vectors, strict=True))
        _refuse_nan(np.stack(list(known.values())), "texts")
        names = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 32)
        write_arrays(embedder.text_file(), {"digests": names, "embeddings": np.stack(list(known.values()))})
    return {text: known[digest] for text, digest in zip(unique, digests, strict=True)}


def _missing_parts(embedder: Embedder, set_location: str, set_digest: str, rows: Sequence[int]) -> Iterator[Part]:
    folder = embedder.image_folder(set_digest)
    blocks: dict[int, list[int]] = {}
    for row in rows:
        blocks.setdefault(row // BLOCK_ROWS, []).append(row)
    for block, wanted in blocks.items():
        file = folder / f"part-{block:05d}.safetensors"
        stored = _read_or_none(file)
        known = set() if stored is None else set(stored["rows"].tolist())
        if missing := tuple(row for row in wanted if row not in known):
            yield Part(embedder, set_location, set_digest, file, missing)


def _collect(embedder: Embedder, set_digest: str, rows: Sequence[int]) -> ImageEmbeddings:
    folder = embedder.image_folder(set_digest)
    blocks = sorted({row // BLOCK_ROWS for row in rows})
    stored = [read_arrays(folder / f"part-{block:05d}.safetensors") for block in blocks]
    present = [arrays for arrays in stored if arrays is not None]
    return ImageEmbeddings(
        np.concatenate([arrays["rows"] for arrays in present]),
        np.concatenate([arrays["embeddings"] for arrays in present]),
    )


def _read_or_none(path: Path) -> dict[str, npt.NDArray[np.generic]] | None:
    try:
        return read_arrays(path)
    except CacheDamagedError as error:
        print(f"embedding cache is damaged and is computed anew: {error}", file=sys.stderr)  # noqa: T201
        path.unlink()
        return None


def _pixel_batches(
    shard_set: ShardSet, rows: Sequence[int], two_tower: TwoTower, batch_size: int
) -> Iterator[torch.Tensor]:
    """Yield (n, 3, H, W) batches, decoded by threads a few batches ahead of the model."""
    import torch

    decode = partial(_pixels, shard_set, two_tower)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ahead = [[pool.submit(decode, row) for row in batch] for batch in batches[:BATCHES_AHEAD]]
        for number in range(len(batches)):
            yield torch.stack([future.result() for future in ahead.pop(0)])
            if number + BATCHES_AHEAD < len(batches):
                ahead.append([pool.submit(decode, row) for row in batches[number + BATCHES_AHEAD]])


def _pixels(shard_set: ShardSet, two_tower: TwoTower, row: int) -> torch.Tensor:
    encoded = shard_set.image_bytes(row)
    try:
        return eval_pixels(encoded, two_tower.image_size, two_tower.mean, two_tower.std)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        key = shard_set.record(row)["key"]
        raise DataError(f"image of sample {key} does not decode: {error}; run `python -m shards verify`") from error


def _refuse_nan(embeddings: Singles, what: str) -> None:
    bad = int((~np.isfinite(embeddings)).any(axis=1).sum())
    if bad:
        raise DataError(
            f"the checkpoint gives embeddings that are not finite for {bad} of {len(embeddings)} {what}; "
            "its weights are unusable: take an earlier checkpoint of the run"
        )


@lru_cache(maxsize=1)
def _loaded(embedder: Embedder) -> TwoTower:
    return load_checkpoint(embedder.checkpoint, embedder.device)


@lru_cache(maxsize=4)
def _opened(location: str, _digest: str) -> ShardSet:
    """Open a set once a process; the digest keeps a set that was packed anew from being mistaken for the old one."""
    return ShardSet(location)
