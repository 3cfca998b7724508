"""Contrastive losses over the global batch, each process answering for its own rows.

With B pairs on W processes, process r computes the mean over its B/W rows against all B columns. The mean over
processes is the loss of the whole batch, and the mean of their gradients is its gradient, given embeddings gathered by
`collectives.gather_rows`. Rank and world size come as integers: a test needs no processes to check the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

LossName = Literal["infonce", "siglip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Unit-length embeddings of a global batch as one process sees them.

    `image` and `text` are this process's rows, shape (B / W, D); `all_images` and `all_texts` those of all processes in
    rank order, shape (B, D).
    """

    image: torch.Tensor
    text: torch.Tensor
    all_images: torch.Tensor
    all_texts: torch.Tensor
    rank: int = 0


def contrastive_loss(
    name: LossName, embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return this process's part of the loss, a scalar; the mean over processes is the loss of the batch.

    Args:
        name: `infonce` or `siglip`.
        embeddings: see `Embeddings`.
        scale: what cosines are multiplied by (the inverse temperature), a scalar.
        bias: what is added to the logits, a scalar, or None for none.
    """
    if name == "siglip":
        return siglip(embeddings, scale, bias)
    return infonce(embeddings, scale, bias)


def infonce(embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the symmetric cross-entropy of picking each row's partner among all columns (Radford et al. 2021)."""
    targets = _own_columns(embeddings)
    per_image = _logits(embeddings.image, embeddings.all_texts, scale, bias)
    per_text = _logits(embeddings.text, embeddings.all_images, scale, bias)
    return (F.cross_entropy(per_image, targets) + F.cross_entropy(per_text, targets)) / 2


def siglip(embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the sigmoid loss of all pairs, summed over columns and averaged over rows (Zhai et al. 2023)."""
    logits = _logits(embeddings.image, embeddings.all_texts, scale, bias)
    signs = torch.full_like(logits, -1.0)
    signs[torch.arange(len(logits), device=logits.device), _own_columns(embeddings)] = 1.0
    return -F.logsigmoid(signs * logits).sum(dim=1).mean()


def _own_columns(embeddings: Embeddings) -> torch.Tensor:
    """The columns where this process's rows find their partners, shape (B / W,)."""
    count = len(embeddings.image)
    return torch.arange(count, device=embeddings.image.device) + embeddings.rank * count


def _logits(rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = scale * (rows @ columns.T)
    return logits if bias is None else logits + bias
