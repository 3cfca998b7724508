"""Gradients of a batch that does not fit: embed in micro-batches, one loss over all embeddings, then backward by parts.

The loss sees only embeddings, so the towers need not be cut at the same samples: each has micro-batches of its own.
First all micro-batches are embedded, without activations kept except for the last few. The loss over all embeddings
gives their gradients, and the temperature's, once. Then, from the last micro-batch to the first, each one whose
activations were not kept is embedded again with the same random numbers, and its embeddings' gradients run back
through the tower. The sum of the parameters' gradients is that of the whole batch, dropout included (Gao et al. 2021,
arXiv 2101.06983). How many activations are kept changes memory and time and not a bit of the result, since neither the
numbers nor the order of their sum depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

Encode = Callable[[torch.Tensor], torch.Tensor]


def _no_context(_is_last: bool) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerInputs:
    """One tower's share of a step.

    `encode` maps a micro-batch (n, …) to embeddings (n, D). `seeds` has one seed a micro-batch: the random numbers of
    its dropout, the same in both passes. The activations of the last `kept_graphs` micro-batches are kept.
    A tower that is not `trainable` has no gradients and is embedded once. `backward_context` is entered around every
    backward pass, with whether it is the tower's last one of the step: sharded weights exchange their gradients then.
    """

    encode: Encode
    micro_batches: Sequence[torch.Tensor]
    seeds: Sequence[int]
    kept_graphs: int = 1
    trainable: bool = True
    backward_context: Callable[[bool], AbstractContextManager[None]] = field(default=_no_context)


def cached_backward(
    towers: Sequence[TowerInputs],
    loss: Callable[..., torch.Tensor],
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> torch.Tensor:
    """Accumulate the gradients of `loss(embeddings of tower 0, embeddings of tower 1, …)`; return the loss, detached.

    Args:
        towers: encoders and their micro-batches.
        loss: gets each tower's embeddings, shape (B, D), and returns a scalar; temperature and bias are its own.
        backward: runs the loss back, scaled or not; a loss scaler's factor reaches all gradients alike.
    """
    leaves, graphs = [], []
    for tower in towers:
        leaf, kept = _embed(tower)
        leaves.append(leaf)
        graphs.append(kept)
    value = loss(*leaves)
    backward(value)
    for tower, leaf, kept in zip(towers, leaves, graphs, strict=True):
        if tower.trainable and leaf.grad is not None:
            _backward_tower(tower, leaf.grad, kept)
    return value.detach()


def _embed(tower: TowerInputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return all embeddings as a leaf, shape (B, D), and those of the last micro-batches with their graphs."""
    embedded, kept = [], []
    first_kept = len(tower.micro_batches) - (tower.kept_graphs if tower.trainable else 0)
    for number, (inputs, seed) in enumerate(zip(tower.micro_batches, tower.seeds, strict=True)):
        with torch.set_grad_enabled(number >= first_kept):
            torch.manual_seed(seed)
            rows = tower.encode(inputs)
        if number >= first_kept:
            kept.append(rows)
        embedded.append(rows.detach())
    return torch.cat(embedded).requires_grad_(tower.trainable), kept


def _backward_tower(tower: TowerInputs, leaf_gradient: torch.Tensor, kept: list[torch.Tensor]) -> None:
    gradients = torch.split(leaf_gradient, [len(inputs) for inputs in tower.micro_batches])
    for number in reversed(range(len(gradients))):
        if kept:
            rows = kept.pop()  # freed after its backward pass, before others are made
        else:
            torch.manual_seed(tower.seeds[number])
            rows = tower.encode(tower.micro_batches[number])
        with tower.backward_context(number == 0):
            torch.autograd.backward(rows, gradients[number])
        del rows
