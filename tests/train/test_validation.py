"""Retrieval numbers against tables worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.reader import ShardSet
from train.validation import choose_samples, retrieval

AXES = torch.eye(3)


def test_recall_by_hand() -> None:
    images = AXES
    texts = torch.stack([AXES[0], AXES[2], AXES[1]])  # captions of images 1 and 2 are swapped
    numbers = torch.arange(3)
    found = retrieval(images, numbers, texts, numbers)
    # Images 1 and 2: the right text scores 0, as one wrong text does; the other wrong text scores 1.
    assert found["image_to_text_r1"] == pytest.approx(1 / 3)
    assert found["image_to_text_r5"] == 1.0
    assert found["text_to_image_r1"] == pytest.approx(1 / 3)
    assert found["image_to_text_chance_r1"] == pytest.approx(1 / 3)


def test_any_caption_of_equal_meaning_is_right() -> None:
    images = AXES[:2]
    texts = torch.stack([AXES[2], AXES[0], AXES[1]])
    found = retrieval(images, torch.tensor([0, 1]), texts, torch.tensor([0, 0, 1]))
    assert found["image_to_text_r1"] == 1.0
    # Chance of one random caption: two of three are right for the first image, one for the second.
    assert found["image_to_text_chance_r1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["text_to_image_r1"] == pytest.approx(2 / 3)


def test_a_model_that_says_the_same_of_everything_finds_nothing() -> None:
    same = torch.ones(4, 3) / 3**0.5
    found = retrieval(same, torch.arange(4), same, torch.arange(4))
    assert found["image_to_text_r1"] == found["text_to_image_r1"] == 0.0


def test_samples_are_taken_evenly_and_share_meanings(shard_set: Path) -> None:
    sets = [ShardSet(shard_set)]
    all_rows = sets[0].rows("val").tolist()
    samples = choose_samples(sets, "val", 8)
    assert [row for _, row in samples.rows] == [all_rows[place * len(all_rows) // 8] for place in range(8)]
    facts = sets[0].column("facts")
    for (_, row), meaning in zip(samples.rows, samples.meanings.tolist(), strict=True):
        others = [
            other for (_, other), same in zip(samples.rows, samples.meanings.tolist(), strict=True) if same == meaning
        ]
        assert {facts[other] for other in others} == {facts[row]}
    assert len(choose_samples(sets, "val", 10_000).rows) == len(all_rows)
