"""One optimiser step: encode in micro-batches, lose over all processes' embeddings, synchronise, clip, update."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from clipmed.towers import TwoTower
from train.collectives import average_gradients, gather_rows, mean_over_processes
from train.config import GradCacheConfig
from train.dataset import Batch
from train.gradcache import TowerInputs, cached_backward, cut
from train.losses import Embeddings, LossName, contrastive_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What a step needs to know besides its batch. `first_position` is that of the process's first sample."""

    loss: LossName
    gradcache: GradCacheConfig
    seed: int
    rank: int = 0
    world_size: int = 1
    first_position: int = 0


class Encoders:
    """The towers as functions of what the loader gives: unit-length embeddings in float32 (or the weights' double)."""

    def __init__(self, two_tower: TwoTower, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model: Any = two_tower.model
        self._autocast = autocast
        weight = next(self._model.parameters())
        self._device = weight.device
        self._dtype = weight.dtype
        self._mean = torch.tensor(two_tower.mean, device=self._device, dtype=self._dtype).view(1, 3, 1, 1)
        self._std = torch.tensor(two_tower.std, device=self._device, dtype=self._dtype).view(1, 3, 1, 1)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of pixels, uint8 of shape (N, H, W, 3)."""
        scaled = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(self._dtype) / 255
        with self._autocast():
            features = self._model.encode_image((scaled - self._mean) / self._std)
        return _unit_length(features)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of tokens, int64 of shape (N, context length)."""
        with self._autocast():
            features = self._model.encode_text(tokens.to(self._device, non_blocking=True))
        return _unit_length(features)


def contrastive_backward(
    encoders: Encoders, model: Any, batch: Batch, settings: StepSettings, backward: Callable[[torch.Tensor], None]
) -> torch.Tensor:
    """Give every parameter the gradient of the global batch's loss; return that loss, a detached scalar."""

    def loss(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        embeddings = Embeddings(
            image=images,
            text=texts,
            all_images=gather_rows(images, settings.world_size),
            all_texts=gather_rows(texts, settings.world_size),
            rank=settings.rank,
        )
        return contrastive_loss(settings.loss, embeddings, model.logit_scale.exp(), model.logit_bias)

    cache = settings.gradcache
    towers = [
        _inputs("image", encoders.images, cut(batch.pixels, cache.image_micro_batch), batch.step, settings),
        _inputs("text", encoders.texts, cut(batch.tokens, cache.text_micro_batch), batch.step, settings),
    ]
    value = cached_backward(towers, loss, cache.kept_graphs, backward)
    average_gradients(model.parameters(), settings.world_size)
    return mean_over_processes(value, settings.world_size)


def micro_batch_seed(seed: int, step: int, tower: str, position: int) -> int:
    """Return the seed of a micro-batch's random numbers: a function of the run's seed and the samples' place alone."""
    digest = hashlib.sha256(f"{seed} {step} {tower} {position}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _inputs(
    tower: str,
    encode: Callable[[torch.Tensor], torch.Tensor],
    micro_batches: list[torch.Tensor],
    step: int,
    settings: StepSettings,
) -> TowerInputs:
    seeds = []
    position = settings.first_position
    for inputs in micro_batches:
        seeds.append(micro_batch_seed(settings.seed, step, tower, position))
        position += len(inputs)
    return TowerInputs(encode=encode, micro_batches=micro_batches, seeds=seeds)


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    at_least_float32 = torch.promote_types(features.dtype, torch.float32)
    return torch.nn.functional.normalize(features.to(at_least_float32), dim=-1)
