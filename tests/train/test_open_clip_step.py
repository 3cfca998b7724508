"""A step of ours and of OpenCLIP's own training loop, from the same weights on the same batch, are the same step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from benchmarks.open_clip_step import open_clip_epoch
from clipmed.towers import TwoTower, assemble
from tests.train.gradients import gradients, settings_of, tools_of
from tests.train.test_gradcache import CONTEXT, padded_batch, relative_error
from train.dataset import Batch
from train.step import Encoders, contrastive_backward


def make_tower() -> TwoTower:
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
    text = {"context_length": CONTEXT, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    tower = assemble({"embed_dim": 8, "custom_text": True, "vision_cfg": vision, "text_cfg": text})
    tower.model.double().train()
    tower.model.output_dict = True  # type: ignore[assignment]
    return tower


def open_clip_gradients(tower: TwoTower, batch: Batch, accum_freq: int) -> dict[str, torch.Tensor]:
    pixels = batch.pixels.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (tower.mean, tower.std))
    normalised = (pixels - mean) / std
    parts = zip(normalised.chunk(accum_freq), batch.tokens.chunk(accum_freq), strict=True)
    open_clip_epoch(tower.model, torch.optim.SGD(tower.model.parameters(), lr=0.0), list(parts), accum_freq)
    return gradients(tower.model)


@pytest.mark.parametrize(("image", "text_tokens"), [(None, None), (3, 40)])
def test_gradients_are_open_clips_without_accumulation(image: int | None, text_tokens: int | None) -> None:
    batch = padded_batch()
    wanted = open_clip_gradients(make_tower(), batch, 1)
    tower = make_tower()
    encoders = Encoders(tower, nullcontext)
    settings = settings_of("infonce", image, None, text_tokens=text_tokens)
    loss = contrastive_backward(encoders, tower.model, batch, settings, tools_of(1, tower.model), torch.Tensor.backward)
    got = gradients(tower.model)
    model: Any = tower.model
    with torch.no_grad():
        logits = model.logit_scale.exp() * encoders.images(batch.pixels) @ encoders.texts(batch.tokens).T
        diagonal = torch.arange(len(logits))
        plain = (
            torch.nn.functional.cross_entropy(logits, diagonal) + torch.nn.functional.cross_entropy(logits.T, diagonal)
        ) / 2
    torch.testing.assert_close(loss.value, plain, rtol=1e-10, atol=0)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if gradient.norm() > 1e-12:
            assert relative_error(got[name], gradient) < 1e-6, name


def test_open_clips_accumulation_multiplies_the_temperatures_gradient_and_ours_does_not() -> None:
    batch = padded_batch()
    whole = open_clip_gradients(make_tower(), batch, 1)
    accumulated = open_clip_gradients(make_tower(), batch, 2)
    assert accumulated["logit_scale"].item() == pytest.approx(2 * whole["logit_scale"].item(), rel=1e-6)
