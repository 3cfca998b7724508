"""Which evaluation images show the same picture as a training image: close hashes, then the pixels of both.

A training set's index holds a hash of every whole picture, so that only candidates are decoded. An evaluation image
inside an even border is found by its inside too; a training image that frames the evaluation image is found only if
all training images are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from clipmed.errors import DataError, ItemRejectedError
from clipmed.images import ImageConfig, ingest_image
from shards.pictures import Views, correlation, grey_image, views_of
from shards.randomness import U64
from shards.reader import ShardSet
from shards.search import near_pairs

Ints = npt.NDArray[np.int64]

THREADS = 4
KEPT_VIEWS = 16_384  # training pictures kept in memory: 8 KB each
_ANY_IMAGE = ImageConfig(min_side=1, max_aspect=1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An evaluation image: the digests of its bytes as they came and as a training set would store them, its views."""

    sha256: tuple[str, ...]
    views: Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What counts as the same picture."""

    bits: int
    """most differing bits of hashes of images that are compared by their pixels, 0 to 8"""
    correlation: float
    """least correlation of the local detail of two images of the same picture"""
    decode_all: bool = False
    """decode every training image and hash its inside too"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamePicture:
    """A training image, by its row, that shows the picture of an evaluation image."""

    row: int
    bits: int
    """differing bits of the closest hashes"""
    correlation: float


def picture_of(data: bytes) -> Picture | None:
    """Return what tells an encoded image apart, or None where it does not decode."""
    try:
        stored = ingest_image(data, _ANY_IMAGE)
        digests = (hashlib.sha256(data).hexdigest(), stored.sha256)
        return Picture(sha256=digests, views=views_of(grey_image(stored.jpeg)))
    except ItemRejectedError:
        return None


def pictures_of(images: Iterable[tuple[str, Callable[[], bytes]]], total: int) -> dict[str, Picture | None]:
    """Return the pictures of images {key: …}, None where one does not decode; with a progress bar."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda image: (image[0], picture_of(image[1]())), images)
        return dict(tqdm(found, "evaluation images", total, delay=2))


def same_pictures(
    pictures: Mapping[str, Picture],
    training: ShardSet,
    rows: Ints,
    likeness: Likeness,
) -> dict[str, SamePicture]:
    """Return for each evaluation image whose picture is in a training set, the closest such training image.

    Args:
        pictures: the evaluation images, by key.
        training: a packed set.
        rows: its rows that count.
        likeness: what counts as the same picture.
    """
    keys = list(pictures)
    ours = [(at, value) for at, key in enumerate(keys) for value in pictures[key].views.hashes]
    theirs = _decoded(training, rows) if likeness.decode_all else _stored(training, rows)
    if not ours or not theirs[0].size:
        return {}
    hashes = np.concatenate([np.asarray([value for _, value in ours], dtype=np.uint64), theirs[0]])
    side = np.arange(len(hashes)) < len(ours)
    ends = near_pairs(hashes, likeness.bits, side)  # smaller row first: an evaluation image's
    distance = np.bitwise_count(hashes[ends[0]] ^ hashes[ends[1]]).astype(np.int64)
    owner = np.asarray([at for at, _ in ours])[ends[0]]
    candidates: dict[int, list[tuple[int, int]]] = {}
    for at, row, far in zip(owner.tolist(), theirs[1][ends[1] - len(ours)].tolist(), distance.tolist(), strict=True):
        candidates.setdefault(at, []).append((far, row))
    views = _training_views(training)
    found: dict[str, SamePicture] = {}
    for at, many in tqdm(sorted(candidates.items()), "comparing pictures", delay=2):
        one = _first_same(pictures[keys[at]].views, sorted(set(many)), views, likeness.correlation)
        if one is not None:
            found[keys[at]] = one
    return found


def _first_same(
    views: Views, candidates: Sequence[tuple[int, int]], training: Callable[[int], Views | None], least: float
) -> SamePicture | None:
    for bits, row in candidates:
        other = training(row)
        if other is not None and (value := correlation(views, other)) >= least:
            return SamePicture(row=row, bits=bits, correlation=value)
    return None


def _training_views(training: ShardSet) -> Callable[[int], Views | None]:
    @lru_cache(maxsize=KEPT_VIEWS)
    def views(row: int) -> Views | None:
        try:
            return views_of(grey_image(training.image_bytes(row)))
        except ItemRejectedError:
            return None

    return views


def _stored(training: ShardSet, rows: Ints) -> tuple[U64, Ints]:
    """Return the hashes in a set's index and the row of each, one of every distinct image."""
    digests = np.asarray(training.arrow_column("sha256").take(rows).to_pylist(), dtype=object)
    _, first = np.unique(digests.astype(str), return_index=True)
    kept = rows[np.sort(first)]
    words = training.arrow_column("phash").take(kept).to_pylist()
    try:
        return np.asarray([int(word, 16) for word in words], dtype=np.uint64), kept
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{training.location}: a perceptual hash is no 64-bit number: {error}; pack it again"
        ) from error


def _decoded(training: ShardSet, rows: Ints) -> tuple[U64, Ints]:
    """Return the hashes of every view of every image, and the row of each."""
    views = _training_views(training)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(tqdm(pool.map(views, rows.tolist()), "training images", len(rows), delay=2))
    hashed = [(value, row) for one, row in zip(found, rows.tolist(), strict=True) if one for value in one.hashes]
    return np.asarray([value for value, _ in hashed], dtype=np.uint64), np.asarray([row for _, row in hashed], np.int64)
