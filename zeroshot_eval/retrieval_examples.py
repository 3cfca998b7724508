"""Searches to look at: images with the captions found for them, and captions with the images, drawn by a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zeroshot_eval.pictures import Picture

QUERIES = 2  # of each direction, the same for every checkpoint
SHOWN = 5  # results of each query
LONGEST = 220  # characters of a caption

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Show = Callable[[str, str], Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What is searched: samples by key and source, and the distinct captions with those that each image carries.

    Attributes:
        keys, sources: of the n images.
        texts: the m distinct captions.
        text_of_image: the caption of each image that is asked, shape (n,).
    """

    keys: Sequence[str]
    sources: Sequence[str]
    texts: Sequence[str]
    text_of_image: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCaption:
    """A caption that was found, and whether it is a right one."""

    text: str
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPicture:
    """An image that was found, and whether it is a right one."""

    picture: Picture
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first results of one checkpoint, and the rank of the best right one."""

    checkpoint: int
    words: str
    captions: tuple[FoundCaption, ...] = ()
    pictures: tuple[FoundPicture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """An image or a caption that was searched with; the other of the two is what was sought."""

    direction: str
    picture: Picture | None
    caption: str
    answers: tuple[Found, ...]


def choose_queries(
    gallery: Gallery, images: Sequence[Singles], texts: Sequence[Singles], show: Show, seed: int
) -> list[Query]:
    """Return a few queries each way, drawn at random and not by how well they went.

    Args:
        gallery: what is searched.
        images: one a checkpoint, unit-length embeddings of the images, shape (n, D).
        texts: one a checkpoint, unit-length embeddings of the distinct captions, shape (m, D).
        show: gives the picture of (key, source).
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    places = sorted(rng.permutation(len(gallery.keys))[: 2 * QUERIES].tolist())
    by_image = [_by_image(gallery, place, images, texts, show) for place in places[::2]]
    return by_image + [_by_caption(gallery, place, images, texts, show) for place in places[1::2]]


def _by_image(gallery: Gallery, place: int, images: Sequence[Singles], texts: Sequence[Singles], show: Show) -> Query:
    right = np.arange(len(gallery.texts)) == gallery.text_of_image[place]
    answers = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        order, words = _search(text @ image[place], right)
        captions = tuple(FoundCaption(text=shortened(gallery.texts[at]), right=bool(right[at])) for at in order)
        answers.append(Found(checkpoint=number, words=words, captions=captions))
    picture = show(gallery.keys[place], gallery.sources[place])
    return Query(direction="image_to_text", picture=picture, caption="", answers=tuple(answers))


def _by_caption(gallery: Gallery, place: int, images: Sequence[Singles], texts: Sequence[Singles], show: Show) -> Query:
    sought = int(gallery.text_of_image[place])
    right = gallery.text_of_image == sought
    answers = []
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        order, words = _search(image @ text[sought], right)
        pictures = tuple(
            FoundPicture(picture=show(gallery.keys[at], gallery.sources[at]), right=bool(right[at])) for at in order
        )
        answers.append(Found(checkpoint=number, words=words, pictures=pictures))
    caption = shortened(gallery.texts[sought])
    return Query(direction="text_to_image", picture=None, caption=caption, answers=tuple(answers))


def _search(similarities: npt.NDArray[np.floating], right: npt.NDArray[np.bool_]) -> tuple[list[int], str]:
    """Return the places of the first results, and where the best right one stands, ties counted against it."""
    order = np.argsort(-similarities, kind="stable")[:SHOWN].tolist()
    best = similarities[right].max()
    rank = 1 + int(((similarities >= best) & ~right).sum())
    named = f"the best of {int(right.sum())} right ones" if right.sum() > 1 else "the right one"
    return order, f"{named} is number {rank:,} of {len(similarities):,}"


def shortened(text: str) -> str:
    """Return a caption cut at a word where it is long."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + " …"


def by_direction(queries: Sequence[Query]) -> Mapping[str, list[Query]]:
    """Return the queries of each direction."""
    found: dict[str, list[Query]] = {}
    for query in queries:
        found.setdefault(query.direction, []).append(query)
    return found
