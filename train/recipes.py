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
    GuardConfig,
    LossConfig,
    OptimConfig,
    ParallelConfig,
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
        data=DataConfig(sets=("build/demo/set",), batch_size=128, workers=1),
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
        gradcache=GradCacheConfig(text_tokens=2048),
        checkpoint=CheckpointConfig(every_steps=100),
        validate=ValidateConfig(every_steps=100, samples=512),
    )


def vit_b16() -> TrainConfig:
    """ViT-B/16 with a biomedical BERT, both pretrained: batch 32,768 on one 80 GB GPU, captions up to 256 tokens.

    No rival's, but BiomedCLIP's towers with what a gradient cache allows: 5,000 steps are 164 M pairs.
    """
    return TrainConfig(
        out=Path("build/vit_b16/run"),
        precision="bf16",
        model=ModelConfig(config="clipmed_vit_b16_bert", pretrained_image=True, pretrained_text=True),
        data=DataConfig(batch_size=32_768, workers=14),
        augment=AugmentConfig(min_scale=0.5),
        loss=LossConfig(equals="masked"),
        optim=OptimConfig(
            lr=5e-4,
            weight_decay=0.2,
            warmup_steps=500,
            steps=5000,
            layer_decay=0.9,
            ema_decay=0.999,
            clip_grad_norm=1.0,
        ),
        gradcache=GradCacheConfig(image_micro_batch=512, text_tokens=65_536),
        parallel=ParallelConfig(compile=True),
        checkpoint=CheckpointConfig(every_steps=250, keep=3, best_metric="image_to_text_r5"),
        guard=GuardConfig(not_finite="skip", spike="skip"),
        validate=ValidateConfig(every_steps=250, samples=4096),
        tracking=TrackingConfig(log_every_steps=10),
    )


def unimed_b16() -> TrainConfig:
    """UniMed-CLIP B/16: MetaCLIP's image tower, BiomedBERT, context 256, batch 2,048 on one 80 GB GPU (theirs: 16).

    Rate, warm-up, weight decay, crops and the 52.8 M samples are theirs. Ours are bf16 instead of fp16, and that equal
    captions, which their data is full of, are masked: loss.equals=negatives gives their loss.
    """
    base = vit_b16()
    return replace(
        base,
        out=Path("build/unimed_b16/run"),
        model=ModelConfig(
            config="clipmed_unimed_b16", image_weights="ViT-B-16-quickgelu:metaclip_400m", pretrained_text=True
        ),
        data=replace(base.data, batch_size=2048),
        augment=_crops_alone(0.9),
        loss=LossConfig(equals="masked"),
        optim=OptimConfig(lr=5e-4, weight_decay=0.2, warmup_steps=2000, steps=25_800, clip_grad_norm=None),
        checkpoint=replace(base.checkpoint, every_steps=500),
        validate=replace(base.validate, every_steps=500),
    )


def unimed_l14_336() -> TrainConfig:
    """UniMed-CLIP L/14 at 336 px with base text tower: batch 2,048 on one 80 GB GPU or more (theirs: 16).

    Otherwise as unimed_b16. MetaCLIP's weights are those of 224 px, their position embeddings interpolated.
    """
    base = unimed_b16()
    return replace(
        base,
        out=Path("build/unimed_l14_336/run"),
        model=ModelConfig(
            config="clipmed_unimed_l14_336", image_weights="ViT-L-14-quickgelu:metaclip_400m", pretrained_text=True
        ),
        optim=replace(base.optim, lr=4e-4),
        gradcache=GradCacheConfig(image_micro_batch=64, text_tokens=32_768),
    )


