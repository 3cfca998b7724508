"""A small model with dropout in both towers, and its gradients by the plain way and by the trainer's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from clipmed.pixels import PixelConfig
from clipmed.towers import TwoTower
from train.config import GradCacheConfig, LossConfig
from train.dataset import Batch
from train.losses import Embeddings, contrastive_loss
from train.memory import GraphBudget
from train.parallel import Towers
from train.step import Encoders, StepSettings, StepTools, contrastive_backward, micro_batch_seed
from train.texts import plan_texts

SIDE = 4
VOCABULARY = 50


class SmallModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 16), torch.nn.GELU(), torch.nn.Dropout(0.4),
            torch.nn.Linear(16, 8),
        )  # fmt: skip
        self.words = torch.nn.Embedding(VOCABULARY, 16)
        self.text = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(16, 8))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.logit_bias = torch.nn.Parameter(torch.tensor(-1.5))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.visual(pixels)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text(self.words(tokens).mean(dim=1))


def small_two_tower(dtype: torch.dtype = torch.float64) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(
        model=SmallModel().to(dtype).train(), tokenizer=lambda texts: torch.zeros(len(texts), 3, dtype=torch.int64),
        pixels=PixelConfig(size=(SIDE, SIDE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        context_length=3, model_cfg={},
    )  # fmt: skip


def small_batch(count: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(0, VOCABULARY, (count, 3), generator=generator)
    meanings = torch.randint(0, 5, (count,), generator=generator)
    return Batch(step=7, pixels=pixels, tokens=tokens, meanings=meanings, sources=torch.zeros(count, dtype=torch.int64))


def part_of(batch: Batch, rows: slice) -> Batch:
    return Batch(
        step=batch.step, pixels=batch.pixels[rows], tokens=batch.tokens[rows], meanings=batch.meanings[rows],
        sources=batch.sources[rows],
    )  # fmt: skip


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def tools_of(kept: int | None, model: torch.nn.Module, world_size: int = 1) -> StepTools:
    return StepTools(budget=GraphBudget(kept, torch.device("cpu")), towers=Towers(model, {}, world_size))


def cached(
    two_tower: TwoTower, batch: Batch, settings: StepSettings, autocast: Any = nullcontext
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The trainer's own way."""
    two_tower.model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, autocast)
    tools = tools_of(settings.gradcache.kept_graphs, two_tower.model, settings.world_size)
    loss = contrastive_backward(encoders, two_tower.model, batch, settings, tools, torch.Tensor.backward)
    return loss.value, gradients(two_tower.model)


def plain(
    two_tower: TwoTower, batch: Batch, settings: StepSettings, autocast: Any = nullcontext
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One graph over the whole batch, one backward pass, texts padded to the context length.

    Each micro-batch draws the dropout that training draws.
    """
    model: Any = two_tower.model
    model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, autocast)
    cache = settings.gradcache
    image_rows = torch.arange(len(batch.pixels)).split(cache.image_micro_batch or len(batch.pixels))
    text_rows = plan_texts(encoders.text_tower.lengths(batch.tokens), batch.tokens.shape[1], cache).rows
    embedded = []
    for tower, encode, inputs, parts in (
        ("image", encoders.images, batch.pixels, image_rows),
        ("text", encoders.texts, batch.tokens, text_rows),
    ):
        rows, position = [], 0
        for part in parts:
            torch.manual_seed(micro_batch_seed(settings.seed, batch.step, tower, position))
            rows.append(encode(inputs[part]))
            position += len(part)
        embedded.append(torch.cat(rows)[torch.argsort(torch.cat(list(parts)))])
    image, text = embedded
    whole = Embeddings(
        image=image, text=text, all_images=image, all_texts=text, meanings=batch.meanings, all_meanings=batch.meanings
    )
    loss = contrastive_loss(settings.loss, whole, model.logit_scale.exp(), model.logit_bias).value
    loss.backward()
    return loss.detach(), gradients(model)


def settings_of(
    name: Any, image: int | None, text: int | None, kept: int | None = 1, equals: Any = "negatives", **more: Any
) -> StepSettings:
    cache = GradCacheConfig(
        image_micro_batch=image, text_micro_batch=text, kept_graphs=kept, text_tokens=more.pop("text_tokens", None)
    )
    return StepSettings(loss=LossConfig(name=name, equals=equals), gradcache=cache, seed=3, **more)
