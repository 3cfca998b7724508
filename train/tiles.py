"""Sums over the logits of all pairs, and their gradients, with one tile of the logits in memory at a time.

Rows and columns are cut into tiles. A first pass over the tiles makes the log-sum-exp of every row (and column, where
both are wanted) from those of its tiles; a second one makes each tile's logits again, turns them into gradients of the
logits, and adds their products to the gradients of rows and columns. The sigmoid loss needs no sum before its
gradients, so one pass does both. The order of the tiles is fixed: results depend on the tiles' size by rounding alone.

What is done to the numbers of one tile is a `TileKernel`: `TorchKernel` here, a fused one in `triton_tiles`. The
products are matrix multiplications of torch in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F

Equals = Literal["negatives", "masked", "positives"]

TILE_COLUMNS = {"cpu": 1024, "cuda": 8192}
TILE_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 25}
LEAST_TILE_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Rows (n, D) to be scored against columns (B, D); the logit of a pair is `scale` times their product + `bias`.

    Row i's own partner is column i + `shift`. `row_meanings`, (n,), and `column_meanings`, (B,), are equal where
    samples mean the same; unless `equals` is `negatives`, they are needed.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None
    shift: int = 0
    equals: Equals = "negatives"
    row_meanings: torch.Tensor | None = None
    column_meanings: torch.Tensor | None = None

    def __post_init__(self) -> None:
        known = self.row_meanings is not None and self.column_meanings is not None
        assert known or self.equals == "negatives", f"equals={self.equals!r} needs the meanings of rows and columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Logits (m, k) of some rows and columns; kernels may overwrite them. Row i's own column is i + `shift`, or none.

    `rows` and `columns` are the tile's place; the meanings are those of its rows (m,) and columns (k,).
    """

    logits: torch.Tensor
    rows: slice
    columns: slice
    shift: int
    equals: Equals
    row_meanings: torch.Tensor | None
    column_meanings: torch.Tensor | None

    def own(self) -> torch.Tensor:
        """Return a view of the logits of own partners, (at most m,), empty where the tile has none."""
        return self.logits.diagonal(self.shift)

    def own_places(self, of_rows: bool) -> slice:
        """Return which rows (or columns) of the tile `own` belongs to."""
        start = max(0, -self.shift if of_rows else self.shift)
        return slice(start, start + len(self.own()))

    def equal(self, own: bool) -> torch.Tensor:
        """Return where row and column mean the same, bool (m, k); a row and its own column count as `own` says."""
        assert self.row_meanings is not None
        assert self.column_meanings is not None
        same = self.row_meanings[:, None] == self.column_meanings[None, :]
        same.diagonal(self.shift).fill_(own)
        return same


class LogSums(NamedTuple):
    """Of each row (or column), (n,): log-sum-exp over the logits it is told from, and over those of its positives."""

    denominators: torch.Tensor
    numerators: torch.Tensor


class Gradients(NamedTuple):
    """Gradients of a sum over rows with respect to what `Pairs` holds; `bias` is a scalar even where it has none."""

    rows: torch.Tensor
    columns: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor


