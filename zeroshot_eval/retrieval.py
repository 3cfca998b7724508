"""Retrieval both ways with many captions an image, where captions may repeat.

Legend: n images, m captions, U distinct texts, L links (an image and a distinct text of it), D dims, B sets of weights.
The rank of a query is that of its best correct candidate; 1 is best. Candidates whose cosines lie within `TIE` of each
other tie: single precision does not tell them apart. `best` takes ties with wrong candidates in our favour, `worst`
against us; figures take every rank from `best` to `worst` as equally likely, so that a model that scores everything
alike does no better than chance. The n x m matrix is never held: blocks of it serve both directions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from zeroshot_eval.ranking import divide

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Direction = Literal["image_to_text", "text_to_image"]

RECALLS = (1, 5, 10)
TIE = 1e-6
BLOCK_SCORES = 3_000_000  # cosines held at once: 12 MB
BLOCK_ROWS = 1020  # higher products of matrices are no faster
BYTE_ROWS = 255  # so many marks of a column can be counted in a byte


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and their captions, each image with one or more; embeddings are of unit length."""

    images: Singles = field(repr=False)
    """shape (n, D)"""
    captions: Singles = field(repr=False)
    """shape (m, D)"""
    image_of_caption: Ints = field(repr=False)
    """the image that each caption belongs to, shape (m,)"""
    text_of_caption: Ints | None = field(default=None, repr=False)
    """equal numbers for captions of equal text, shape (m,); without it, every caption is a text of its own"""

    def __post_init__(self) -> None:
        n, m = len(self.images), len(self.captions)
        texts = self.image_of_caption if self.text_of_caption is None else self.text_of_caption
        if self.image_of_caption.shape != (m,) or texts.shape != (m,):
            raise DataError(
                f"retrieval: got {m} captions, images for {len(self.image_of_caption)} and texts for {len(texts)} of "
                "them; allowed: the same number"
            )
        if m and not 0 <= self.image_of_caption.min() <= self.image_of_caption.max() < n:
            raise DataError(f"retrieval: a caption names an image that is not there; allowed: 0 to {n - 1}")
        without = n - len(np.unique(self.image_of_caption))
        if without or not n:
            raise DataError(f"retrieval: {without} of {n} images have no caption; leave them out, keep one or more")
        for name, rows in (("images", self.images), ("captions", self.captions)):
            if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
                raise DataError(
                    f"retrieval: embeddings of {bad} of {len(rows)} {name} are not finite; embed them again"
                )


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of q queries and what chance needs to know of them."""

    best: Ints
    """rank with all ties in our favour, shape (q,)"""
    worst: Ints
    """rank with all ties against us, shape (q,)"""
    num_correct: Ints
    """correct candidates, shape (q,)"""
    gallery: Ints
    """candidates, shape (q,)"""

    def recalls(self, ks: Sequence[int] = RECALLS) -> tuple[int, ...]:
        """Return those k that are smaller than every query's gallery; at others recall says nothing."""
        return tuple(k for k in ks if k < self.gallery.min())

    def unreported(self, ks: Sequence[int] = RECALLS) -> dict[str, str]:
        """Return the recalls that are not given, each with the reason."""
        reason = f"the gallery has {self.gallery.min()} candidates"
        return {f"recall@{k}": reason for k in ks if k not in self.recalls(ks)}


