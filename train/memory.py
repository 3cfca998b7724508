"""How many micro-batches' activations fit: measured in the first step, then as many as memory allows.

The first step keeps one micro-batch of each tower and counts the bytes that its graph holds. What the step left free
is the budget of all later ones. Which are kept does not change the result (see `train.gradcache`), so that a run may be
resumed on another machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch.distributed.tensor import DTensor

from train.collectives import largest_over_processes

TowerName = Literal["image", "text"]

CUDA_SHARE = 0.85  # of the free memory: allocators fragment, and later texts may be longer
HOST_SHARE = 0.5  # of the available memory, which loaders and the file cache need too


class GraphBudget:
    """Decides, step by step, how many micro-batches of each tower keep their activations.

    Args:
        kept_graphs: how many, or None for as many as fit.
        device: where the towers run.
        parameters: of the towers. Where they are sharded, all processes keep equally many graphs, since what is not
            kept gathers them once more, which all processes do together.
    """

    def __init__(
        self, kept_graphs: int | None, device: torch.device, parameters: Iterable[torch.nn.Parameter] = ()
    ) -> None:
        self._fixed = kept_graphs
        self._device = device
        self._processes = next((item.device_mesh.size() for item in parameters if isinstance(item, DTensor)), 1)
        self._bytes_per_unit: dict[TowerName, float] = {}
        self._budget: float | None = None

    def kept(self, units: dict[TowerName, Sequence[int]]) -> dict[TowerName, int]:
        """Return how many of each tower's last micro-batches to keep.

        Args:
            units: the size of every micro-batch, in order: images, or tokens with their padding. The image tower comes
                first, whose second forward pass costs more for its bytes.
        """
        if self._fixed is not None:
            return {tower: min(self._fixed, len(sizes)) for tower, sizes in units.items()}
        left = self._budget or 0.0
        kept: dict[TowerName, int] = {}
        for tower, sizes in units.items():
            count = 0
            for size in reversed(sizes):
                cost = self._bytes_per_unit.get(tower, float("inf")) * size
                if count and cost > left:
                    break
                left -= cost if count else 0.0  # the first one was there when the budget was measured
                count += 1
            kept[tower] = -largest_over_processes(-count, self._processes, self._device)
        return kept

    @contextmanager
    def measuring(self, tower: TowerName, units: int) -> Iterator[None]:
        """Count the bytes that the graph made inside holds, of a micro-batch of so many units, until that is known."""
        if self._fixed is not None or tower in self._bytes_per_unit or not torch.is_grad_enabled():
            yield
            return
        storages: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            yield
        self._bytes_per_unit[tower] = sum(storages.values()) / max(units, 1)

    def bytes_per_unit(self, tower: TowerName) -> float:
        """Return the bytes that a tower's graph was measured to hold for an image, or for a token."""
        return self._bytes_per_unit[tower]

    def settle(self) -> None:
        """Take what is free now, at the end of the first step, as the budget."""
        if self._fixed is None and self._budget is None:
            self._budget = _free_bytes(self._device)


def _free_bytes(device: torch.device) -> float:
    """Return the bytes that may be added to the peak of the step before."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
        return CUDA_SHARE * (free + max(unused, 0))
    import psutil

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return HOST_SHARE * float(psutil.virtual_memory().available) / processes
