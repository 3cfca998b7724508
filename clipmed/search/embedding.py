"""Image files embedded in batches, with their thumbnails; files that are no image are put aside with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clipmed.errors import ImageError
from clipmed.files import FileStamp, sha256_file
from clipmed.inputs import open_image
from clipmed.inputs.batches import batches
from clipmed.search.parts import Part
from clipmed.search.rows import Reject, Row
from clipmed.search.thumbnails import thumbnail

if TYPE_CHECKING:
    import torch

    from clipmed.api import ClipModel
    from clipmed.inputs import ImageLike

MAX_REASON = 1000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An image that is decoded and scaled for the image tower."""

    row: Row
    pixels: torch.Tensor
    """(3, H, W)"""
    thumbnail: bytes | None


def embed_files(model: ClipModel, stamps: Sequence[FileStamp], *, batch_size: int, thumbnails: bool) -> Iterator[Part]:
    """Yield the rows and rejects of every batch of files, in their order; the next batches are decoded meanwhile."""
    by_path = {stamp.path: stamp for stamp in stamps}

    def prepare(path: ImageLike) -> Prepared | Reject:
        return _prepared(model, thumbnails, by_path[str(path)])

    for _, done in batches(by_path, prepare, batch_size):
        yield _embedded(model, done)


def _embedded(model: ClipModel, done: Sequence[Prepared | Reject]) -> Part:
    ready = [item for item in done if isinstance(item, Prepared)]
    embeddings: npt.NDArray[np.float32] = np.empty((0, model.embed_dim), dtype=np.float32)
    if ready:
        import torch

        embeddings = model.embed_pixels(torch.stack([item.pixels for item in ready])).numpy()
    return Part(
        rows=[item.row for item in ready],
        rejects=[item for item in done if isinstance(item, Reject)],
        embeddings=embeddings,
        thumbnails=[item.thumbnail for item in ready if item.thumbnail is not None],
    )


def _prepared(model: ClipModel, thumbnails: bool, stamp: FileStamp) -> Prepared | Reject:
    path = Path(stamp.path)
    try:
        image = open_image(path)
        sha256 = sha256_file(path)
    except (ImageError, OSError) as error:
        return Reject(path=stamp.path, bytes=stamp.bytes, mtime_ns=stamp.mtime_ns, reason=str(error)[:MAX_REASON])
    row = Row(path=stamp.path, caption=None, bytes=stamp.bytes, mtime_ns=stamp.mtime_ns, sha256=sha256)
    return Prepared(row=row, pixels=model.pixels(image), thumbnail=thumbnail(image) if thumbnails else None)
