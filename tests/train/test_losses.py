"""The losses against hand-computed tables, their formulas over all logits at once, OpenCLIP, and fake ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from clipmed.errors import ConfigError
from tests.train.dense_losses import LOSSES, dense_rows, part, unit_rows, whole
from train.config import LossConfig
from train.losses import Embeddings, Loss, contrastive_loss

SCALE = torch.tensor(10.0, dtype=torch.float64)
BIAS = torch.tensor(-3.0, dtype=torch.float64)


def loss_of(embeddings: Embeddings, scale: torch.Tensor, bias: torch.Tensor | None = None, **config: Any) -> Loss:
    return contrastive_loss(LossConfig(**config), embeddings, scale, bias)


def leaves(count: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Images, texts, scale and bias, to be differentiated."""
    tensors = [unit_rows(count, 0, dtype=dtype), unit_rows(count, 1, dtype=dtype), SCALE.clone(), BIAS.clone()]
    return [tensor.requires_grad_() for tensor in tensors]


def some_meanings(count: int) -> torch.Tensor:
    return torch.randint(0, max(2, count // 3), (count,), generator=torch.Generator().manual_seed(2))


def test_infonce_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the second image's partner points the wrong way
    # Logits at scale 2: image 0 (2, 2), image 1 (0, 0); text 0 (2, 0), text 1 (2, 0) with partner 1.
    loss = loss_of(whole(image, text), torch.tensor(2.0))
    first = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    second = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert loss.rows.tolist() == pytest.approx([first, second], rel=1e-6)
    assert loss.value.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_siglip_of_two_pairs_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = loss_of(whole(image, image), torch.tensor(2.0), torch.tensor(-1.0), name="siglip")
    partner, stranger = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))  # logits 1 and -1
    assert loss.rows.tolist() == pytest.approx([partner + stranger] * 2, rel=1e-6)
    assert loss.value.item() == pytest.approx(partner + stranger, rel=1e-6)


@pytest.mark.parametrize("tile", [None, 1, 4, 11, 32, 33, 100])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_every_tile_size_gives_the_formulas_values_and_gradients(
    name: str, equals: str, world_size: int, tile: int | None
) -> None:
    config = LossConfig(name=name, equals=equals, tile=tile)  # type: ignore[arg-type]
    meanings = some_meanings(33)
    for rank in range(world_size):
        found, wanted = leaves(33), leaves(33)
        for tensors, rows_of in ((found, contrastive_loss), (wanted, dense_rows)):
            image, text, scale, bias = tensors
            embeddings = whole(image, text, meanings) if world_size == 1 else part(image, text, meanings, rank, 3)
            result = rows_of(config, embeddings, scale, bias)
            value, rows = (result.value, result.rows) if isinstance(result, Loss) else (result.mean(), result)
            value.backward()
            tensors += [value.detach(), rows.detach()]
        _assert_same(found, wanted)


@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_a_batch_of_many_tiles_both_ways_gives_the_formulas_values_and_gradients(name: str, equals: str) -> None:
    config = LossConfig(name=name, equals=equals)  # type: ignore[arg-type]
    found, wanted = leaves(1101), leaves(1101)
    meanings = some_meanings(1101)
    contrastive_loss(config, whole(found[0], found[1], meanings), found[2], found[3]).value.backward()
    dense_rows(config, whole(wanted[0], wanted[1], meanings), wanted[2], wanted[3]).mean().backward()
    _assert_same(found, wanted)


