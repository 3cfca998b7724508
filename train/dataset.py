"""From the sample stream to the batches of one process: read, decoded, varied and tokenised in loader processes.

The unit of loading is a portion: some consecutive positions of one step. A batch is put together from portions, so that
neither its size nor the number of loader processes decides what is in it. The batch of the next step is put together
while this one trains.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from clipmed.errors import DataError, ItemRejectedError
from shards.reader import ShardSet
from shards.storage import SampleError
from shards.stream import Draw, SampleStream
from train.transforms import Augment

PORTION_SAMPLES = 256
TIMEOUT_S = 600
MAX_ATTEMPTS = 20

ImageHWC = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Portion:
    """Positions `start` … `stop`-1 inside the global batch of a step."""

    step: int
    start: int
    stop: int


@dataclass(slots=True, kw_only=True)
class Batch:
    """One process's share of a step, or a portion of it, N samples.

    `pixels` are uint8 (N, H, W, 3); `tokens` int64 (N, context length). `meanings`, int64 (N,), are equal for samples
    with equal caption facts, or equal captions where a sample has no facts. `sources`, int64 (N,), count in
    `SampleStream.source_names`. `skipped` has a row for every bad sample that another one stands for.
    """

    step: int
    pixels: torch.Tensor
    tokens: torch.Tensor
    meanings: torch.Tensor
    sources: torch.Tensor
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Which part of every global batch this process loads, and how. `pin` puts pixels where a GPU reads them."""

    batch_size: int
    rank: int
    world_size: int
    workers: int
    pin: bool = False

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


class _Item(NamedTuple):
    pixels: ImageHWC
    text: str
    meaning: int
    draw: Draw


class PortionDataset(Dataset[Batch]):
    """Loads portions; picklable, so that loader processes may be started by any method.

    Args:
        sets: open shard sets.
        stream: which samples come.
        batch_size: of the global batch.
        augment: bytes and seed to pixels.
        tokenizer: N texts to int64 (N, context length).
        on_bad_sample: `stop` raises DataError at a sample that cannot be read; `skip` takes another of its pool.
    """

    def __init__(
        self,
        sets: Sequence[ShardSet],
        stream: SampleStream,
        batch_size: int,
        augment: Augment,
        tokenizer: Callable[[list[str]], torch.Tensor],
        *,
        on_bad_sample: Literal["stop", "skip"] = "stop",
    ) -> None:
        self._sets = sets
        self._stream = stream
        self._batch_size = batch_size
        self._augment = augment
        self._tokenizer = tokenizer
        self._on_bad_sample = on_bad_sample

    @property
    def start_method(self) -> str:
        """How loader processes are started: clients of remote sets have threads, which a fork would lose."""
        return "spawn" if any(shard_set.is_remote for shard_set in self._sets) else "fork"

    def __getitem__(self, portion: Portion) -> Batch:
        before = portion.step * self._batch_size
        draws = self._stream.draws(before + portion.start, before + portion.stop)
        items, skipped = self._load(draws)
        return Batch(
            step=portion.step,
            pixels=torch.from_numpy(np.stack([item.pixels for item in items])),
            tokens=self._tokenizer([item.text for item in items]),
            meanings=torch.tensor([item.meaning for item in items], dtype=torch.int64),
            sources=torch.from_numpy(self._stream.sources_of([item.draw for item in items])),
            skipped=[{"step": portion.step, **row} for row in skipped],
        )

    def _load(self, draws: Sequence[Draw]) -> tuple[list[_Item], list[dict[str, Any]]]:
        """Read and decode all draws, taking alternates for bad ones as far as the policy allows."""
        items: dict[int, _Item] = {}
        skipped: list[dict[str, Any]] = []
        wanted = dict(enumerate(draws))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            bad: dict[int, Draw] = {}
            for place, found in self._read(wanted).items():
                if isinstance(found, _Item):
                    items[place] = found
                else:
                    skipped.append(self._refuse(wanted[place], found))
                    bad[place] = self._stream.alternate(draws[place], attempt)
            if not bad:
                return [items[place] for place in range(len(draws))], skipped
            wanted = bad
        raise DataError(
            f"{MAX_ATTEMPTS} samples in a row could not be read for one position, the last because of "
            f"{skipped[-1]['detail']}; `python -m shards verify` shows what is left of the set"
        )

    def _read(self, wanted: dict[int, Draw]) -> dict[int, _Item | SampleError]:
        """Return what became of each draw; the rows of one set are read together."""
        found: dict[int, _Item | SampleError] = {}
        for number, shard_set in enumerate(self._sets):
            places = [place for place, draw in wanted.items() if draw.set_index == number]
            members = shard_set.fetch([wanted[place].row for place in places])
            for place, member in zip(places, members, strict=True):
                found[place] = member if isinstance(member, SampleError) else self._item(wanted[place], *member)
        return found

    def _item(self, draw: Draw, jpeg: bytes, record: dict[str, Any]) -> _Item | SampleError:
        text = record["captions"][draw.caption_index]["text"]
        try:
            pixels = self._augment(jpeg, draw.augment_seed)
        except ItemRejectedError as error:
            return SampleError(reason=error.reason, detail=f"the image does not decode ({error.detail})")
        return _Item(pixels, text, meaning_number(record["facts"] or text), draw)

    def _refuse(self, draw: Draw, error: SampleError) -> dict[str, Any]:
        """Return the row of a skipped sample; raise where the policy is to stop."""
        shard_set = self._sets[draw.set_index]
        key = shard_set.column("key")[draw.row]
        if self._on_bad_sample == "stop":
            raise DataError(
                f"sample {key} of {shard_set.location} cannot be read: {error.reason}: {error.detail}; "
                "`python -m shards verify` names what is damaged; --data.on-bad-sample skip goes on without it"
            )
        return {
            "position": draw.position, "key": key, "set": str(shard_set.location), "row": draw.row,
            "reason": str(error.reason), "detail": error.detail,
        }  # fmt: skip