def rank_pairs(pairs: Pairs, *, same_text: bool = False) -> dict[Direction, Ranks]:
    """Rank the captions for every image (n queries) and the images for every caption (m queries).

    Args:
        pairs: images and captions; every image is a candidate, and every caption.
        same_text: a caption of the same text as one of the image's own is correct too, whichever image it belongs to;
            and so is every image that has a caption of the query's text. Otherwise only the image's own captions, and
            the caption's own image, are correct, as in CLIP_benchmark.
    """
    links = _links(pairs)
    cosines = _link_cosines(pairs, links)
    rows = _Count.of_rows(links, cosines, same_text=same_text)
    columns = _Count.of_columns(links, cosines, same_text=same_text)
    texts = pairs.captions[links.caption_of_text]
    one_column_a_text = same_text or np.array_equal(links.text, np.arange(len(texts)))
    blocks = _blocks(len(pairs.images), len(texts))
    held = np.empty((max(stop - start for start, stop in blocks), len(texts)), dtype=np.float32)
    for start, stop in blocks:
        block = np.matmul(pairs.images[start:stop], texts.T, out=held[: stop - start])
        entries = slice(*np.searchsorted(links.image, [start, stop]))
        linked = block[links.image[entries] - start, links.text[entries]]
        rows.add_rows(slice(start, stop), block, links.copies)
        columns.add_columns(block if one_column_a_text else block[:, links.text])
        for count in (rows, columns):
            count.leave_out_correct(entries, linked)
    of_caption = links.text[links.link_of_caption] if same_text else links.link_of_caption
    num_texts = np.bincount(links.image, links.copies[links.text] if same_text else links.own_copies)
    num_images = np.bincount(links.text) if same_text else np.ones(len(links.text), dtype=np.int64)
    n, m = len(pairs.images), len(pairs.captions)
    return {
        "image_to_text": rows.ranks(np.arange(n), num_texts.astype(np.int64), m),
        "text_to_image": columns.ranks(of_caption, num_images.astype(np.int64), n),
    }


def rank_pairs_within(pairs: Pairs, part_of_image: Sequence[str], *, same_text: bool = False) -> dict[Direction, Ranks]:
    """Rank as `rank_pairs` does, each query among the images and captions of its own part, such as its modality."""
    names, parts = np.unique(np.asarray(part_of_image), return_inverse=True)
    found: dict[Direction, Ranks] = {
        "image_to_text": _no_ranks(len(pairs.images)),
        "text_to_image": _no_ranks(len(pairs.captions)),
    }
    for part in range(len(names)):
        images = np.flatnonzero(parts == part)
        captions = np.flatnonzero(parts[pairs.image_of_caption] == part)
        inner = Pairs(
            pairs.images[images],
            pairs.captions[captions],
            np.searchsorted(images, pairs.image_of_caption[captions]),
            None if pairs.text_of_caption is None else pairs.text_of_caption[captions],
        )
        ranks = rank_pairs(inner, same_text=same_text)
        queries: dict[Direction, Ints] = {"image_to_text": images, "text_to_image": captions}
        for direction, places in queries.items():
            for name in ("best", "worst", "num_correct", "gallery"):
                getattr(found[direction], name)[places] = getattr(ranks[direction], name)
    return found


