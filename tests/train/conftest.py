"""A shard set of small drawn images, packed once for all tests of the trainer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmed.images import ImageConfig, ingest_image
from clipmed.records import Caption, Modality, Sample, Split, sample_key
from clipmed.towers import ModelConfig
from shards.pack import pack
from shards.spool import SpoolInfo, open_spool, write_unit
from train.config import TrainConfig
from train.recipes import recipe

SOURCE = "phantom_squares"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (120, 120, 120)}
PER_COLOUR = 24


def draw(colour: str, number: int) -> bytes:
    generator = np.random.default_rng([number, *COLOURS[colour]])
    pixels = generator.integers(0, 60, (48, 40, 3), dtype=np.uint8)
    top, left = generator.integers(2, 16, 2)
    pixels[top : top + 20, left : left + 20] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_sample(colour: str, number: int) -> Sample:
    stored = ingest_image(draw(colour, number), ImageConfig())
    texts = (f"a {colour} square", f"square, {colour}", f"the picture shows a {colour} square")
    return Sample(
        key=sample_key(SOURCE, f"{colour}/{number}"),
        source=SOURCE,
        image=stored.jpeg,
        captions=tuple(Caption(text=text, origin="template") for text in texts),
        modality=Modality.OTHER,
        group=f"{colour}-{number}",
        license="CC0-1.0",
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        labels={"colour": [colour]},
        facts={"colour": colour},
        split=(Split.VAL if number % 4 == 0 else Split.TRAIN),
    )


def make_set(folder: Path) -> Path:
    spool = folder / "spool"
    tasks = {"colour": {"modality": "other", "source": SOURCE, "classes": {name: name.title() for name in COLOURS}}}
    open_spool(spool, SpoolInfo(source=SOURCE, num_units=1, tasks=tasks))
    with write_unit(spool, 0, SOURCE) as unit:
        for colour in COLOURS:
            for number in range(PER_COLOUR):
                unit.add(make_sample(colour, number))
    pack([spool], folder / "set", progress=False)
    return folder / "set"


@pytest.fixture(scope="session")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def model_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with patch dropout, so that training draws random numbers."""
    path = tmp_path_factory.mktemp("model") / "tiny_dropout.json"
    path.write_text(
        """{"embed_dim": 16, "custom_text": true,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8,
                       "patch_dropout": 0.3},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}"""
    )
    return path


def make_config(shard_set: Path, model_json: Path, folder: Path) -> TrainConfig:
    """Six steps of sixteen pairs with dropout, augmentation, gradient cache, checkpoints and validation."""
    base = recipe("demo_smoke")
    return replace(
        base,
        out=folder / "run",
        model=ModelConfig(config=str(model_json)),
        data=replace(base.data, sets=(shard_set,), workers=0),
        gradcache=replace(base.gradcache, image_micro_batch=4, text_micro_batch=8),
        optim=replace(base.optim, lr=1e-3),
        checkpoint=replace(base.checkpoint, every_steps=2),
        tracking=replace(base.tracking, tensorboard=False),
    )


@pytest.fixture
def config(shard_set: Path, model_json: Path, tmp_path: Path) -> TrainConfig:
    return make_config(shard_set, model_json, tmp_path)
