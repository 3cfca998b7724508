"""From the sample stream to the batches of one process: decoded, varied and tokenised in loader processes.

The unit of loading is a portion: some consecutive positions of one step. A batch is put together from portions, so that
neither its size nor the number of loader processes decides what is in it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from clipmed.errors import DataError, ItemRejectedError
from shards.reader import ShardSet
from shards.stream import Draw, SampleStream
from train.transforms import Augment

PORTION_SAMPLES = 256
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Portion:
    """Positions `start` … `stop`-1 inside the global batch of a step."""

    step: int
    start: int
    stop: int


@dataclass(slots=True)
class Batch:
    """One process's share of a step: `pixels` uint8 (N, H, W, 3) and `tokens` int64 (N, context length)."""

    step: int
    pixels: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Which part of every global batch this process loads, and how."""

    batch_size: int
    rank: int
    world_size: int
    workers: int

    @property
    def local_size(self) -> int:
        """Samples of a step that this process loads."""
        return self.batch_size // self.world_size

    @property
    def first(self) -> int:
        """Position of this process's first sample inside the global batch."""
        return self.rank * self.local_size

    def portions(self, step: int) -> list[Portion]:
        """Return this process's portions of a step, in order."""
        stop = self.first + self.local_size
        starts = range(self.first, stop, PORTION_SAMPLES)
        return [Portion(step, start, min(start + PORTION_SAMPLES, stop)) for start in starts]


@dataclass(frozen=True, slots=True)
class _Portions:
    """The order of loading: every portion of every step."""

    plan: LoadPlan
    steps: range

    def __iter__(self) -> Iterator[Portion]:
        return (portion for step in self.steps for portion in self.plan.portions(step))

    def __len__(self) -> int:
        return len(self.steps) * len(self.plan.portions(0))


class PortionDataset(Dataset[Batch]):
    """Loads portions; picklable, so that loader processes may be started by any method."""

    def __init__(
        self,
        sets: Sequence[ShardSet],
        stream: SampleStream,
        batch_size: int,
        augment: Augment,
        tokenizer: Callable[[list[str]], torch.Tensor],
    ) -> None:
        self._sets = sets
        self._stream = stream
        self._batch_size = batch_size
        self._augment = augment
        self._tokenizer = tokenizer

    def __getitem__(self, portion: Portion) -> Batch:
        draws = self._stream.plan(portion.step, self._batch_size)[portion.start : portion.stop]
        images = [self._image(draw) for draw in draws]
        texts = [self._sets[draw.set_index].captions(draw.row)[draw.caption_index]["text"] for draw in draws]
        return Batch(portion.step, torch.from_numpy(np.stack(images)), self._tokenizer(texts))

    def _image(self, draw: Draw) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        shard_set = self._sets[draw.set_index]
        try:
            return self._augment(shard_set.image_bytes(draw.row), draw.augment_seed)
        except ItemRejectedError as error:
            key = shard_set.column("key")[draw.row]
            raise DataError(
                f"the image of sample {key} does not decode ({error.detail}); its shard is damaged: "
                "`python -m shards verify` names the member"
            ) from error


def load_batches(dataset: PortionDataset, plan: LoadPlan, start_step: int, stop_step: int) -> Iterator[Batch]:
    """Yield this process's batches of steps `start_step` … `stop_step`-1, loaded ahead by the loader processes."""
    steps = range(start_step, stop_step)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        sampler=_Portions(plan, steps),
        batch_size=None,
        num_workers=plan.workers,
        multiprocessing_context="fork" if plan.workers else None,
        prefetch_factor=4 if plan.workers else None,
        timeout=TIMEOUT_S if plan.workers else 0,
        worker_init_fn=_leave_signals_alone,
    )
    portions = iter(loader)
    num_portions = len(plan.portions(0))
    for step in steps:
        parts = [next(portions) for _ in range(num_portions)]
        yield Batch(step, torch.cat([part.pixels for part in parts]), torch.cat([part.tokens for part in parts]))


def _leave_signals_alone(_worker: int) -> None:
    """A scheduler signals every process of a job; only the training process may answer, not its forked loaders."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def keys_of_step(sets: Sequence[ShardSet], stream: SampleStream, plan: LoadPlan, step: int) -> list[str]:
    """Return the keys of this process's samples of a step, in order."""
    keys = [shard_set.column("key") for shard_set in sets]
    draws = stream.plan(step, plan.batch_size)[plan.first : plan.first + plan.local_size]
    return [keys[draw.set_index][draw.row] for draw in draws]
