"""Searches to look at: images with the captions found for them, and captions with the images, drawn by a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zeroshot_eval.pictures import Picture

QUERIES = 2  # of each direction, the same for every checkpoint
SHOWN = 5  # results of each query
WITHHELD = "(caption left out of this page)"
LONGEST = 220  # characters of a caption

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Show = Callable[[str, str], Picture]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """What is searched: n images and m distinct captions, and which image carries which.

    Attributes:
        keys, sources: of the images.
        texts: the distinct captions.
        images, captions: places of the two of each pair, both of shape (pairs,).
        parts: the part of each image that it is searched in, such as its modality; one part if empty.
        shown: whether an image and its captions may be shown; all may if empty.
    """

    keys: Sequence[str]
    sources: Sequence[str]
    texts: Sequence[str]
    images: Ints
    captions: Ints
    parts: Sequence[str] = ()
    shown: Sequence[bool] = ()

    @property
    def askable(self) -> Ints:
        """The pairs that may be queries: those that may be shown."""
        if not self.shown:
            return np.arange(len(self.images))
        return np.flatnonzero(np.asarray(self.shown, dtype=bool)[self.images])

    def text(self, caption: int) -> str:
        """Return a caption as it is shown."""
        owners = self.images[self.captions == caption]
        if self.shown and not any(self.shown[owner] for owner in owners):
            return WITHHELD
        return shortened(self.texts[caption])

    def searched(self, image: int) -> tuple[Ints, Ints]:
        """Return the images that are searched together with this one, and their captions."""
        if not self.parts:
            return np.arange(len(self.keys)), np.arange(len(self.texts))
        inside = np.asarray([part == self.parts[image] for part in self.parts])
        return np.flatnonzero(inside), np.unique(self.captions[inside[self.images]])


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
    pairs = sorted(rng.permutation(gallery.askable)[: 2 * QUERIES].tolist())
    by_image = [_by_image(gallery, int(gallery.images[at]), images, texts, show) for at in pairs[::2]]
    return by_image + [_by_caption(gallery, at, images, texts, show) for at in pairs[1::2]]


def _by_image(gallery: Gallery, image: int, images: Sequence[Singles], texts: Sequence[Singles], show: Show) -> Query:
    _, searched = gallery.searched(image)
    right = np.isin(searched, gallery.captions[gallery.images == image])
    answers = []
    for number, (vectors, captions) in enumerate(zip(images, texts, strict=True)):
        order, words = _search(captions[searched] @ vectors[image], right)
        found = tuple(FoundCaption(text=gallery.text(int(searched[at])), right=bool(right[at])) for at in order)
        answers.append(Found(checkpoint=number, words=words, captions=found))
    picture = show(gallery.keys[image], gallery.sources[image])
    return Query(direction="image_to_text", picture=picture, caption="", answers=tuple(answers))


def _by_caption(gallery: Gallery, pair: int, images: Sequence[Singles], texts: Sequence[Singles], show: Show) -> Query:
    sought = int(gallery.captions[pair])
    searched, _ = gallery.searched(int(gallery.images[pair]))
    right = np.isin(searched, gallery.images[gallery.captions == sought])
    answers = []
    for number, (vectors, captions) in enumerate(zip(images, texts, strict=True)):
        order, words = _search(vectors[searched] @ captions[sought], right)
        places = [(int(searched[at]), bool(right[at])) for at in order]
        found = tuple(
            FoundPicture(picture=show(gallery.keys[at], gallery.sources[at]), right=is_right) for at, is_right in places
        )
        answers.append(Found(checkpoint=number, words=words, pictures=found))
    caption = gallery.text(sought)
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