def _assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
        if other.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_gradients_are_those_of_finite_differences(name: str, equals: str) -> None:
    meanings = some_meanings(6)

    def alone(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return loss_of(whole(image, text, meanings), scale, bias, name=name, equals=equals, tile=4).value

    def of_two(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return loss_of(part(image, text, meanings, 1, 2), scale, bias, name=name, equals=equals, tile=4).value

    assert torch.autograd.gradcheck(alone, leaves(6))
    assert torch.autograd.gradcheck(of_two, leaves(6))


@pytest.mark.parametrize(("name", "equals"), LOSSES)
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_mean_over_ranks_is_the_loss_of_the_whole_batch(name: str, equals: str, world_size: int) -> None:
    config = {"name": name, "equals": equals, "tile": 5}
    image, text, meanings = unit_rows(12, 0), unit_rows(12, 1), some_meanings(12)
    parts = [
        loss_of(part(image, text, meanings, rank, world_size), SCALE, BIAS, **config) for rank in range(world_size)
    ]
    wanted = loss_of(whole(image, text, meanings), SCALE, BIAS, **config)
    torch.testing.assert_close(torch.stack([one.value for one in parts]).mean(), wanted.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([one.rows for one in parts]), wanted.rows, rtol=1e-12, atol=0)


def test_a_loss_asks_for_no_gradient_of_what_it_does_not_depend_on() -> None:
    # The gradients of gathered embeddings travel between processes: SigLIP needs only those of the texts.
    rows = [unit_rows(4, seed).requires_grad_() for seed in range(4)]
    embeddings = Embeddings(image=rows[0][:2], text=rows[1][:2], all_images=rows[2], all_texts=rows[3])
    loss_of(embeddings, SCALE, BIAS, name="siglip").value.backward()
    assert [tensor.grad is not None for tensor in rows] == [True, False, False, True]


@pytest.mark.parametrize("name", ["infonce", "siglip"])
def test_value_and_gradients_are_those_of_open_clips_loss(name: str) -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    found, wanted = leaves(19), leaves(19)
    value = loss_of(whole(found[0], found[1]), found[2], found[3], name=name, tile=8).value
    theirs = SigLipLoss()(*wanted) if name == "siglip" else ClipLoss()(*wanted[:3])
    value.backward()
    theirs.backward()
    torch.testing.assert_close(value, theirs, rtol=1e-12, atol=0)
    for one, other in zip(found, wanted, strict=True):
        other_gradient = torch.zeros_like(other) if other.grad is None else other.grad  # InfoNCE's bias cancels
        torch.testing.assert_close(one.grad, other_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_rows_are_detached_and_their_mean_is_the_value(name: str, equals: str) -> None:
    image, text, scale, bias = leaves(9)
    loss = loss_of(whole(image, text, some_meanings(9)), scale, bias, name=name, equals=equals)
    assert loss.value.requires_grad
    assert not loss.rows.requires_grad
    assert loss.rows.shape == (9,)
    assert loss.rows.mean() == loss.value


@pytest.mark.parametrize("name", ["infonce", "siglip"])
def test_a_loss_scalers_factor_reaches_all_gradients(name: str) -> None:
    plain, scaled = leaves(9), leaves(9)
    loss_of(whole(plain[0], plain[1]), plain[2], plain[3], name=name).value.backward()
    (loss_of(whole(scaled[0], scaled[1]), scaled[2], scaled[3], name=name).value * 1024).backward()
    for one, other in zip(plain, scaled, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad * 1024, other.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_half_precision_embeddings_are_computed_with_in_float32(name: str, equals: str) -> None:
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        image, text = (unit_rows(40, seed, 16, torch.bfloat16).to(dtype).requires_grad_() for seed in (0, 1))
        with torch.autocast("cpu", torch.bfloat16):  # does not reach into the loss
            loss = loss_of(whole(image, text, some_meanings(40)), SCALE.float(), BIAS.float(), name=name, equals=equals)
        loss.value.backward()
        assert image.grad is not None
        assert image.grad.dtype == dtype
        assert loss.value.dtype == torch.float32
        results.append((loss.value, image.grad))
    (half, half_gradient), (single, single_gradient) = results
    assert half.item() == single.item()
    torch.testing.assert_close(half_gradient, single_gradient.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_float32_keeps_its_digits_at_the_highest_temperature(name: str, equals: str) -> None:
    scale, bias = torch.tensor(100.0), torch.tensor(-10.0)
    meanings = some_meanings(300)
    values = []
    for dtype in (torch.float32, torch.float64):
        image, text = unit_rows(300, 0, 16, dtype), unit_rows(300, 1, 16, dtype)
        values.append(loss_of(whole(image, text, meanings), scale, bias, name=name, equals=equals).value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_strangers_that_are_far_apart_keep_their_small_sigmoid_losses() -> None:
    # 1 + exp(-25) is 1 in float32: adding before the logarithm would lose every stranger's part.
    axes = torch.eye(4)
    loss = loss_of(whole(axes, axes), torch.tensor(50.0), torch.tensor(-25.0), name="siglip")
    assert loss.value.item() == pytest.approx(4 * math.exp(-25), rel=1e-5)


def test_without_gradients_there_is_only_a_value() -> None:
    image, text, scale, bias = leaves(9)
    with torch.no_grad():
        quiet = loss_of(whole(image, text), scale, bias)
    assert not quiet.value.requires_grad
    torch.testing.assert_close(quiet.value, loss_of(whole(image, text), scale, bias).value, rtol=0, atol=0)


class _Sizes(TorchDispatchMode):
    """Notes the storage of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *(tensor.untyped_storage().nbytes() for tensor in tensors)])
        return result


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_memory_grows_with_the_batch_and_not_with_its_square(name: str, equals: str, world_size: int) -> None:
    tile, width = 16, 8
    saved, largest = [], []
    for count in (500, 1000, 2000):
        image, text = (unit_rows(count, seed, width, torch.float32).requires_grad_() for seed in (0, 1))
        meanings = some_meanings(count)
        embeddings = whole(image, text, meanings) if world_size == 1 else part(image, text, meanings, 1, 2)
        kept: list[int] = []
        sizes = _Sizes()
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=kept: to.append(x.nbytes) or x, lambda x: x), sizes:
            value = loss_of(embeddings, SCALE.float(), BIAS.float(), name=name, equals=equals, tile=tile).value
            value.backward()
        saved.append(sum(kept))
        largest.append(sizes.largest)
        assert sum(kept) <= 4 * count * width * 4 + 64  # float32 gradients of four tensors, and scalars
        assert sizes.largest <= count * tile * 4  # a tile
    assert saved[2] - saved[1] == 2 * (saved[1] - saved[0])  # linear in the batch
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "products"), [("infonce", 4), ("siglip", 3)])
def test_logits_are_made_no_more_often_than_they_must_be(name: str, products: int) -> None:
    # InfoNCE makes its logits for the sums and again for the gradients, both ways at once; SigLIP makes them once.
    count, width = 100, 5
    image, text, scale, bias = leaves(count)
    added = {torch.ops.aten.addmm_: lambda _, left, right, **_more: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        loss_of(whole(image, text), scale, bias, name=name, tile=30).value.backward()
    assert counter.get_total_flops() == products * 2 * count**2 * width


def test_triton_without_cuda_is_refused_with_what_to_do() -> None:
    image, text = unit_rows(4, 0), unit_rows(4, 1)
    with pytest.raises(ConfigError, match=r"loss\.kernel: got 'triton'.*allowed.*'auto', 'torch'"):
        loss_of(whole(image, text), SCALE, kernel="triton")
