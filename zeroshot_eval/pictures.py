"""The images of a report: found again by key in the data that were scored, small, and only those that may be shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from clipmed.errors import ClipmedError
from zeroshot_eval.collections import Collection
from zeroshot_eval.selection import Item

THUMBNAIL_SIDE = 128
QUALITY = 72


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a gallery: a data URI, or why there is none."""

    key: str
    source: str
    uri: str | None
    withheld: str = ""


class Pictures:
    """Finds samples by key in collections, and shows those of the sources that may be shown."""

    def __init__(
        self, collections: Sequence[Collection], splits: Sequence[str], sources: Names[str] | None = None
    ) -> None:
        """Read what is known of the images.

        Args:
            collections: where the images lie; an earlier one holds a key that comes twice.
            splits: the splits that were scored.
            sources: the sources whose images and captions may be shown; all if None.
        """
        self.sources = None if sources is None else frozenset(sources)
        self._collections = tuple(collections)
        self._items: dict[str, Item] = {}
        for set_index, collection in enumerate(collections):
            for split in splits:
                for item in collection.items(split, set_index):
                    self._items.setdefault(item.key, item)

    def may_show(self, source: str) -> bool:
        """Return whether images and captions of a source may be shown."""
        return self.sources is None or source in self.sources

    def item(self, key: str) -> Item | None:
        """Return what is known of a sample, or None where the collections do not hold it."""
        return self._items.get(key)

    def __call__(self, key: str, source: str) -> Picture:
        """Return a sample's picture; one that cannot or may not be shown says why."""
        if not self.may_show(source):
            return Picture(key, source, None, "image left out of this page")
        item = self._items.get(key)
        if item is None:
            return Picture(key, source, None, "not in the data at hand")
        try:
            return Picture(key, source, thumbnail(self._collections[item.set_index].image_bytes(item.row)))
        except (ClipmedError, OSError) as error:
            return Picture(key, source, None, f"not readable: {error}"[:120])


def thumbnail(image_bytes: bytes) -> str:
    """Return a small JPEG of an image as a data URI."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
