"""The losses against hand-computed tables, naive forms, and the arithmetic of fake ranks."""

from __future__ import annotations

import math

import pytest
import torch

from train.losses import Embeddings, contrastive_loss, infonce, siglip

SCALE = torch.tensor(10.0, dtype=torch.float64)
BIAS = torch.tensor(-3.0, dtype=torch.float64)


def unit_rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)


def whole(image: torch.Tensor, text: torch.Tensor) -> Embeddings:
    return Embeddings(image=image, text=text, all_images=image, all_texts=text)


def test_infonce_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the second image's partner points the wrong way
    # Logits at scale 2: image 0 (2, 2), image 1 (0, 0); text 0 (2, 0), text 1 (2, 0) with partner 1.
    per_image = math.log(2)
    per_text = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    loss = infonce(whole(image, text), torch.tensor(2.0))
    assert loss.item() == pytest.approx((per_image + per_text) / 2, rel=1e-6)


def test_siglip_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = siglip(whole(image, image), torch.tensor(2.0), torch.tensor(-1.0))
    partner, stranger = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))  # logits 1 and -1
    assert loss.item() == pytest.approx(partner + stranger, rel=1e-6)


def test_siglip_equals_the_naive_double_loop() -> None:
    image, text = unit_rows(6, 0), unit_rows(6, 1)
    naive = sum(
        -math.log(1 / (1 + math.exp(-(1 if i == j else -1) * (SCALE * image[i] @ text[j] + BIAS).item())))
        for i in range(6)
        for j in range(6)
    )
    assert siglip(whole(image, text), SCALE, BIAS).item() == pytest.approx(naive / 6, rel=1e-12)


@pytest.mark.parametrize("name", ["infonce", "siglip"])
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_mean_over_ranks_is_the_loss_of_the_whole_batch(name: str, world_size: int) -> None:
    image, text = unit_rows(12, 0), unit_rows(12, 1)
    rows = 12 // world_size
    parts = [
        contrastive_loss(
            name,  # type: ignore[arg-type]
            Embeddings(
                image=image[rank * rows : (rank + 1) * rows],
                text=text[rank * rows : (rank + 1) * rows],
                all_images=image,
                all_texts=text,
                rank=rank,
            ),
            SCALE,
            BIAS,
        )
        for rank in range(world_size)
    ]
    wanted = contrastive_loss(name, whole(image, text), SCALE, BIAS)  # type: ignore[arg-type]
    torch.testing.assert_close(torch.stack(parts).mean(), wanted, rtol=1e-12, atol=0)


def test_infonce_equals_open_clips_loss() -> None:
    from open_clip.loss import ClipLoss

    image, text = unit_rows(8, 0), unit_rows(8, 1)
    wanted = ClipLoss()(image, text, SCALE)
    torch.testing.assert_close(infonce(whole(image, text), SCALE), wanted, rtol=1e-12, atol=0)


def test_siglip_equals_open_clips_loss() -> None:
    from open_clip.loss import SigLipLoss

    image, text = unit_rows(8, 0), unit_rows(8, 1)
    wanted = SigLipLoss()(image, text, SCALE, BIAS)
    torch.testing.assert_close(siglip(whole(image, text), SCALE, BIAS), wanted, rtol=1e-12, atol=0)
