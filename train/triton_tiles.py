"""A tile's arithmetic fused into one kernel a pass, for CUDA: between its matrix products a tile is read once.

The same numbers as `tiles.TorchKernel` within rounding; gradients overwrite the logits that they are of. Every block of
a tile writes its own part of a sum, and the parts are added in a fixed order, so results are the same each time. With
TRITON_INTERPRET=1 in the environment the kernels run on the CPU, slowly, for tests.
"""

# A kernel's arguments are pointers and sizes, which no object can hold together, and Triton has no types.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from train.tiles import LogSums, Tile, own_numerators

BLOCK = 64
OPTIONS = {"enable_fp_fusion": False}  # otherwise a matter of Triton's version


def runs_on(device: torch.device) -> bool:
    """Return whether the kernels can run there."""
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)


class TritonKernel:
    """See `tiles.TileKernel`."""

    def log_sums(self, tile: Tile, of_columns: bool) -> tuple[LogSums, LogSums | None]:
        """See `tiles.TileKernel`."""
        height, width = tile.logits.shape
        row_parts = tile.logits.new_empty((2, triton.cdiv(width, BLOCK), height))
        column_parts = tile.logits.new_empty((2, triton.cdiv(height, BLOCK), width) if of_columns else (2, 1, 1))
        _log_sums_kernel[_grid(tile)](
            tile.logits, *_meanings(tile), row_parts[0], row_parts[1], column_parts[0], column_parts[1],
            height, width, tile.shift, equals=tile.equals, of_columns=of_columns, block=BLOCK, **OPTIONS,
        )  # fmt: skip
        rows = _sums(tile, row_parts, of_rows=True)
        return rows, _sums(tile, column_parts, of_rows=False) if of_columns else None

    def softmax_gradient(self, tile: Tile, rows: LogSums, columns: LogSums | None) -> torch.Tensor:
        """See `tiles.TileKernel`."""
        _softmax_gradient_kernel[_grid(tile)](
            tile.logits, *_meanings(tile), *rows, *(columns or rows), *tile.logits.shape, tile.shift,
            equals=tile.equals, of_columns=columns is not None, block=BLOCK, **OPTIONS,
        )  # fmt: skip
        return tile.logits

    def sigmoid(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """See `tiles.TileKernel`."""
        height, width = tile.logits.shape
        parts = tile.logits.new_empty((triton.cdiv(width, BLOCK), height))
        _sigmoid_kernel[_grid(tile)](
            tile.logits, *_meanings(tile), parts, height, width, tile.shift,
            equals=tile.equals, block=BLOCK, **OPTIONS,
        )  # fmt: skip
        return parts.sum(dim=0), tile.logits


def _grid(tile: Tile) -> tuple[int, int]:
    height, width = tile.logits.shape
    return triton.cdiv(height, BLOCK), triton.cdiv(width, BLOCK)


def _meanings(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the meanings of rows and columns; where there are none, something in their place that no kernel reads."""
    if tile.row_meanings is None or tile.column_meanings is None:
        return tile.logits, tile.logits
    return tile.row_meanings, tile.column_meanings


def _sums(tile: Tile, parts: torch.Tensor, *, of_rows: bool) -> LogSums:
    """Add the blocks' parts, (denominators and numerators, blocks, m)."""
    denominators = torch.logsumexp(parts[0], dim=0)
    if tile.equals == "positives":
        return LogSums(denominators, torch.logsumexp(parts[1], dim=0))
    return LogSums(denominators, own_numerators(tile, of_rows=of_rows))


@triton.jit
def _load(logits, row_meanings, column_meanings, height, width, shift, equals: tl.constexpr, block: tl.constexpr):
    """Return rows, columns, places, which of them exist, the logits there, own partners, equal pairs."""
    rows = tl.program_id(0) * block + tl.arange(0, block)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    places = rows.to(tl.int64)[:, None] * width + columns[None, :]
    exists = (rows < height)[:, None] & (columns < width)[None, :]
    values = tl.load(logits + places, mask=exists, other=-float("inf"))
    own = (rows[:, None] + shift) == columns[None, :]
    if equals == "negatives":
        same = own
    else:
        row_meaning = tl.load(row_meanings + rows, mask=rows < height, other=0)
        column_meaning = tl.load(column_meanings + columns, mask=columns < width, other=0)
        same = own | (row_meaning[:, None] == column_meaning[None, :])
    return rows, columns, places, exists, values, own, same


@triton.jit
def _log_sum_exp(values, axis: tl.constexpr):
    """Return the log-sum-exp along an axis, -inf where all values are."""
    largest = tl.max(values, axis=axis)
    largest = tl.where(largest == -float("inf"), 0.0, largest)
    return largest + tl.log(tl.sum(tl.exp(values - tl.expand_dims(largest, axis)), axis=axis))


@triton.jit
def _log_sums_kernel(
    logits, row_meanings, column_meanings, row_denominators, row_numerators, column_denominators, column_numerators,
    height, width, shift, equals: tl.constexpr, of_columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write the log sums of a block's rows at (block column, row), those of its columns at (block row, column)."""
    rows, columns, _, _, values, own, same = _load(
        logits, row_meanings, column_meanings, height, width, shift, equals, block
    )
    if equals == "masked":
        values = tl.where(same & ~own, -float("inf"), values)
    row_places = tl.program_id(1).to(tl.int64) * height + rows
    tl.store(row_denominators + row_places, _log_sum_exp(values, 1), mask=rows < height)
    column_places = tl.program_id(0).to(tl.int64) * width + columns
    if of_columns:
        tl.store(column_denominators + column_places, _log_sum_exp(values, 0), mask=columns < width)
    if equals == "positives":
        positives = tl.where(same, values, -float("inf"))
        tl.store(row_numerators + row_places, _log_sum_exp(positives, 1), mask=rows < height)
        if of_columns:
            tl.store(column_numerators + column_places, _log_sum_exp(positives, 0), mask=columns < width)


@triton.jit
def _softmax_gradient_kernel(
    logits, row_meanings, column_meanings, row_denominators, row_numerators, column_denominators, column_numerators,
    height, width, shift, equals: tl.constexpr, of_columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Overwrite a block of logits with the gradient of denominators - numerators."""
    rows, columns, places, exists, values, own, same = _load(
        logits, row_meanings, column_meanings, height, width, shift, equals, block
    )
    if equals == "masked":
        values = tl.where(same & ~own, -float("inf"), values)
    gradient = tl.exp(values - tl.load(row_denominators + rows, mask=rows < height, other=0.0)[:, None])
    if of_columns:
        sums = tl.load(column_denominators + columns, mask=columns < width, other=0.0)
        gradient += tl.exp(values - sums[None, :])
    if equals == "positives":
        positives = tl.where(same, values, -float("inf"))
        gradient -= tl.exp(positives - tl.load(row_numerators + rows, mask=rows < height, other=0.0)[:, None])
        if of_columns:
            sums = tl.load(column_numerators + columns, mask=columns < width, other=0.0)
            gradient -= tl.exp(positives - sums[None, :])
    elif of_columns:
        gradient = tl.where(own, gradient - 2.0, gradient)
    else:
        gradient = tl.where(own, gradient - 1.0, gradient)
    tl.store(logits + places, gradient, mask=exists)


@triton.jit
def _sigmoid_kernel(
    logits, row_meanings, column_meanings, row_losses, height, width, shift, equals: tl.constexpr, block: tl.constexpr
):
    """Write the sums of a block's losses at (block column, row); overwrite its logits with the losses' gradient."""
    rows, _, places, exists, values, own, same = _load(
        logits, row_meanings, column_meanings, height, width, shift, equals, block
    )
    if equals == "positives":
        positive = same
        counts = exists
    else:
        positive = own
        counts = exists & (own | ~same)
    signed = tl.where(positive, -values, values)
    share = tl.where(counts, 1.0 / (1.0 + tl.exp(-signed)), 0.0)
    tl.store(logits + places, tl.where(positive, -share, share), mask=exists)
    # log(1 + small) with the digits that 1 + small loses (Goldberg 1991, theorem 4): softplus of -10 needs them.
    small = tl.exp(-tl.abs(signed))
    total = 1.0 + small
    lost = total - 1.0
    log1p = tl.where(lost == 0.0, small, tl.log(total) * (small / tl.where(lost == 0.0, 1.0, lost)))
    losses = tl.where(counts, tl.maximum(signed, 0.0) + log1p, 0.0)
    row_places = tl.program_id(1).to(tl.int64) * height + rows
    tl.store(row_losses + row_places, tl.sum(losses, axis=1), mask=rows < height)
