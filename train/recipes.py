"""Recipes: what to train, as functions that derive one config from another. Each has a smoke-size twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from clipmed.towers import ModelConfig
from train.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    GradCacheConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
    ValidateConfig,
)

Recipe = Callable[[], TrainConfig]


def demo() -> TrainConfig:
    """Phantoms at 72 px: a small model from random weights, about two minutes on two CPU cores."""
    return TrainConfig(
        out=Path("build/demo/run"),
        model=ModelConfig(config="clipmed_demo"),
        data=DataConfig(sets=(Path("build/demo/set"),), batch_size=128, workers=1),
        optim=OptimConfig(lr=2e-3, weight_decay=0.1, warmup_steps=40, steps=430),
        checkpoint=CheckpointConfig(every_steps=100),
        validate=ValidateConfig(every_steps=100, samples=256),
    )


def laptop() -> TrainConfig:
    """Real images at 112 px: a small model from random weights, within half an hour on two CPU cores."""
    base = demo()
    return replace(
        base,
        out=Path("build/laptop/run"),
        model=ModelConfig(config="clipmed_laptop"),
        data=replace(base.data, sets=(), batch_size=128, workers=1),
        optim=replace(base.optim, lr=1e-3, weight_decay=0.2, warmup_steps=60, steps=600),
        checkpoint=CheckpointConfig(every_steps=100),
        validate=ValidateConfig(every_steps=100, samples=512),
    )


def vit_b16() -> TrainConfig:
    """ViT-B/16 with a biomedical BERT, both pretrained, batch 4,096 through the gradient cache on one GPU."""
    return TrainConfig(
        out=Path("build/vit_b16/run"),
        precision="bf16",
        model=ModelConfig(config="clipmed_vit_b16_bert", pretrained_image=True, pretrained_text=True),
        data=DataConfig(batch_size=4096, workers=12),
        augment=AugmentConfig(min_scale=0.5),
        optim=OptimConfig(lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, warmup_steps=1000, steps=20_000),
        gradcache=GradCacheConfig(image_micro_batch=256, text_micro_batch=256),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        validate=ValidateConfig(every_steps=500, samples=4096),
        tracking=TrackingConfig(log_every_steps=10),
    )


def smoke(config: TrainConfig) -> TrainConfig:
    """The same run in a few seconds on a CPU: few steps, small batches, a tiny model of the same kind, no downloads."""
    cache = config.gradcache
    micro_batch = None if cache.image_micro_batch is None else 4
    return replace(
        config,
        out=config.out.with_name(f"{config.out.name}_smoke"),
        precision="fp32",
        model=ModelConfig(config="clipmed_tiny"),
        data=replace(config.data, batch_size=16, workers=min(config.data.workers, 1)),
        optim=replace(config.optim, warmup_steps=2, steps=6),
        gradcache=replace(cache, image_micro_batch=micro_batch, text_micro_batch=micro_batch and 8),
        checkpoint=replace(config.checkpoint, every_steps=3),
        validate=replace(config.validate, every_steps=3, samples=16),
        tracking=replace(config.tracking, log_every_steps=1),
    )


def demo_smoke() -> TrainConfig:
    """The demo recipe in a few seconds."""
    return smoke(demo())


def laptop_smoke() -> TrainConfig:
    """The laptop recipe in a few seconds."""
    return smoke(laptop())


def vit_b16_smoke() -> TrainConfig:
    """The ViT-B/16 recipe, gradient cache included, in a few seconds on a CPU."""
    return smoke(vit_b16())


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe for recipe in (demo, demo_smoke, laptop, laptop_smoke, vit_b16, vit_b16_smoke)
}


def recipe(name: str) -> TrainConfig:
    """Return the config of a recipe.

    Raises:
        ConfigError: no such recipe; the message has the nearest one and all names.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"no recipe is called {name!r}{nearest(name, list(RECIPES))} Allowed: {', '.join(RECIPES)}, or the path of "
            "a YAML file such as a run's config.yaml"
        )
    return RECIPES[name]()
