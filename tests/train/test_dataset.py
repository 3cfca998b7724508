"""Batches are a function of the step: workers, processes and portions change nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmed.errors import DataError
from clipmed.towers import ModelConfig, build_two_tower
from shards.reader import ShardSet
from shards.stream import SampleStream, StreamConfig
from tests.train.conftest import draw
from train import dataset as dataset_module
from train.config import AugmentConfig
from train.dataset import Batch, LoadPlan, PortionDataset, keys_of_step, load_batches
from train.transforms import Augment

BATCH = 8


def make_dataset(shard_set: Path, on_bad_sample: Any = "stop") -> PortionDataset:
    sets = [ShardSet(shard_set)]
    tower = build_two_tower(ModelConfig(config="clipmed_tiny"))
    stream = SampleStream(sets, "train", StreamConfig())
    augment = Augment(AugmentConfig(), 32)
    return PortionDataset(sets, stream, BATCH, augment, tower.tokenizer, on_bad_sample=on_bad_sample)


def load(shard_set: Path, workers: int = 0, rank: int = 0, world_size: int = 1, start: int = 0) -> list[Batch]:
    plan = LoadPlan(batch_size=BATCH, rank=rank, world_size=world_size, workers=workers)
    return list(load_batches(make_dataset(shard_set), plan, start, 4))


def same(first: Batch, second: Batch) -> bool:
    return (
        first.step == second.step
        and torch.equal(first.pixels, second.pixels)
        and torch.equal(first.tokens, second.tokens)
        and torch.equal(first.meanings, second.meanings)
        and torch.equal(first.sources, second.sources)
    )


@pytest.fixture(scope="module")
def batches(shard_set: Path) -> list[Batch]:
    return load(shard_set)


def test_batches_have_the_documented_shapes_and_differ(batches: list[Batch]) -> None:
    assert [batch.step for batch in batches] == [0, 1, 2, 3]
    assert batches[0].pixels.shape == (BATCH, 32, 32, 3)
    assert batches[0].pixels.dtype == torch.uint8
    assert batches[0].tokens.shape == (BATCH, 16)
    assert not torch.equal(batches[0].pixels, batches[1].pixels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_loader_processes_change_nothing(shard_set: Path, batches: list[Batch], workers: int) -> None:
    loaded = load(shard_set, workers=workers)
    assert all(same(got, wanted) for got, wanted in zip(loaded, batches, strict=True))


def test_starting_later_gives_the_same_later_batches(shard_set: Path, batches: list[Batch]) -> None:
    loaded = load(shard_set, start=2)
    assert all(same(got, wanted) for got, wanted in zip(loaded, batches[2:], strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_shares_in_rank_order_are_the_one_process_batch(
    shard_set: Path, batches: list[Batch], world_size: int
) -> None:
    shares = [load(shard_set, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, wanted in enumerate(batches):
        assert torch.equal(torch.cat([share[step].pixels for share in shares]), wanted.pixels)
        assert torch.equal(torch.cat([share[step].tokens for share in shares]), wanted.tokens)


def test_portions_cover_a_share_whatever_their_size(
    shard_set: Path, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "PORTION_SAMPLES", 3)
    loaded = load(shard_set)
    assert all(same(got, wanted) for got, wanted in zip(loaded, batches, strict=True))


def test_keys_of_a_step_are_the_streams(shard_set: Path) -> None:
    sets = [ShardSet(shard_set)]
    stream = SampleStream(sets, "train", StreamConfig())
    plans = [LoadPlan(batch_size=BATCH, rank=rank, world_size=2, workers=0) for rank in range(2)]
    keys = sets[0].column("key")
    wanted = [keys[each.row] for each in stream.plan(3, BATCH)]
    assert [key for plan in plans for key in keys_of_step(sets, stream, plan, 3)] == wanted


def jpeg() -> bytes:
    from clipmed.images import ImageConfig, ingest_image

    return ingest_image(draw("red", 1), ImageConfig()).jpeg


def test_augmentation_is_a_function_of_the_seed() -> None:
    augment = Augment(AugmentConfig(), 32)
    first, again, other = augment(jpeg(), 5), augment(jpeg(), 5), augment(jpeg(), 6)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8


def test_seeds_of_any_size_are_taken() -> None:
    assert Augment(AugmentConfig(), 32)(jpeg(), 2**63 - 1).shape == (32, 32, 3)


def test_without_flips_left_stays_left_and_with_them_it_does_not() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :20] = 250
    import simplejpeg

    half = simplejpeg.encode_jpeg(pixels, quality=95, colorspace="RGB")
    still = AugmentConfig(min_scale=1.0, max_ratio=1.0)
    assert all(Augment(still, 32)(half, seed)[:, :10].mean() > 150 for seed in range(20))
    mirrored = [Augment(replace(still, horizontal_flip=0.5), 32)(half, seed)[:, :10].mean() for seed in range(20)]
    assert min(mirrored) < 50 < 150 < max(mirrored)


def damaged_copy(shard_set: Path, folder: Path) -> tuple[Path, set[str]]:
    """A copy of the set whose first training images are overwritten; return it and the keys of those."""
    copied = folder / "set"
    shutil.copytree(shard_set, copied)
    index = ShardSet(copied).table
    rows = [row for row in index.to_pylist() if row["split"] == "train"][:20]
    for row in rows:
        with (copied / row["shard"]).open("r+b") as stream:
            stream.seek(row["jpg_offset"])
            stream.write(b"x" * row["jpg_size"])
    return copied, {row["key"] for row in rows}


def test_a_damaged_image_stops_the_run_and_is_named(shard_set: Path, tmp_path: Path) -> None:
    copied, keys = damaged_copy(shard_set, tmp_path)
    with pytest.raises(DataError, match=r"cannot be read: image_corrupt.*--data\.on-bad-sample skip") as raised:
        load(copied)
    assert any(key in str(raised.value) for key in keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_skipped_for_others_and_listed(shard_set: Path, tmp_path: Path, workers: int) -> None:
    copied, keys = damaged_copy(shard_set, tmp_path)
    plan = LoadPlan(batch_size=BATCH, rank=0, world_size=1, workers=workers)
    loaded = list(load_batches(make_dataset(copied, "skip"), plan, 0, 4))
    clean = load(shard_set)
    skipped = {(row["step"], row["position"]): row for batch in loaded for row in batch.skipped}
    assert skipped
    for batch, wanted in zip(loaded, clean, strict=True):
        for place in range(BATCH):
            replaced = (batch.step, batch.step * BATCH + place) in skipped
            assert torch.equal(batch.pixels[place], wanted.pixels[place]) != replaced
    assert {row["key"] for row in skipped.values()} <= keys
    assert {row["reason"] for row in skipped.values()} == {"image_corrupt"}
