"""The losses as their formulas say, with all logits at once: what the tiled ones are held against."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from train.config import LossConfig
from train.losses import Embeddings

LOSSES = [(name, equals) for name in ("infonce", "siglip") for equals in ("negatives", "masked", "positives")]


def unit_rows(count: int, seed: int, width: int = 5, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def whole(image: torch.Tensor, text: torch.Tensor, meanings: torch.Tensor | None = None) -> Embeddings:
    return Embeddings(
        image=image, text=text, all_images=image, all_texts=text, meanings=meanings, all_meanings=meanings
    )


def part(image: torch.Tensor, text: torch.Tensor, meanings: torch.Tensor, rank: int, world_size: int) -> Embeddings:
    """What a process of several sees."""
    count = len(image) // world_size
    own = slice(rank * count, (rank + 1) * count)
    return Embeddings(
        image=image[own], text=text[own], all_images=image, all_texts=text, rank=rank,
        meanings=meanings[own], all_meanings=meanings,
    )  # fmt: skip


def dense_rows(
    config: LossConfig, embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return each row's loss, (n,), differentiable."""
    images = scale * embeddings.image @ embeddings.all_texts.T + (0 if bias is None else bias)
    texts = scale * embeddings.text @ embeddings.all_images.T + (0 if bias is None else bias)
    own = torch.zeros_like(images, dtype=torch.bool)
    count = len(images)
    own[torch.arange(count), torch.arange(count) + embeddings.rank * count] = True
    same = own
    if embeddings.meanings is not None and embeddings.all_meanings is not None:
        same = own | (embeddings.meanings[:, None] == embeddings.all_meanings[None, :])
    if config.name == "siglip":
        return sigmoid_rows(images, own, same, config.equals)
    return (softmax_rows(images, own, same, config.equals) + softmax_rows(texts, own, same, config.equals)) / 2


def softmax_rows(logits: torch.Tensor, own: torch.Tensor, same: torch.Tensor, equals: str) -> torch.Tensor:
    positive = same if equals == "positives" else own
    left_out = same & ~own if equals == "masked" else torch.zeros_like(own)
    return (
        logits.masked_fill(left_out, -torch.inf).logsumexp(dim=1)
        - logits.masked_fill(~positive, -torch.inf).logsumexp(dim=1)
    )  # fmt: skip


def sigmoid_rows(logits: torch.Tensor, own: torch.Tensor, same: torch.Tensor, equals: str) -> torch.Tensor:
    positive = same if equals == "positives" else own
    counts = own | ~same if equals == "masked" else torch.ones_like(own)
    return (-F.logsigmoid(torch.where(positive, logits, -logits)) * counts).sum(dim=1)
