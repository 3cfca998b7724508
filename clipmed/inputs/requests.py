"""What is asked of a model besides images: checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipmed.errors import ClipmedError
from clipmed.inputs import image_list

if TYPE_CHECKING:
    from clipmed.inputs import ImageLike


def check_batch_size(batch_size: int) -> None:
    """Raise ClipmedError where a batch would hold nothing."""
    if batch_size < 1:
        raise ClipmedError(f"batch_size: got {batch_size}; allowed: 1 or more")


def text_list(texts: str | Iterable[str]) -> list[str]:
    """Return one text or several as a list.

    Raises:
        ClipmedError: no texts, or one that is empty or no text.
    """
    many = [texts] if isinstance(texts, str) else list(texts)
    if not many or not all(isinstance(text, str) for text in many):
        raise ClipmedError(f"texts: got {many[:3]!r}; allowed: one text or a list of one or more")
    empty = next((place for place, text in enumerate(many) if not text.strip()), None)
    if empty is not None:
        raise ClipmedError(f"texts: number {empty + 1} of {len(many)} is {many[empty]!r}; allowed: texts with words")
    return many


def one_query(query: ImageLike | Iterable[ImageLike]) -> str | list[ImageLike]:
    """Return what an index is asked: a text, where it is a str, or a list of one image.

    Raises:
        ClipmedError: several queries, or a str that is the path of a file.
    """
    if isinstance(query, str):
        if os.path.isfile(query):  # noqa: PTH113 (to which a long text is no error)
            raise ClipmedError(f"query: {query!r} is a file, and a str is a text; give Path({query!r}) for the image")
        return query
    many = image_list(query)
    if len(many) > 1:
        raise ClipmedError(
            f"query: got {len(many)}; allowed: one; for several, index.search(model.embed_images(images), k) or "
            "index.search(model.embed_texts(texts), k)"
        )
    return many
