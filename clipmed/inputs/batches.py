"""Many images to batches of pixels, decoded by threads while the model is busy with a batch before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from clipmed.errors import ImageError
from clipmed.inputs import SkippedImage, shown

if TYPE_CHECKING:
    from clipmed.inputs import ImageLike

T = TypeVar("T")

MAX_THREADS = 16
_BATCHES_AHEAD = 2


def batches(
    images: Iterable[ImageLike],
    prepare: Callable[[ImageLike], T],
    batch_size: int,
    skipped: list[SkippedImage] | None = None,
) -> Iterator[tuple[list[int], list[T]]]:
    """Yield what `prepare` makes of images, `batch_size` of them at a time: their places from 0, and the results.

    All batches but the last hold `batch_size` results, whatever is skipped; they are in the order of the images.

    Args:
        images: taken up to two batches ahead of the one that is yielded.
        prepare: called in as many threads as there are processors, 16 at most; raises ImageError for an image that
            cannot be used.
        batch_size: 1 or more.
        skipped: where images that cannot be used are listed; without it, the first one's error is raised.

    Raises:
        ImageError: an image that cannot be used, without `skipped`. Whatever else `prepare` raises ends it too.
    """
    positions: list[int] = []
    results: list[T] = []
    for position, image, outcome in _outcomes(images, prepare, batch_size * _BATCHES_AHEAD):
        try:
            results.append(outcome())
            positions.append(position)
        except ImageError as error:
            if skipped is None:
                raise
            skipped.append(SkippedImage(position, shown(image), str(error)))
        if len(results) == batch_size:
            yield positions, results
            positions, results = [], []
    if results:
        yield positions, results


def _outcomes(
    images: Iterable[ImageLike], prepare: Callable[[ImageLike], T], ahead: int
) -> Iterator[tuple[int, ImageLike, Callable[[], T]]]:
    """Yield each image's place, the image, and what returns its result or raises its error."""
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), "clipmed-images")
    waiting: deque[tuple[int, ImageLike, Future[T]]] = deque()
    try:
        for position, image in enumerate(images):
            waiting.append((position, image, pool.submit(prepare, image)))
            if len(waiting) >= ahead:
                first, its_image, future = waiting.popleft()
                yield first, its_image, future.result
        while waiting:
            first, its_image, future = waiting.popleft()
            yield first, its_image, future.result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
