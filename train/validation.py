"""Retrieval and loss on validation samples, as the run goes.

What counts as found: samples with equal caption facts (or, for free text, equal captions) have the same meaning, and
any of them is a right answer. Equal captions are one candidate and one query. Ties count against the model: a wrong
candidate that scores as high as the best right one is ranked before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import torch

from clipmed.pixels import eval_pixels
from clipmed.towers import TwoTower
from clipmed.zeroshot import embed_images, embed_texts
from shards.reader import ShardSet
from train.collectives import gather_rows
from train.config import LossConfig
from train.losses import Embeddings, contrastive_loss
from train.schedule import evaluation_mode

BATCH_SAMPLES = 64
RANKS = (1, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSamples:
    """Samples to validate on: (set, row) of each image, one of its captions, and a number for its meaning."""

    sets: Sequence[ShardSet]
    rows: list[tuple[int, int]]
    texts: list[str]
    meanings: torch.Tensor


def choose_samples(sets: Sequence[ShardSet], split: str, count: int) -> ValidationSamples:
    """Take `count` samples evenly from the split of all sets, or all where there are fewer; captions in turn."""
    rows = [(number, int(row)) for number, shard_set in enumerate(sets) for row in shard_set.rows(split)]
    count = min(count, len(rows))
    chosen = [rows[number * len(rows) // count] for number in range(count)]
    facts = [shard_set.column("facts") for shard_set in sets]
    captions = [sets[number].captions(row) for number, row in chosen]
    texts = [several[place % len(several)]["text"] for place, several in enumerate(captions)]
    names = [facts[number][row] or text for (number, row), text in zip(chosen, texts, strict=True)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    meanings = torch.tensor([numbers[name] for name in names], dtype=torch.int64)
    return ValidationSamples(sets=sets, rows=chosen, texts=texts, meanings=meanings)


def validate(
    two_tower: TwoTower, samples: ValidationSamples, loss: LossConfig, batch_size: int, rank: int, world_size: int
) -> dict[str, float]:
    """Return loss, recalls and their chance levels; each process embeds its share of the samples.

    The loss is the mean over whole batches of `batch_size` samples (one smaller batch where there are fewer).
    """
    with evaluation_mode(two_tower.model):
        images, texts = _embed(two_tower, samples, rank, world_size)
    value = _loss(two_tower, (images, texts, samples.meanings), loss, batch_size)
    first = list({text: number for number, text in reversed(list(enumerate(samples.texts)))}.values())
    found = retrieval(images, samples.meanings, texts[first], samples.meanings[first])
    return {"loss": value, "samples": len(images), **found}


def retrieval(
    images: torch.Tensor, image_meanings: torch.Tensor, texts: torch.Tensor, text_meanings: torch.Tensor
) -> dict[str, float]:
    """Return recall at 1 and 5 both ways, and what random ranking gives.

    Args:
        images: unit-length embeddings, shape (N, D).
        image_meanings: equal numbers for equal meaning, shape (N,).
        texts: embeddings of distinct captions, shape (M, D).
        text_meanings: in the same numbers, shape (M,); each one is also an image's.
    """
    scores = images @ texts.T
    right = image_meanings[:, None] == text_meanings[None, :]
    values = {}
    for name, score, same in (("image_to_text", scores, right), ("text_to_image", scores.T, right.T)):
        ranks = _ranks(score, same)
        for k in RANKS:
            values[f"{name}_r{k}"] = (ranks < k).double().mean().item()
            values[f"{name}_chance_r{k}"] = _chance(same.sum(dim=1).tolist(), same.shape[1], k)
    return values


def _ranks(scores: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """How many wrong candidates score at least as high as the best right one, shape (N,)."""
    best = scores.masked_fill(~same, -torch.inf).max(dim=1, keepdim=True).values
    return ((scores >= best) & ~same).sum(dim=1)


def _chance(num_right: list[int], total: int, k: int) -> float:
    """The mean over queries of the chance that one of `k` random candidates of `total` is right."""
    missed = [comb(total - right, k) / comb(total, k) if total >= k else 0.0 for right in num_right]
    return 1 - sum(missed) / len(num_right)


def _embed(
    two_tower: TwoTower, samples: ValidationSamples, rank: int, world_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings of all samples, shape (N, D) each, the same on every process."""
    total = len(samples.rows)
    share = -(-total // world_size)
    # Processes exchange equal shares: the last one is filled up with the last sample, cut off again below.
    own = [min(number, total - 1) for number in range(rank * share, (rank + 1) * share)]
    images = [
        embed_images(two_tower, torch.stack([_pixels(two_tower, samples, number) for number in part]))
        for part in (own[start : start + BATCH_SAMPLES] for start in range(0, share, BATCH_SAMPLES))
    ]
    texts = embed_texts(two_tower, [samples.texts[number] for number in own])
    gathered = [gather_rows(rows, world_size)[:total].cpu() for rows in (torch.cat(images), texts)]
    return gathered[0], gathered[1]


def _pixels(two_tower: TwoTower, samples: ValidationSamples, number: int) -> torch.Tensor:
    set_index, row = samples.rows[number]
    jpeg = samples.sets[set_index].image_bytes(row)
    return eval_pixels(jpeg, two_tower.pixels)


def _loss(
    two_tower: TwoTower, samples: tuple[torch.Tensor, torch.Tensor, torch.Tensor], loss: LossConfig, batch_size: int
) -> float:
    """Return the loss of images, texts and meanings; on the CPU, where they are, by torch's own operations."""
    model = two_tower.model
    state = dict(model.named_parameters())
    scale = state["logit_scale"].detach().cpu().exp()
    bias = state["logit_bias"].detach().cpu() if "logit_bias" in state else None
    on_cpu = replace(loss, kernel="torch")
    size = min(batch_size, len(samples[0]))
    losses = []
    for start in range(0, len(samples[0]) - size + 1, size):
        image, text, meanings = (tensor[start : start + size] for tensor in samples)
        batch = Embeddings(
            image=image, text=text, all_images=image, all_texts=text, meanings=meanings, all_meanings=meanings
        )
        losses.append(contrastive_loss(on_cpu, batch, scale, bias).value.item())
    return sum(losses) / len(losses)