class TileKernel(Protocol):
    """What is done to the numbers of one tile."""

    def log_sums(self, tile: Tile, of_columns: bool) -> tuple[LogSums, LogSums | None]:
        """Return the tile's part of the log sums of its rows and, if asked for, columns; -inf where it has none."""

    def softmax_gradient(self, tile: Tile, rows: LogSums, columns: LogSums | None) -> torch.Tensor:
        """Return the gradient (m, k) of the sum of denominators - numerators of rows, and columns where given."""

    def sigmoid(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sigmoid losses summed over each row, (m,), and the gradient (m, k) of their sum."""


class TorchKernel:
    """A tile's arithmetic in torch's own operations, on any device."""

    def log_sums(self, tile: Tile, of_columns: bool) -> tuple[LogSums, LogSums | None]:
        """See `TileKernel`."""
        _mask(tile)
        positives = _positive_logits(tile)
        rows = LogSums(torch.logsumexp(tile.logits, 1), _numerators(tile, positives, of_rows=True))
        if not of_columns:
            return rows, None
        return rows, LogSums(torch.logsumexp(tile.logits, 0), _numerators(tile, positives, of_rows=False))

    def softmax_gradient(self, tile: Tile, rows: LogSums, columns: LogSums | None) -> torch.Tensor:
        """See `TileKernel`."""
        _mask(tile)
        positives = _positive_logits(tile)
        sides = [(side, dim) for side, dim in ((rows, 1), (columns, 0)) if side is not None]
        gradient = _sum_of_exponentials(tile.logits, [side.denominators.unsqueeze(dim) for side, dim in sides])
        if positives is None:
            gradient.diagonal(tile.shift).sub_(len(sides))
        else:
            gradient -= _sum_of_exponentials(positives, [side.numerators.unsqueeze(dim) for side, dim in sides])
        return gradient

    def sigmoid(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TileKernel`."""
        signed = tile.logits  # negative for positives: what is lost is the softplus of it
        if tile.equals == "positives":
            signs = 1 - 2 * tile.equal(own=True).to(signed.dtype)
            signed.mul_(signs)
            gradient = torch.sigmoid(signed).mul_(signs)
        else:
            signed.diagonal(tile.shift).neg_()
            gradient = torch.sigmoid(signed)
            gradient.diagonal(tile.shift).neg_()
        losses = F.softplus(signed, threshold=float(torch.finfo(signed.dtype).bits))
        if tile.equals == "masked":
            left_out = tile.equal(own=False)
            losses.masked_fill_(left_out, 0)
            gradient.masked_fill_(left_out, 0)
        return losses.sum(dim=1), gradient


def log_sums(pairs: Pairs, kernel: TileKernel, width: int | None, of_columns: bool) -> tuple[LogSums, LogSums | None]:
    """Return the log sums of all rows and, if asked for, of all columns; `width` is the columns of a tile."""
    rows = _no_sums(pairs.rows)
    columns = _no_sums(pairs.columns) if of_columns else None
    for tile in _tiles(pairs, width):
        of_rows, of_tile_columns = kernel.log_sums(tile, of_columns)
        _add(rows, tile.rows, of_rows)
        if columns is not None and of_tile_columns is not None:
            _add(columns, tile.columns, of_tile_columns)
    return rows, columns


def softmax_gradients(
    pairs: Pairs, kernel: TileKernel, width: int | None, sums: tuple[LogSums, LogSums | None]
) -> Gradients:
    """Return the gradients of the sum of denominators - numerators over rows, and over columns if `sums` has theirs."""
    rows, columns = sums
    total = _Products(pairs)
    for tile in _tiles(pairs, width):
        of_columns = None if columns is None else LogSums(*(part[tile.columns] for part in columns))
        total.add(tile, kernel.softmax_gradient(tile, LogSums(*(part[tile.rows] for part in rows)), of_columns))
    return total.gradients()


def sigmoid(
    pairs: Pairs, kernel: TileKernel, width: int | None, with_gradients: bool
) -> tuple[torch.Tensor, Gradients | None]:
    """Return the sigmoid losses summed over each row, (n,), and the gradients of their sum if asked for."""
    losses = pairs.rows.new_zeros(len(pairs.rows))
    total = _Products(pairs) if with_gradients else None
    for tile in _tiles(pairs, width):
        of_rows, gradient = kernel.sigmoid(tile)
        losses[tile.rows] += of_rows
        if total is not None:
            total.add(tile, gradient)
    return losses, None if total is None else total.gradients()


class _Products:
    """Gradients of rows, columns, scale and bias from those of the logits, tile by tile."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._rows = torch.zeros_like(pairs.rows)
        self._columns = torch.zeros_like(pairs.columns)
        self._bias = pairs.rows.new_zeros(())

    def add(self, tile: Tile, gradient: torch.Tensor) -> None:
        self._rows[tile.rows].addmm_(gradient, self._pairs.columns[tile.columns])
        self._columns[tile.columns].addmm_(gradient.T, self._pairs.rows[tile.rows])
        if self._pairs.bias is not None:
            self._bias += gradient.sum()

    def gradients(self) -> Gradients:
        # The scale's gradient is the sum over pairs of logit gradient x cosine, which is that over rows of
        # row x (logit gradients @ columns): what the rows' gradient is made of.
        scale = (self._pairs.rows * self._rows).sum()
        return Gradients(self._rows.mul_(self._pairs.scale), self._columns.mul_(self._pairs.scale), scale, self._bias)


def _tiles(pairs: Pairs, width: int | None) -> Iterator[Tile]:
    num_rows, num_columns = len(pairs.rows), len(pairs.columns)
    kind = "cuda" if pairs.rows.is_cuda else "cpu"
    width = min(width or TILE_COLUMNS[kind], num_columns)
    height = max(LEAST_TILE_ROWS, TILE_NUMBERS[kind] // width)
    for top in range(0, num_rows, height):
        rows = slice(top, min(top + height, num_rows))
        scaled = pairs.rows[rows] * pairs.scale
        for left in range(0, num_columns, width):
            columns = slice(left, min(left + width, num_columns))
            logits = scaled @ pairs.columns[columns].T
            yield Tile(
                logits=logits if pairs.bias is None else logits.add_(pairs.bias),
                rows=rows,
                columns=columns,
                shift=pairs.shift + top - left,
                equals=pairs.equals,
                row_meanings=None if pairs.row_meanings is None else pairs.row_meanings[rows],
                column_meanings=None if pairs.column_meanings is None else pairs.column_meanings[columns],
            )


def _no_sums(vectors: torch.Tensor) -> LogSums:
    empty = vectors.new_full((len(vectors),), -torch.inf)
    return LogSums(empty, empty.clone())


def _add(sums: LogSums, places: slice, part: LogSums) -> None:
    for whole, piece in zip(sums, part, strict=True):
        whole[places] = torch.logaddexp(whole[places], piece)


def _mask(tile: Tile) -> None:
    """Take equal pairs that are not a row's own out of all sums, where they are to be left out."""
    if tile.equals == "masked":
        tile.logits.masked_fill_(tile.equal(own=False), -torch.inf)


def _positive_logits(tile: Tile) -> torch.Tensor | None:
    """Return the tile with -inf where a pair is not a positive, or None where only own partners are positives."""
    if tile.equals != "positives":
        return None
    return tile.logits.masked_fill(~tile.equal(own=True), -torch.inf)


def _numerators(tile: Tile, positives: torch.Tensor | None, *, of_rows: bool) -> torch.Tensor:
    if positives is not None:
        return torch.logsumexp(positives, 1 if of_rows else 0)
    return own_numerators(tile, of_rows=of_rows)


def own_numerators(tile: Tile, *, of_rows: bool) -> torch.Tensor:
    """Return the logits of own partners at their rows (m,) or columns (k,), and -inf elsewhere."""
    numerators = tile.logits.new_full((tile.logits.shape[0 if of_rows else 1],), -torch.inf)
    numerators[tile.own_places(of_rows)] = tile.own()
    return numerators


def _sum_of_exponentials(logits: torch.Tensor, shifts: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of exp(logits - shift) over the shifts, each broadcast; overwrites the logits."""
    total = torch.sub(logits, shifts[0]).exp_()
    for shift in shifts[1:]:
        total += logits.sub_(shift).exp_()
    return total
