"""Cached gradients are those of the big batch: every parameter, temperature and bias included, dropout on."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tests.train.gradients import cached, gradients, plain, settings_of, small_batch, small_two_tower
from train.step import Encoders, contrastive_backward


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
@pytest.mark.parametrize("kept", [0, 1, 2, 99])
@pytest.mark.parametrize(("image", "text"), [(1, 1), (4, 3), (5, 7), (12, 2), (3, 12), (12, 12)])
def test_cached_gradients_equal_the_big_batchs(loss: str, kept: int, image: int, text: int) -> None:
    two_tower, batch = small_two_tower(), small_batch()
    wanted_loss, wanted = plain(two_tower, batch, loss, (image, text), seed=3)
    got_loss, got = cached(two_tower, batch, settings_of(loss, image, text, kept))
    torch.testing.assert_close(got_loss, wanted_loss, rtol=1e-12, atol=0)
    used = {name for name in wanted if loss == "siglip" or name != "logit_bias"}
    assert {"logit_scale", "image.1.weight", "words.weight", "text.1.bias"} <= used <= got.keys()
    for name in used:
        difference = (got[name] - wanted[name]).norm() / wanted[name].norm()
        assert difference < 1e-10, f"{name}: relative error {difference:.2e}"


def test_dropout_is_on_in_these_comparisons() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    first, _ = plain(two_tower, batch, "infonce", (4, 4), seed=3)
    other, _ = plain(two_tower, batch, "infonce", (4, 4), seed=4)
    assert first.item() != other.item()


def test_a_locked_tower_gets_no_gradient_and_the_other_one_its_own() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    two_tower.model.image.requires_grad_(False)
    _, wanted = plain(two_tower, batch, "infonce", (4, 6), seed=3)
    _, got = cached(two_tower, batch, settings_of("infonce", 4, 6))
    assert not any(name.startswith("image.") for name in got)
    torch.testing.assert_close(got["words.weight"], wanted["words.weight"], rtol=1e-10, atol=0)


def test_bf16_gradients_agree_within_rounding() -> None:
    two_tower, batch = small_two_tower(torch.float32), small_batch()
    results = []
    for autocast in (nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)):
        two_tower.model.zero_grad(set_to_none=True)
        encoders = Encoders(two_tower, autocast)
        settings = settings_of("siglip", 4, 3)
        contrastive_backward(encoders, two_tower.model, batch, settings, torch.Tensor.backward)
        results.append(torch.cat([grad.flatten() for grad in gradients(two_tower.model).values()]))
    exact, rounded = results
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() / exact.norm() < 0.03


def test_a_loss_scalers_factor_reaches_every_gradient_alike() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    _, wanted = cached(two_tower, batch, settings_of("siglip", 4, 3))
    two_tower.model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, nullcontext)
    settings = settings_of("siglip", 4, 3)
    contrastive_backward(encoders, two_tower.model, batch, settings, lambda loss: (loss * 1024).backward())
    for name, gradient in gradients(two_tower.model).items():
        torch.testing.assert_close(gradient, wanted[name] * 1024, rtol=1e-12, atol=0)
