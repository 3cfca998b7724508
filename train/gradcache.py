"""Gradients of a batch that does not fit: embed in micro-batches, one loss over all embeddings, then backward by parts.

The loss sees only embeddings, so the towers need not be cut at the same samples: each has micro-batches of its own
size. First all micro-batches are embedded, without activations kept except for the last few (`kept_graphs`). The loss
over all embeddings gives their gradients, and the temperature's, once. Then each micro-batch is embedded again with
the same random numbers, and its embeddings' gradients run back through the tower. The sum of the parameters' gradients
is that of the whole batch, dropout included (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerInputs:
    """One tower's share of a step.

    `encode` maps a micro-batch (n, …) to embeddings (n, D). `seeds` has one seed a micro-batch: the random numbers of
    its dropout, the same in both passes.
    """

    encode: Encode
    micro_batches: Sequence[torch.Tensor]
    seeds: Sequence[int]


def cut(inputs: torch.Tensor, micro_batch: int | None) -> list[torch.Tensor]:
    """Cut a batch into micro-batches of at most `micro_batch` rows; None leaves it whole."""
    return list(torch.split(inputs, micro_batch or len(inputs)))


def cached_backward(
    towers: Sequence[TowerInputs],
    loss: Callable[..., torch.Tensor],
    kept_graphs: int,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> torch.Tensor:
    """Accumulate the gradients of `loss(embeddings of tower 0, embeddings of tower 1, …)`; return the loss, detached.

    Args:
        towers: encoders and their micro-batches.
        loss: gets each tower's embeddings, shape (B, D), and returns a scalar; temperature and bias are its own.
        kept_graphs: micro-batches of each tower whose activations are kept and which are not embedded twice.
        backward: runs the loss back, scaled or not; a loss scaler's factor reaches all gradients alike.
    """
    leaves, graphs = [], []
    for tower in towers:
        leaf, kept = _embed(tower, kept_graphs)
        leaves.append(leaf)
        graphs.append(kept)
    value = loss(*leaves)
    backward(value)
    for tower, leaf, kept in zip(towers, leaves, graphs, strict=True):
        _backward_tower(tower, leaf, kept)
    return value.detach()


def _embed(tower: TowerInputs, kept_graphs: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return all embeddings as a leaf, shape (B, D), and those of the last micro-batches with their graphs."""
    embedded, kept = [], []
    first_kept = len(tower.micro_batches) - kept_graphs
    for number, (inputs, seed) in enumerate(zip(tower.micro_batches, tower.seeds, strict=True)):
        with torch.set_grad_enabled(number >= first_kept):
            torch.manual_seed(seed)
            rows = tower.encode(inputs)
        if number >= first_kept:
            kept.append(rows)
        embedded.append(rows.detach())
    return torch.cat(embedded).requires_grad_(), kept


def _backward_tower(tower: TowerInputs, leaf: torch.Tensor, kept: list[torch.Tensor]) -> None:
    if leaf.grad is None:
        return
    gradients = torch.split(leaf.grad, [len(inputs) for inputs in tower.micro_batches])
    num_again = len(gradients) - len(kept)
    # The kept ones first: their activations are freed before others are made.
    for gradient in reversed(gradients[num_again:]):
        _run_back(kept.pop(), gradient)
    for inputs, seed, gradient in zip(tower.micro_batches, tower.seeds, gradients[:num_again], strict=False):
        torch.manual_seed(seed)
        _run_back(tower.encode(inputs), gradient)


def _run_back(rows: torch.Tensor, gradient: torch.Tensor) -> None:
    if rows.requires_grad:  # a locked tower has no gradients
        torch.autograd.backward(rows, gradient)
