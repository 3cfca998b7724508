"""Where images lie, behind one interface: shard sets, folders of classes, tables, CLIP_benchmark's WebDatasets.

A collection numbers its images by row, and says of each row what is known: labels, captions, group, facts. Two digests
identify it: that of the images alone, which names their embeddings, and that of all that is known of them, which names
the data of a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipmed.errors import DataError
from clipmed.records import Modality, Split
from shards.manifest import MANIFEST
from zeroshot_eval.selection import Item
from zeroshot_eval.suite import MIXED


@dataclass(frozen=True, slots=True)
class LabelTask:
    """A label task as a collection knows it: its classes by id with their names, and how they are asked if it says."""

    classes: Mapping[str, str]
    modality: str = MIXED
    multi_label: bool = False
    templates: tuple[str, ...] = ()
    """sentences with one {}, which the data bring along"""


class Collection(Protocol):
    """Images with what is known of them; safe in threads."""

    @property
    def location(self) -> str:
        """Where the collection lies."""

    @property
    def digest(self) -> str:
        """The digest of the images and of all that is known of them."""

    @property
    def image_digest(self) -> str:
        """The digest of the images and their rows alone."""

    @property
    def tasks(self) -> Mapping[str, LabelTask]:
        """The label tasks by name."""

    @property
    def attrition(self) -> list[dict[str, Any]]:
        """Rows {source, stage, reason, count} of what was dropped; empty where nothing was, or nobody counted."""

    def __len__(self) -> int:
        """Return the number of images over all splits."""

    def items(self, split: str, set_index: int) -> list[Item]:
        """Return what is known of the images of a split, by ascending row."""

    def image_bytes(self, row: int) -> bytes:
        """Return an image's encoded bytes."""

    def key(self, row: int) -> str:
        """Return an image's name, for messages."""


def open_collection(location: str | Path, cache: Path | None = None) -> Collection:
    """Open what lies at a location.

    Args:
        location: a shard set (folder or URL), a folder in CLIP_benchmark's layout (test/0.tar, nshards.txt …), a
            folder with one folder a class, below folders of splits or not, or a .csv, .tsv or .parquet table with a
            column `path`.
        cache: folder where the digests of local files are kept, so that unchanged files are not read again.

    Raises:
        DataError: nothing there that can be read as one of these.
    """
    text = str(location)
    path = Path(text)
    if _is_url(text) or (path.is_dir() and (path / MANIFEST).is_file()):
        from zeroshot_eval.shard_collections import ShardCollection  # its reader takes a tenth of a warm run to import

        return ShardCollection(text)
    from zeroshot_eval import file_collections, webdatasets

    if path.is_file() and path.suffix in file_collections.TABLE_SUFFIXES:
        return file_collections.open_table(path, cache)
    if path.is_dir() and webdatasets.is_webdataset(path):
        return webdatasets.open_webdataset(path, cache)
    if path.is_dir():
        return file_collections.open_folder(path, cache)
    raise DataError(
        f"no images at {text}; allowed: a shard set (folder or URL), a folder in CLIP_benchmark's layout, a folder "
        f"with one folder a class, or a table ({', '.join(sorted(file_collections.TABLE_SUFFIXES))}) with a column path"
    )


def modality_of(written: str, where: str) -> str:
    """Return a modality that a table names, or `other` where it names none.

    Raises:
        DataError: no such modality.
    """
    if not written:
        return str(Modality.OTHER)
    if written not in tuple(map(str, Modality)):
        raise DataError(f"{where}: modality {written!r}; allowed: {', '.join(map(str, Modality))}")
    return written


def split_of(written: str) -> str | None:
    """Return the split that a name of a folder or a cell means, or None."""
    name = written.strip().casefold()
    if name in {"val", "valid", "validation", "dev"}:
        return str(Split.VAL)
    if name in {"train", "training"}:
        return str(Split.TRAIN)
    return str(Split.TEST) if name in {"test", "testing"} else None


def _is_url(text: str) -> bool:
    if "://" not in text:
        return False
    from shards.storage import is_url

    return is_url(text)