def bmc_clip() -> TrainConfig:
    """BMC-CLIP: CommonPool's ViT-L/14 trained on, context 77, batch 8,192 on one 80 GB GPU (theirs: 8), WiSE-FT.

    Start, rate, betas, weight decay and warm-up are those of its scripts, the batch is version 1.1's. The 12,000 steps
    (98 M pairs) and WiSE-FT's share are ours.
    """
    return TrainConfig(
        out=Path("build/bmc_clip/run"),
        precision="bf16",
        model=ModelConfig(config="ViT-L-14", pretrained="commonpool_xl_clip_s13b_b90k"),
        data=DataConfig(batch_size=8192, workers=14),
        augment=_crops_alone(0.9),
        optim=OptimConfig(lr=1e-6, betas=(0.9, 0.95), weight_decay=0.2, warmup_steps=1000, steps=12_000, wise_ft=0.5),
        gradcache=GradCacheConfig(image_micro_batch=128, text_tokens=32_768),
        checkpoint=CheckpointConfig(every_steps=500, keep=3, best_metric="image_to_text_r5"),
        validate=ValidateConfig(every_steps=500, samples=4096),
    )


def biomedclip() -> TrainConfig:
    """BiomedCLIP: ViT-B/16 from random weights and PubMedBERT, context 256, batch 4,096 on one 80 GB GPU.

    The towers are theirs (PubMedBERT is BiomedBERT's former name). The schedule is ours: 40,000 steps are 164 M pairs.
    model.pretrained_image=true begins with timm's weights instead.
    """
    base = vit_b16()
    return replace(
        base,
        out=Path("build/biomedclip/run"),
        model=replace(base.model, pretrained_image=False),
        data=replace(base.data, batch_size=4096),
        loss=LossConfig(),
        optim=OptimConfig(lr=5e-4, weight_decay=0.2, warmup_steps=2000, steps=40_000, clip_grad_norm=1.0),
        checkpoint=replace(base.checkpoint, every_steps=500),
        validate=replace(base.validate, every_steps=500),
    )


def lit_b16() -> TrainConfig:
    """LiT: a locked, pretrained ViT-B/16 and a BERT that learns to fit it, batch 32,768 on one 80 GB GPU.

    Only the image tower's projection trains, so that a step has no backward pass through the images.
    """
    base = vit_b16()
    return replace(
        base,
        out=Path("build/lit_b16/run"),
        loss=LossConfig(equals="masked"),
        optim=OptimConfig(
            lr=1e-3, weight_decay=1e-2, warmup_steps=500, steps=5000, locked=("image",), clip_grad_norm=1.0
        ),
    )


def smoke(config: TrainConfig) -> TrainConfig:
    """The same run in a few seconds on a CPU: few steps, small batches, a tiny model of the same kind, no downloads.

    What the recipe uses (micro-batches, token budgets, locked towers, running means, WiSE-FT) its twin uses too; only
    compiling and sharding are left out.
    """
    cache = config.gradcache
    return replace(
        config,
        out=config.out.with_name(f"{config.out.name}_smoke"),
        precision="fp32",
        model=ModelConfig(config="clipmed_tiny"),
        data=replace(config.data, batch_size=16, workers=min(config.data.workers, 1)),
        optim=replace(config.optim, warmup_steps=2, steps=6),
        gradcache=replace(
            cache,
            image_micro_batch=None if cache.image_micro_batch is None else 4,
            text_micro_batch=None if cache.text_micro_batch is None else 8,
            text_tokens=None if cache.text_tokens is None else 64,
        ),
        parallel=ParallelConfig(),
        checkpoint=replace(config.checkpoint, every_steps=3),
        validate=replace(config.validate, every_steps=3, samples=16),
        tracking=replace(config.tracking, log_every_steps=1),
    )


def _crops_alone(min_scale: float) -> AugmentConfig:
    """OpenCLIP's augmentation: random crops, and no colours changed."""
    return AugmentConfig(min_scale=min_scale, max_ratio=4 / 3, brightness=0, contrast=0, saturation=0, hue=0)


def _twin(function: Recipe) -> Recipe:
    def twin() -> TrainConfig:
        return smoke(function())

    twin.__name__ = f"{function.__name__}_smoke"
    twin.__doc__ = f"The recipe {function.__name__} in a few seconds on a CPU."
    return twin


_FULL: tuple[Recipe, ...] = (demo, laptop, vit_b16, unimed_b16, unimed_l14_336, bmc_clip, biomedclip, lit_b16)
RECIPES: dict[str, Recipe] = {recipe.__name__: recipe for function in _FULL for recipe in (function, _twin(function))}


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
