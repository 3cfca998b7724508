"""Pairs of equal meaning as negatives, left out, or positives: tables by hand, limits, and what soft targets are."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.train.dense_losses import softmax_rows, unit_rows, whole
from train.config import LossConfig
from train.losses import contrastive_loss

SCALE = torch.tensor(2.0)
BIAS = torch.tensor(-1.0)
E2 = exp(2)


def softplus(logit: float) -> float:
    return log(1 + exp(logit))


# Three orthogonal pairs, of which the first two mean the same. Logits at scale 2: partners 2, all others 0;
# with the sigmoid loss's bias of -1: partners 1, all others -1.
BY_HAND = [
    ("infonce", "negatives", [log(E2 + 2) - 2] * 3),
    ("infonce", "masked", [log(E2 + 1) - 2, log(E2 + 1) - 2, log(E2 + 2) - 2]),
    ("infonce", "positives", [log(E2 + 2) - log(E2 + 1), log(E2 + 2) - log(E2 + 1), log(E2 + 2) - 2]),
    ("siglip", "negatives", [3 * softplus(-1)] * 3),
    ("siglip", "masked", [2 * softplus(-1), 2 * softplus(-1), 3 * softplus(-1)]),
    ("siglip", "positives", [2 * softplus(-1) + softplus(1), 2 * softplus(-1) + softplus(1), 3 * softplus(-1)]),
]


@pytest.mark.parametrize("tile", [None, 1, 2])
@pytest.mark.parametrize(("name", "equals", "rows"), BY_HAND)
def test_three_pairs_by_hand(name: Any, equals: Any, rows: list[float], tile: int | None) -> None:
    axes = torch.eye(3)
    config = LossConfig(name=name, equals=equals, tile=tile)
    loss = contrastive_loss(config, whole(axes, axes, torch.tensor([7, 7, 4])), SCALE, BIAS)
    assert loss.rows.tolist() == pytest.approx(rows, rel=1e-6)


@pytest.mark.parametrize("name", ["infonce", "siglip"])
@pytest.mark.parametrize("equals", ["masked", "positives"])
def test_where_no_meanings_are_equal_it_is_the_plain_loss(name: Any, equals: Any) -> None:
    results = []
    for choice in ("negatives", equals):
        image, text = (unit_rows(10, seed).requires_grad_() for seed in (0, 1))
        config = LossConfig(name=name, equals=choice, tile=4)
        loss = contrastive_loss(config, whole(image, text, torch.arange(10)), SCALE, BIAS)
        loss.value.backward()
        results.append((loss.value.detach(), image.grad, text.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("equals", ["masked", "positives"])
def test_where_all_meanings_are_equal_infonce_has_nothing_to_tell_apart(equals: Any) -> None:
    image, text = (unit_rows(10, seed).requires_grad_() for seed in (0, 1))
    config = LossConfig(equals=equals, tile=4)
    loss = contrastive_loss(config, whole(image, text, torch.zeros(10, dtype=torch.int64)), SCALE, None)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(0, abs=1e-12)
    for tensor in (image, text):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() < 1e-12


def _equal_captions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (14, D), distinct captions' embeddings (4, D), and each image's caption (14,): 1 to 6 images share one."""
    captions = torch.tensor([0, 1, 0, 2, 2, 0, 3, 0, 2, 2, 0, 2, 1, 2])
    return unit_rows(14, 0).requires_grad_(), unit_rows(4, 1).requires_grad_(), captions


def _with_equal_captions(equals: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the trainer's loss, and its gradients for the images and the distinct captions."""
    image, distinct, captions = _equal_captions()
    loss = contrastive_loss(LossConfig(equals=equals, tile=5), whole(image, distinct[captions], captions), SCALE, None)
    loss.value.backward()
    assert image.grad is not None
    assert distinct.grad is not None
    return loss.value.detach(), image.grad, distinct.grad


def test_uniform_soft_targets_are_plain_infonce_where_equal_meaning_has_equal_captions() -> None:
    image, distinct, captions = _equal_captions()
    same = (captions[:, None] == captions[None, :]).double()
    targets = same / same.sum(dim=1, keepdim=True)
    logits = SCALE * image @ distinct[captions].T
    soft = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    soft.backward()
    plain = _with_equal_captions("negatives")
    torch.testing.assert_close(plain, (soft.detach(), image.grad, distinct.grad), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("equals", ["masked", "positives"])
def test_masks_and_positives_are_another_loss_with_equal_captions(equals: str) -> None:
    plain, other = _with_equal_captions("negatives"), _with_equal_captions(equals)
    assert other[0] < plain[0] - 0.1
    for one, another in zip(plain[1:], other[1:], strict=True):
        assert (one - another).norm() > 0.1 * one.norm()


def test_from_images_to_equal_captions_positives_lower_infonce_by_a_constant() -> None:
    image, distinct, captions = _equal_captions()
    logits = SCALE * image @ distinct[captions].T
    own = torch.eye(14, dtype=torch.bool)
    same = captions[:, None] == captions[None, :]
    plain, positives = (softmax_rows(logits, own, same, equals) for equals in ("negatives", "positives"))
    torch.testing.assert_close(plain - positives, same.sum(dim=1).double().log(), rtol=1e-12, atol=1e-14)
