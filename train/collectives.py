"""What the processes of one run exchange: embeddings before the loss, gradients after it, and a few numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

BUCKET_BYTES = 64 << 20


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward is a reduce-scatter: a process gets the gradients that all have for its rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, world_size: int) -> torch.Tensor:
        ctx.num_rows = rows.shape[0]
        gathered = rows.new_empty((world_size * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        own = grad.new_empty((ctx.num_rows, *grad.shape[1:]))
        dist.reduce_scatter_tensor(own, grad.contiguous())
        return own, None


def gather_rows(rows: torch.Tensor, world_size: int) -> torch.Tensor:
    """Return the rows of all processes in rank order, shape (world_size * N, …); gradients flow back to their owners.

    Every process must hold the same number of rows. The gradient that arrives is the *sum* over processes of the
    gradients of their own losses: averaged over processes, as `average_gradients` does, it is that of the mean loss.
    """
    if world_size == 1:
        return rows
    gathered: torch.Tensor = _GatherRows.apply(rows, world_size)
    return gathered


def average_gradients(parameters: Iterable[torch.nn.Parameter], world_size: int) -> None:
    """Replace every gradient by its mean over the processes, a bucket of parameters at a time.

    Called once a step, after the last backward pass, which makes it right for any number of forward and backward
    passes before it.
    """
    if world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        flat /= world_size
        for gradient, mean in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def sum_over_processes(value: torch.Tensor, world_size: int) -> torch.Tensor:
    """Return the sum of a tensor over the processes."""
    if world_size == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def mean_over_processes(value: torch.Tensor, world_size: int) -> torch.Tensor:
    """Return the mean of a tensor over the processes."""
    return sum_over_processes(value, world_size) / world_size


def largest_over_processes(value: int, world_size: int, device: torch.device) -> int:
    """Return the largest of the processes' integers."""
    if world_size == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def broadcast_weights(model: torch.nn.Module, world_size: int) -> None:
    """Give every process the weights and buffers of rank 0."""
    if world_size > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """Cut into runs of one dtype of about BUCKET_BYTES, last parameters first, as a backward pass makes them."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in reversed(gradients):
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
