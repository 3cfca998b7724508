"""Texts at their own length: how long each one is, and which of them are encoded together.

Captions are padded to the tower's context length, and most of it is padding. Where a tower's output does not depend on
the padding, texts are sorted by length, cut into micro-batches by a budget of tokens, and each micro-batch is padded to
its own longest text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from train.config import GradCacheConfig

WIDTH_MULTIPLE = 8  # of token counts, which matrix kernels like, and which keeps the number of shapes small


class TextTower:
    """The text tower of an OpenCLIP model as a function of tokens that may be cut to fewer columns.

    `is_trimmable` says whether columns of padding may be cut off without changing the embeddings: they may where
    padding is masked (Hugging Face towers) or comes after everything that is read (causal attention).
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        tower: Any = getattr(model, "text", None)
        self._tower = tower
        self.pad_id, self.is_trimmable = _padding_of(tower)
        mask = getattr(tower, "attn_mask", None)
        self._has_fixed_mask = self.is_trimmable and mask is not None and not tower.use_pad_mask

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how many columns each row of tokens, int64 (N, context length), needs: int64 (N,)."""
        if not self.is_trimmable:
            return torch.full((len(tokens),), tokens.shape[1], dtype=torch.int64)
        place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return torch.where(tokens != self.pad_id, place, 1).amax(dim=1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return features (N, D) of tokens, int64 (N, any number of columns that holds them)."""
        if self._has_fixed_mask and tokens.shape[1] < self._tower.context_length:
            width = tokens.shape[1]
            # OpenCLIP's tower holds the causal mask of the whole context and does not cut it itself.
            masks = {"attn_mask": self._tower.attn_mask[:width, :width]}
            features: torch.Tensor = torch.func.functional_call(self._tower, masks, (tokens,))
        else:
            features = self._model.encode_text(tokens)
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """Which texts are encoded together: `rows` of each micro-batch, int64, and the `widths` they are cut to."""

    rows: list[torch.Tensor]
    widths: list[int]

    @property
    def order(self) -> torch.Tensor:
        """The rows of all micro-batches, one after the other, shape (N,)."""
        return torch.cat(self.rows)

    @property
    def tokens(self) -> list[int]:
        """Tokens of each micro-batch, padding included."""
        return [len(rows) * width for rows, width in zip(self.rows, self.widths, strict=True)]


def plan_texts(lengths: torch.Tensor, context_length: int, config: GradCacheConfig, least: int = 1) -> TextPlan:
    """Sort texts by length and cut them into micro-batches within both of the config's limits.

    Args:
        lengths: tokens of each text, int64 (N,).
        context_length: columns of the tokens, which no micro-batch exceeds.
        config: `text_micro_batch` limits texts, `text_tokens` limits texts x columns; a text longer than the latter is
            encoded alone.
        least: number of micro-batches at least (as far as there are texts), for towers whose processes must run in
            step; more micro-batches only make them smaller.
    """
    order = torch.argsort(lengths, stable=True)
    widths = [_width(length, context_length) for length in lengths[order].tolist()]
    starts = _starts(widths, config.text_micro_batch or len(widths), config.text_tokens)
    sizes = _at_least_so_many([stop - start for start, stop in _pairs(starts, len(widths))], least)
    rows = list(torch.split(order, sizes))
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return TextPlan(rows=rows, widths=[widths[end - 1] for end in ends])


def _starts(widths: Sequence[int], max_texts: int, max_tokens: int | None) -> list[int]:
    """Cut ascending widths into the fewest runs from the front; return where each begins."""
    starts = [0]
    for number, width in enumerate(widths):
        count = number - starts[-1]
        if count and (count == max_texts or (max_tokens is not None and (count + 1) * width > max_tokens)):
            starts.append(number)
    return starts


def _pairs(starts: Sequence[int], stop: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], stop], strict=True))


def _at_least_so_many(sizes: list[int], least: int) -> list[int]:
    """Halve the largest size until there are so many."""
    while len(sizes) < least and max(sizes) > 1:
        place = sizes.index(max(sizes))
        half = sizes[place] // 2
        sizes[place : place + 1] = [half, sizes[place] - half]
    return sizes


def _width(length: int, context_length: int) -> int:
    return min(-(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE, context_length)


def _padding_of(tower: Any) -> tuple[int, bool]:
    """Return a tower's padding token, and whether it may be cut off."""
    config = getattr(tower, "config", None)
    if config is not None and getattr(config, "pad_token_id", None) is not None:
        return int(config.pad_token_id), True  # Hugging Face: masked in attention and in every pooler
    if tower is None or not hasattr(tower, "pool_type"):
        return 0, False
    reads_no_padding = tower.attn_mask is not None or tower.use_pad_mask
    reads_one_place = tower.pool_type in {"first", "argmax", "eos"} and tower.cls_emb is None
    return int(tower.pad_id), bool(reads_no_padding and reads_one_place)
