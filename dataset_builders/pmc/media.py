"""Which file of an article a figure's reference means."""

from __future__ import annotations

import posixpath
from collections.abc import Collection

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage

# In order of preference: as published, lossless, and last the format that archives use for thumbnails.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_OTHER_PICTURES = (".eps", ".svg", ".pdf", ".emf", ".wmf", ".ppt", ".pptx", ".mp4", ".mov", ".avi", ".mpg", ".mpeg")
_THUMBNAIL_MARKS = (".thumb", "-thumb", "_thumb", ".tn", "_tn")


def find_media(href: str, names: Collection[str]) -> str:
    """Return the name of the file that a reference means.

    A reference may be a full name or lack its suffix, differ in case, carry folders, or name the format that the
    publisher had before the archive converted it. Pictures come before thumbnails and GIFs of the same stem.

    Raises:
        ItemRejectedError: media_missing, or image_unsupported where only a file that is no image fits.
    """
    wanted = posixpath.basename(href.replace("\\", "/").partition("?")[0])
    stem = _stem(wanted)
    fitting = [name for name in names if stem in {_stem(name), _full_stem(name)}] if stem else []
    images = [name for name in fitting if _suffix(name) in IMAGE_SUFFIXES]
    if images:
        return min(images, key=lambda name: _preference(name, wanted))
    if fitting or wanted in names:
        detail = f"{href!r} means {sorted(fitting)[:1] or wanted}, which is not an image"
        raise ItemRejectedError(Stage.IMAGE, RejectReason.IMAGE_UNSUPPORTED, detail)
    raise ItemRejectedError(Stage.SOURCE, RejectReason.MEDIA_MISSING, f"no file for {href!r}")


def is_media(name: str) -> bool:
    """Whether a file may be what a figure shows, readable or not."""
    return _suffix(name) in IMAGE_SUFFIXES


def _preference(name: str, wanted: str) -> tuple[bool, bool, int, str]:
    suffix = _suffix(name)
    lesser = suffix == ".gif" or _is_thumbnail(name)
    return lesser, name.lower() != wanted.lower(), IMAGE_SUFFIXES.index(suffix), name


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _stem(name: str) -> str:
    """The lower-case name without the suffix of a picture; other dots belong to the name."""
    lowered = name.lower()
    suffix = _suffix(lowered)
    return lowered.removesuffix(suffix) if suffix in IMAGE_SUFFIXES + _OTHER_PICTURES else lowered


def _full_stem(name: str) -> str:
    """The stem of the picture that a thumbnail's name stands for."""
    stem = _stem(name)
    mark = next((mark for mark in _THUMBNAIL_MARKS if stem.endswith(mark)), "")
    return stem.removesuffix(mark)


def _is_thumbnail(name: str) -> bool:
    return _stem(name).endswith(_THUMBNAIL_MARKS)
