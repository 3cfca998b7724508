"""OpenCLIP's own training loop, run on batches that lie in memory: its steps without its loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

MicroBatches = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLoader:
    """What `train_one_epoch` needs of a loader: micro-batches of float pixels (n, 3, H, W) and tokens (n, L)."""

    micro_batches: MicroBatches

    @property
    def num_batches(self) -> int:
        """How many micro-batches there are."""
        return len(self.micro_batches)

    @property
    def num_samples(self) -> int:
        """How many pairs they hold."""
        return sum(len(tokens) for _, tokens in self.micro_batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.micro_batches)


def open_clip_epoch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: MicroBatches,
    accum_freq: int,
    precision: str = "fp32",
) -> None:
    """Run `open_clip_train.train.train_one_epoch` once over the micro-batches, on one process, with its own loss.

    Args:
        model: an OpenCLIP model with `output_dict` set; gradients are left on it.
        optimizer: stepped once every `accum_freq` micro-batches.
        micro_batches: see `MemoryLoader`.
        accum_freq: OpenCLIP's --accum-freq.
        precision: OpenCLIP's --precision, such as fp32 or amp_bf16.
    """
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    device = next(model.parameters()).device
    loader = MemoryLoader(micro_batches=micro_batches)
    args = SimpleNamespace(
        device=str(device), precision=precision, distill=False, accum_freq=accum_freq, skip_scheduler=True,
        horovod=False, grad_clip_norm=None, log_every_n_steps=10**6, batch_size=len(micro_batches[0][1]), world_size=1,
        rank=0, local_rank=0, log_local=False, wandb=False,
    )  # fmt: skip
    data: dict[str, Any] = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda _epoch: None)}
    train_one_epoch(model, data, ClipLoss(), 0, optimizer, None, None, None, args)
