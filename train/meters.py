"""Numbers between two rows of the log: rates, memory, and the loss and share of each source."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from train.collectives import sum_over_processes
from train.dataset import Batch
from train.step import StepLoss

GB = 1e9


@dataclass(slots=True, kw_only=True)
class Meter:
    """Gathers what happens between two rows of the log.

    Args:
        source_names: names of the numbers in `Batch.sources`.
        world_size: processes whose samples are summed.
        device: where sums are exchanged.
        peak: the device's peak in FLOP/s, or None.
    """

    source_names: Sequence[str]
    world_size: int
    device: torch.device
    peak: float | None
    seconds: float = 0.0
    wait_seconds: float = 0.0
    pairs: int = 0
    tokens: int = 0
    flops: float = 0.0
    _sums: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._sums = torch.zeros((2, len(self.source_names)), dtype=torch.float64)

    def add(self, batch: Batch, loss: StepLoss, flops: float, *, seconds: float, wait_seconds: float) -> None:
        """Take one step of this process."""
        self.seconds += seconds
        self.wait_seconds += wait_seconds
        self.pairs += len(batch.tokens)
        self.tokens += loss.tokens
        self.flops += flops
        rows = loss.rows.detach().double().cpu()
        self._sums[0].index_add_(0, batch.sources, rows)
        self._sums[1].index_add_(0, batch.sources, torch.ones_like(rows))

    def take(self) -> dict[str, float | None]:
        """Return the row's numbers over all processes, and begin anew.

        Pairs and tokens a second count all processes; `mfu` and `data_wait` are this process's; `loss/<source>` and
        `share/<source>` are means over all samples since the last row.
        """
        seconds = max(self.seconds, 1e-9)
        mfu = None if self.peak is None else self.flops / (seconds * self.peak)
        values: dict[str, float | None] = {
            "pairs_per_s": self.pairs * self.world_size / seconds,
            "tokens_per_s": self.tokens * self.world_size / seconds,
            "data_wait": self.wait_seconds / seconds,
            "mfu": mfu,
            "peak_memory_gb": peak_memory(self.device) / GB,
        }
        sums = sum_over_processes(self._sums.to(self.device), self.world_size).cpu()
        total = max(float(sums[1].sum()), 1.0)
        for name, loss, count in zip(self.source_names, sums[0].tolist(), sums[1].tolist(), strict=True):
            values[f"share/{name}"] = count / total
            if count:
                values[f"loss/{name}"] = loss / count
        self.seconds = self.wait_seconds = self.flops = 0.0
        self.pairs = self.tokens = 0
        self._sums.zero_()
        return values


def peak_memory(device: torch.device) -> float:
    """Return the largest number of bytes held so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