def retrieval_statistic(ranks: Ranks, ks: Sequence[int] = RECALLS) -> Callable[[Floats], dict[str, Floats]]:
    """Return the function from weights of the queries (B, q) to recall@k, mrr and median_rank, each of shape (B,).

    recall@k is the share of queries with a correct candidate among the first k. From images to many captions that is
    the hit rate which CLIP_benchmark calls text_retrieval_recall@k; from captions to images it is its
    image_retrieval_recall@k. A k that is not smaller than the gallery is left out: see `Ranks.unreported`. mrr is the
    mean of 1 / rank. All of them are expectations over ranks from `best` to `worst` with equal probability, and the
    median is that of their means: exact where one correct candidate ties with wrong ones, too low where several do.
    """
    first, width = ranks.best.astype(np.float64), (ranks.worst - ranks.best + 1).astype(np.float64)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, ranks.worst.max() + 1))])
    figures = {f"recall@{k}": np.clip((k + 1 - first) / width, 0.0, 1.0) for k in ranks.recalls(ks)}
    figures["mrr"] = (harmonic[ranks.worst] - harmonic[ranks.best - 1]) / width
    middle = (ranks.best + ranks.worst) / 2

    def statistic(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        means = {name: divide(weights @ values, total) for name, values in figures.items()}
        return means | {"median_rank": weighted_median(middle, weights)}

    return statistic


def tie_bounds(ranks: Ranks, ks: Sequence[int] = RECALLS) -> dict[str, tuple[float, float]]:
    """Return by metric the lowest and the highest value that an order of ties gives."""
    ones = np.ones((1, len(ranks.best)))
    ends = [
        retrieval_statistic(Ranks(end, end, ranks.num_correct, ranks.gallery), ks)(ones)
        for end in (ranks.worst, ranks.best)
    ]
    pairs = {name: [float(end[name][0]) for end in ends] for name in ends[0]}
    return {name: (min(values), max(values)) for name, values in pairs.items()}


def retrieval_chance(ranks: Ranks, ks: Sequence[int] = RECALLS) -> dict[str, float]:
    """Return what a random order of the gallery scores in expectation, by the metrics of `retrieval_statistic`.

    A query with c correct candidates among g finds its first one beyond rank r with probability
    (g-c choose r) / (g choose r). The median is that of the ranks of all queries together.
    """
    kinds, counts = np.unique(np.stack([ranks.gallery, ranks.num_correct]), axis=1, return_counts=True)
    beyond = np.zeros(int(ranks.gallery.max()) + 1)  # beyond[r] = P(rank > r)
    for (gallery, num_correct), count in zip(kinds.T, counts, strict=True):
        beyond[: gallery + 1] += count / len(ranks.best) * _beyond(int(gallery), int(num_correct))
    at = beyond[:-1] - beyond[1:]  # at[r-1] = P(rank = r)
    metrics = {f"recall@{k}": float(1 - beyond[k]) for k in ranks.recalls(ks)}
    metrics["mrr"] = float(at @ (1.0 / np.arange(1, len(beyond))))
    metrics["median_rank"] = float(np.argmax(beyond <= 0.5 + 1e-12))
    return metrics


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """Return the weighted median, shape (B,): the midpoint where half of the weight lies exactly between two values.

    NaN where nothing has weight.
    """
    order = np.argsort(values, kind="stable")
    ordered, running = values[order], np.cumsum(weights[:, order], axis=1)
    half = running[:, -1:] / 2
    lower = np.argmax(running >= half, axis=1)
    upper = np.argmax(running > half, axis=1)
    median: Floats = np.where(half[:, 0] > 0, (ordered[lower] + ordered[upper]) / 2, np.nan)
    return median


@dataclass(frozen=True, slots=True)
class _Links:
    """Which distinct text belongs to which image, sorted by image. Repeated texts are compared once."""

    image: Ints
    """shape (L,), rising"""
    text: Ints
    """shape (L,)"""
    own_copies: Ints
    """captions of the link's image with the link's text, shape (L,)"""
    copies: Ints
    """captions with each text, shape (U,)"""
    caption_of_text: Ints
    """the first caption with each text, shape (U,)"""
    link_of_caption: Ints
    """shape (m,)"""


@dataclass(frozen=True, slots=True)
class _Count:
    """Candidates ahead of, and level with, the best correct one of each query."""

    best: Singles
    """cosine of the best correct candidate, shape (q,)"""
    query_of_link: Ints
    """the query that each link is correct for, shape (L,)"""
    candidates_of_link: Ints
    """how many of the query's candidates each link stands for, shape (L,)"""
    ahead: Ints
    """cosine higher than the best correct one's, shape (q,)"""
    level: Ints
    """wrong ones that tie with the best correct one, shape (q,)"""

    @classmethod
    def of_rows(cls, links: _Links, cosines: Singles, *, same_text: bool) -> _Count:
        """Queries are the images."""
        copies = links.copies[links.text] if same_text else links.own_copies
        return cls._empty(cosines, links.image, copies)

    @classmethod
    def of_columns(cls, links: _Links, cosines: Singles, *, same_text: bool) -> _Count:
        """Queries are the texts, or, where only the own image is correct, the links."""
        queries = links.text if same_text else np.arange(len(links.text))
        return cls._empty(cosines, queries, np.ones(len(queries), dtype=np.int64))

    @classmethod
    def _empty(cls, cosines: Singles, query_of_link: Ints, candidates_of_link: Ints) -> _Count:
        size = int(query_of_link.max()) + 1
        best = np.full(size, -np.inf, dtype=np.float32)
        np.maximum.at(best, query_of_link, cosines)
        nothing = (np.zeros(size, dtype=np.int64) for _ in range(2))
        return cls(best, query_of_link, candidates_of_link, *nothing)

    def add_rows(self, queries: slice, block: Singles, copies: Ints) -> None:
        """Count the candidates of some queries, a row each, every column `copies` times."""
        best = self.best[queries, None]
        ahead = _count_rows(block > best + TIE, copies)
        self.ahead[queries] += ahead
        self.level[queries] += _count_rows(block >= best - TIE, copies) - ahead

    def add_columns(self, block: Singles) -> None:
        """Count some candidates of all queries, a column each."""
        ahead = _count_columns(block > self.best + TIE)
        self.ahead[:] += ahead
        self.level[:] += _count_columns(block >= self.best - TIE) - ahead

    def leave_out_correct(self, entries: slice, cosines: Singles) -> None:
        """Take the correct candidates of some links out of those that are level."""
        queries = self.query_of_link[entries]
        tied = cosines >= self.best[queries] - TIE
        np.subtract.at(self.level, queries[tied], self.candidates_of_link[entries][tied])

    def ranks(self, queries: Ints, num_correct: Ints, gallery: int) -> Ranks:
        """Return the ranks of queries given by number."""
        best = 1 + self.ahead[queries]
        sizes = np.full(len(queries), gallery, dtype=np.int64)
        return Ranks(best, best + self.level[queries], num_correct[queries], sizes)


def _no_ranks(size: int) -> Ranks:
    return Ranks(*(np.zeros(size, dtype=np.int64) for _ in range(4)))


def _links(pairs: Pairs) -> _Links:
    m = len(pairs.captions)
    labels = np.arange(m) if pairs.text_of_caption is None else pairs.text_of_caption
    _, caption_of_text, text_of_caption, copies = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    num_texts = len(copies)
    found, link_of_caption, own_copies = np.unique(
        pairs.image_of_caption * num_texts + text_of_caption, return_inverse=True, return_counts=True
    )
    return _Links(found // num_texts, found % num_texts, own_copies, copies, caption_of_text, link_of_caption)


def _link_cosines(pairs: Pairs, links: _Links) -> Singles:
    """Return the cosine of each link, shape (L,)."""
    cosines = np.empty(len(links.text), dtype=np.float32)
    for start in range(0, len(cosines), 4096):
        part = slice(start, start + 4096)
        texts = pairs.captions[links.caption_of_text[links.text[part]]]
        cosines[part] = np.einsum("ld,ld->l", pairs.images[links.image[part]], texts)
    return cosines


def _blocks(num_rows: int, num_columns: int) -> list[tuple[int, int]]:
    step = max(1, min(BLOCK_ROWS, BLOCK_SCORES // num_columns))
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _count_rows(marks: Bools, copies: Ints) -> Ints:
    """Return the marks of each row, every column counted `copies` times."""
    repeated = np.flatnonzero(copies > 1)
    once = np.array([np.count_nonzero(row) for row in marks])  # faster than with an axis
    counts: Ints = once + marks[:, repeated] @ (copies[repeated] - 1)
    return counts


def _count_columns(marks: Bools) -> Ints:
    """Return the marks of each column."""
    counts = np.zeros(marks.shape[1], dtype=np.int64)
    for start in range(0, len(marks), BYTE_ROWS):
        counts += marks[start : start + BYTE_ROWS].view(np.uint8).sum(axis=0, dtype=np.uint8)
    return counts


def _beyond(gallery: int, num_correct: int) -> Floats:
    """P(first of the correct candidates lies beyond rank r) for r = 0 … gallery."""
    drawn = np.arange(gallery)
    factors = np.clip((gallery - num_correct - drawn) / (gallery - drawn), 0.0, 1.0)
    return np.concatenate([[1.0], np.cumprod(factors)])