def meaning_number(meaning: str) -> int:
    """Return a number for caption facts or a caption: equal ones get equal numbers, others almost surely not.

    The first 63 bits of the SHA-256: among 24 million meanings two share one with a chance of 3 in 100,000.
    """
    return int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:8], "big") >> 1


def load_batches(
    dataset: PortionDataset, plan: LoadPlan, start_step: int, stop_step: int
) -> Generator[Batch, None, None]:
    """Yield this process's batches of steps `start_step` … `stop_step`-1, loaded ahead by the loader processes.

    Close it to end the loader processes, when not all batches are taken.
    """
    steps = range(start_step, stop_step)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        sampler=_Portions(plan, steps),
        batch_size=None,
        num_workers=plan.workers,
        multiprocessing_context=dataset.start_method if plan.workers else None,
        prefetch_factor=4 if plan.workers else None,
        timeout=TIMEOUT_S if plan.workers else 0,
        worker_init_fn=_leave_signals_alone,
    )
    portions = iter(loader)
    batches = (_join([next(portions) for _ in plan.portions(step)], plan) for step in steps)
    try:
        # One batch ahead in a thread: with large batches the loader processes' own queue holds only part of the next.
        with ThreadPoolExecutor(1, "batch") as pool:
            coming = pool.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                yield batch
    finally:
        # The loader processes end when nothing refers to their iterator; they do not listen to signals.
        batches.close()
        del batches, portions


def _join(parts: Sequence[Batch], plan: LoadPlan) -> Batch:
    if len(parts) == 1 and not plan.pin:
        return parts[0]
    pixels = torch.empty((plan.local_size, *parts[0].pixels.shape[1:]), dtype=torch.uint8, pin_memory=plan.pin)
    torch.cat([part.pixels for part in parts], out=pixels)
    return Batch(
        step=parts[0].step,
        pixels=pixels,
        tokens=torch.cat([part.tokens for part in parts]),
        meanings=torch.cat([part.meanings for part in parts]),
        sources=torch.cat([part.sources for part in parts]),
        skipped=[row for part in parts for row in part.skipped],
    )


def _leave_signals_alone(_worker: int) -> None:
    """A scheduler signals every process of a job; only the training process may answer, not its forked loaders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def keys_of_step(sets: Sequence[ShardSet], stream: SampleStream, plan: LoadPlan, step: int) -> list[str]:
    """Return the keys of this process's samples of a step, in order."""
    keys = [shard_set.column("key") for shard_set in sets]
    first = step * plan.batch_size + plan.first
    return [keys[draw.set_index][draw.row] for draw in stream.draws(first, first + plan.local_size)]
