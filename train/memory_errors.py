"""Out of memory, said in the run's own settings: which one to turn, what it is, and what to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from clipmed.errors import ClipmedError
from train.config import TrainConfig

MemoryStage = Literal["image", "text", "loss", "optimizer"]

# What allocators that raise a plain RuntimeError say: the CPU's, and the libraries that allocate by themselves.
MARKS = ("DefaultCPUAllocator", "out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
PLACES: dict[MemoryStage, str] = {
    "image": "in the image tower",
    "text": "in the text tower",
    "loss": "in the loss",
    "optimizer": "in the optimiser's step",
}
FIRST_TOKENS = 16_384
FIRST_TILE = 1024


@contextmanager
def naming_the_knob(stage: MemoryStage, config: TrainConfig, world_size: int = 1) -> Iterator[None]:
    """Turn running out of memory inside into an error that names the settings to turn.

    Raises:
        ClipmedError: there was not enough memory, on the CPU or on a GPU. Other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        knobs = "; ".join(_knobs(stage, config, config.data.batch_size // world_size))
        raise ClipmedError(
            f"out of memory {PLACES[stage]} ({said[0]}). Turn one of these: {knobs}. The newest checkpoint stands"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; the CPU's allocator has no exception of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


def _knobs(stage: MemoryStage, config: TrainConfig, local_size: int) -> list[str]:
    """Return what helps, the cheapest in time first."""
    if stage == "image":
        return [*_kept_graphs(config), *_images(config, local_size), *_recompute(config)]
    if stage == "text":
        return [*_kept_graphs(config), *_texts(config, local_size), *_recompute(config)]
    if stage == "loss":
        return [_knob("loss.tile", config.loss.tile, max(1, (config.loss.tile or 2 * FIRST_TILE) // 2))]
    if config.parallel.shard_weights:
        return ["more processes, which share the weights out further", "a smaller model.config"]
    return ["parallel.shard_weights (now False), on several processes; try True", "a smaller model.config"]


def _kept_graphs(config: TrainConfig) -> list[str]:
    kept = config.gradcache.kept_graphs
    if kept is None:
        return ["gradcache.kept_graphs (now None: as many as fit; try 1)"]
    return [_knob("gradcache.kept_graphs", kept, kept // 2)] if kept > 1 else []


def _images(config: TrainConfig, local_size: int) -> list[str]:
    now = config.gradcache.image_micro_batch
    half = min(now or local_size, local_size) // 2
    return [_knob("gradcache.image_micro_batch", now, half, f"all {local_size}")] if half else []


def _texts(config: TrainConfig, local_size: int) -> list[str]:
    tokens, texts = config.gradcache.text_tokens, config.gradcache.text_micro_batch
    half = min(texts or local_size, local_size) // 2
    return [
        _knob("gradcache.text_tokens", tokens, max(1, tokens // 2) if tokens else FIRST_TOKENS, "no limit"),
        *([_knob("gradcache.text_micro_batch", texts, half, f"all {local_size}")] if half else []),
    ]


def _recompute(config: TrainConfig) -> list[str]:
    return [] if config.parallel.recompute_activations else ["parallel.recompute_activations (now False; try True)"]


def _knob(name: str, now: int | None, suggested: int, none: str = "chosen by itself") -> str:
    return f"{name} (now {f'None: {none}' if now is None else now}; try {suggested})"
