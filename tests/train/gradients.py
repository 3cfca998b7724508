"""A small model with dropout in both towers, and its gradients by the plain way and by the trainer's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from clipmed.towers import TwoTower
from train.config import GradCacheConfig
from train.dataset import Batch
from train.losses import Embeddings, contrastive_loss
from train.step import Encoders, StepSettings, contrastive_backward, micro_batch_seed

SIDE = 4
VOCABULARY = 50


class SmallModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 16), torch.nn.GELU(), torch.nn.Dropout(0.4),
            torch.nn.Linear(16, 8),
        )  # fmt: skip
        self.words = torch.nn.Embedding(VOCABULARY, 16)
        self.text = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(16, 8))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.logit_bias = torch.nn.Parameter(torch.tensor(-1.5))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.image(pixels)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text(self.words(tokens).mean(dim=1))


def small_two_tower(dtype: torch.dtype = torch.float64) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(
        model=SmallModel().to(dtype).train(), tokenizer=lambda texts: torch.zeros(len(texts), 3, dtype=torch.int64),
        image_size=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), context_length=3, model_cfg={},
    )  # fmt: skip


def small_batch(count: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(0, VOCABULARY, (count, 3), generator=generator)
    return Batch(7, pixels, tokens)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def cached(two_tower: TwoTower, batch: Batch, settings: StepSettings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    two_tower.model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, nullcontext)
    loss = contrastive_backward(encoders, two_tower.model, batch, settings, torch.Tensor.backward)
    return loss, gradients(two_tower.model)


def plain(
    two_tower: TwoTower, batch: Batch, loss_name: Any, sizes: tuple[int, int], seed: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One graph over the whole batch, one backward pass; each micro-batch draws the dropout that training draws."""
    model: Any = two_tower.model
    model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, nullcontext)
    rows = []
    for tower, encode, inputs, size in (
        ("image", encoders.images, batch.pixels, sizes[0]),
        ("text", encoders.texts, batch.tokens, sizes[1]),
    ):
        parts = []
        for start in range(0, len(inputs), size):
            torch.manual_seed(micro_batch_seed(seed, batch.step, tower, start))
            parts.append(encode(inputs[start : start + size]))
        rows.append(torch.cat(parts))
    whole = Embeddings(image=rows[0], text=rows[1], all_images=rows[0], all_texts=rows[1])
    loss = contrastive_loss(loss_name, whole, model.logit_scale.exp(), model.logit_bias)
    loss.backward()
    return loss.detach(), gradients(model)


def settings_of(loss: Any, image: int | None, text: int | None, kept: int = 1, **more: int) -> StepSettings:
    cache = GradCacheConfig(image_micro_batch=image, text_micro_batch=text, kept_graphs=kept)
    return StepSettings(loss=loss, gradcache=cache, seed=3, **more)
