"""Weights that are published instead of the last step's: their running mean, and points between start and end.

A run holds the mean beside its weights, and saves it with them. It holds no copy of the initial weights: those are a
function of the config, and are built again where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch


class WeightAverage:
    """The exponential running mean of a model's trained weights (Polyak averaging as in Tarvainen and Valpola 2017).

    The statistics of batch norms are averaged as well. The decay of step t is min(decay, (1 + t) / (10 + t)), so that
    the first weights are soon forgotten. Only elementwise operations are used, so that sharded parameters are averaged
    where they lie.

    Args:
        model: its present weights are the first mean.
        decay: share of the old mean that a step keeps, 0 to 1.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        saved = model.state_dict().keys()
        statistics = {
            name: buffer for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()
        }
        self.tensors = {name: tensor.detach().clone() for name, tensor in (trained | statistics).items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Take the weights after a step (counted from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for own, mean in self._pairs(model):
            mean.lerp_(own, 1 - decay)

    @contextmanager
    def swapped(self, model: torch.nn.Module) -> Iterator[None]:
        """Give the model the mean inside, and its own weights back after."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: torch.nn.Module) -> None:
        for own, mean in self._pairs(model):
            before = own.clone()
            own.copy_(mean)
            mean.copy_(before)

    def _pairs(self, model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the model's own tensors, detached, with their means."""
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if name in self.tensors:
                yield tensor.detach(), self.tensors[name]


def interpolate(
    initial: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Return initial + share x (trained - initial) of every floating-point tensor (WiSE-FT, Wortsman et al. 2022).

    Args:
        initial: weights that training began with, by name.
        trained: weights at its end, of the same names and shapes; other tensors than floating-point ones are its own.
        share: 0 gives the initial weights, 1 the trained ones.
    """
    return {
        name: torch.lerp(initial[name].to(tensor), tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in trained.items()
    }
