"""Runs one data pipeline in this process, on one thread, and measures its CPU time; started by `benchmarks.loader`.

usage: loader_driver.py open_clip SET COUNT | loader_driver.py clipmed SET COUNT

A sample is done when its pixels are normalised float32 of 224 x 224 and its caption is tokens. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

SIZE, BATCH, WARM = 224, 64, 4
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def open_clip_batches(folder: Path, count: int) -> Iterator[Any]:
    """Yield (pixels, tokens) of OpenCLIP's WebDataset pipeline with its default augmentation."""
    from open_clip import get_tokenizer
    from open_clip.transform import image_transform
    from open_clip_train.data import get_wds_dataset

    shards = "::".join(sorted(str(path) for path in folder.glob("train-*.tar")))
    args = SimpleNamespace(
        train_data=shards, train_data_upsampling_factors=None, dataset_resampled=True, train_num_samples=count,
        seed=0, batch_size=BATCH, workers=0, world_size=1,
    )  # fmt: skip
    transform = image_transform(SIZE, is_train=True, mean=MEAN, std=STD)
    yield from get_wds_dataset(args, transform, True, tokenizer=get_tokenizer("ViT-B-16")).dataloader


def clipmed_batches(folder: Path, count: int) -> Iterator[Any]:
    """Yield (pixels, tokens) of our stream: the same crop, and a mirroring that OpenCLIP does not do."""
    from open_clip import get_tokenizer

    from shards.reader import ShardSet
    from shards.stream import SampleStream, StreamConfig
    from train.config import AugmentConfig
    from train.dataset import Portion, PortionDataset
    from train.transforms import Augment

    sets = [ShardSet(folder)]
    config = AugmentConfig(
        min_scale=0.9, max_ratio=4 / 3, brightness=0, contrast=0, saturation=0, hue=0, horizontal_flip=0.5
    )
    stream = SampleStream(sets, "train", StreamConfig())
    dataset = PortionDataset(sets, stream, BATCH, Augment(config, SIZE), get_tokenizer("ViT-B-16"))
    mean, std = (torch.tensor(values) for values in (MEAN, STD))
    factor, offset = 1 / (255 * std), -mean / std
    for step in range(count // BATCH):
        batch = dataset[Portion(step, 0, BATCH)]
        pixels = torch.empty(batch.pixels.shape)
        for place, image in zip(pixels, batch.pixels, strict=True):  # one by one, in the core's cache
            place.copy_(image).mul_(factor).add_(offset)
        yield pixels.permute(0, 3, 1, 2), batch.tokens


def measure(pipeline: str, folder: Path, count: int) -> dict[str, float]:
    """Return CPU and wall milliseconds a sample, after some warm-up batches."""
    torch.set_num_threads(1)
    batches = (open_clip_batches if pipeline == "open_clip" else clipmed_batches)(folder, count + WARM * BATCH)
    done = -WARM * BATCH
    cpu = wall = 0.0
    for pixels, tokens in batches:
        assert pixels.shape[1:] == (3, SIZE, SIZE)
        assert pixels.dtype == torch.float32
        done += len(tokens)
        if done == 0:
            cpu, wall = time.process_time(), time.perf_counter()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"samples": done, "cpu_ms": cpu / done * 1000, "wall_ms": wall / done * 1000}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
