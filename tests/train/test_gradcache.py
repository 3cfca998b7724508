"""Cached gradients are those of the big batch: every parameter, temperature and bias included, dropout on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from clipmed.towers import TwoTower, assemble
from tests.train.gradients import (
    cached,
    gradients,
    plain,
    settings_of,
    small_batch,
    small_two_tower,
    tools_of,
)
from train.dataset import Batch
from train.step import Encoders, contrastive_backward

LOSSES = [(name, equals) for name in ("infonce", "siglip") for equals in ("negatives", "masked", "positives")]
CONTEXT = 24


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("loss", "equals"), LOSSES)
@pytest.mark.parametrize("kept", [0, 1, 2, 99, None])
@pytest.mark.parametrize(("image", "text"), [(1, 1), (4, 3), (5, 7), (12, 2), (3, 12), (12, 12)])
def test_cached_gradients_equal_the_big_batchs(loss: str, equals: str, kept: int | None, image: int, text: int) -> None:
    two_tower, batch = small_two_tower(), small_batch()
    settings = settings_of(loss, image, text, kept, equals)
    wanted_loss, wanted = plain(two_tower, batch, settings)
    got_loss, got = cached(two_tower, batch, settings)
    torch.testing.assert_close(got_loss, wanted_loss, rtol=1e-12, atol=0)
    used = {name for name in wanted if loss == "siglip" or name != "logit_bias"}
    assert {"logit_scale", "visual.1.weight", "words.weight", "text.1.bias"} <= used <= got.keys()
    for name in used:
        assert relative_error(got[name], wanted[name]) < 1e-10, name


def test_dropout_is_on_in_these_comparisons() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    first, _ = plain(two_tower, batch, settings_of("infonce", 4, 4))
    other, _ = plain(two_tower, batch, settings_of("infonce", 6, 6))
    assert first.item() != other.item()


@pytest.mark.parametrize("kept", [0, 2, 99, None])
def test_how_many_graphs_are_kept_changes_no_bit(kept: int | None) -> None:
    two_tower, batch = small_two_tower(torch.float32), small_batch()
    _, wanted = cached(two_tower, batch, settings_of("infonce", 3, 4, 1))
    _, got = cached(two_tower, batch, settings_of("infonce", 3, 4, kept))
    assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())


def test_a_locked_tower_is_embedded_once_and_the_other_one_gets_its_gradient() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    two_tower.model.visual.requires_grad_(False)
    settings = settings_of("infonce", 4, 6, 0)
    _, wanted = plain(two_tower, batch, settings)
    calls: list[int] = []
    handle = two_tower.model.visual.register_forward_hook(lambda *_: calls.append(1))
    _, got = cached(two_tower, batch, settings)
    handle.remove()
    assert len(calls) == 3
    assert not any(name.startswith("visual.") for name in got)
    torch.testing.assert_close(got["words.weight"], wanted["words.weight"], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("loss", "equals"), LOSSES)
def test_float32_and_bf16_gradients_agree_within_rounding(loss: str, equals: str) -> None:
    settings = settings_of(loss, 4, 3, equals=equals)
    batch = small_batch()
    exact_tower, tower = small_two_tower(), small_two_tower(torch.float32)
    _, exact = plain(exact_tower, batch, settings)
    _, single = cached(tower, batch, settings)
    half_autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    _, half = cached(tower, batch, settings, half_autocast)
    _, half_plain = plain(tower, batch, settings, half_autocast)

    def flat(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([values[name].flatten() for name in exact if name in values]).double()

    # Dropout masks are drawn in the tensor's own type, so that only like types meet the same masks.
    assert relative_error(flat(single), flat(plain(tower, batch, settings)[1])) < 1e-5
    assert relative_error(flat(half), flat(half_plain)) < 1e-5
    assert 1e-5 < relative_error(flat(half), flat(single)) < 0.05


def test_a_loss_scalers_factor_reaches_every_gradient_alike() -> None:
    two_tower, batch = small_two_tower(), small_batch()
    settings = settings_of("siglip", 4, 3)
    _, wanted = cached(two_tower, batch, settings)
    two_tower.model.zero_grad(set_to_none=True)
    encoders = Encoders(two_tower, nullcontext)
    contrastive_backward(
        encoders, two_tower.model, batch, settings, tools_of(1, two_tower.model), lambda loss: (loss * 1024).backward()
    )
    for name, gradient in gradients(two_tower.model).items():
        torch.testing.assert_close(gradient, wanted[name] * 1024, rtol=1e-12, atol=0)


def bert_config(folder: Path) -> dict[str, Any]:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=CONTEXT, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return {
        "hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "mlp", "context_length": CONTEXT,
    }  # fmt: skip


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TwoTower]:
    """OpenCLIP models with patch dropout, one with OpenCLIP's own text tower and one with a Hugging Face one."""
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8, "patch_dropout": 0.5}
    own = {"context_length": CONTEXT, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
    folder = tmp_path_factory.mktemp("bert")
    built = {}
    for name, text in (("open_clip", own), ("bert", bert_config(folder))):
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
        torch.manual_seed(0)
        built[name] = assemble({"embed_dim": 8, "custom_text": True, "vision_cfg": vision, "text_cfg": text})
        built[name].model.double().train()
    return built


def padded_batch(count: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.zeros(count, CONTEXT, dtype=torch.int64)
    for row in range(count):
        length = int(torch.randint(3, CONTEXT + 1, (), generator=generator))
        tokens[row, :length] = torch.randint(5, 58, (length,), generator=generator)
        tokens[row, length - 1] = 59
    pixels = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Batch(
        step=0,
        pixels=pixels,
        tokens=tokens,
        meanings=torch.arange(count),
        sources=torch.zeros(count, dtype=torch.int64),
    )


@pytest.mark.parametrize("name", ["open_clip", "bert"])
@pytest.mark.parametrize("budget", [CONTEXT, 3 * CONTEXT, 10 * CONTEXT])
def test_texts_cut_to_their_length_give_the_gradients_of_padded_ones(
    towers: dict[str, TwoTower], name: str, budget: int
) -> None:
    tower, batch = towers[name], padded_batch()
    if name == "bert":
        tower.model.text.eval()  # its dropout would draw other masks for other widths
    settings = settings_of("infonce", 4, None, text_tokens=budget)
    wanted_loss, wanted = plain(tower, batch, settings)
    widths: list[int] = []
    handle = tower.model.text.register_forward_pre_hook(lambda _module, args: widths.append(args[0].shape[1]))
    got_loss, got = cached(tower, batch, settings)
    handle.remove()
    assert min(widths) < CONTEXT or budget == 10 * CONTEXT
    torch.testing.assert_close(got_loss, wanted_loss, rtol=1e-12, atol=0)
    for parameter, gradient in wanted.items():
        if gradient.norm() > 1e-12:  # attention does not depend on the keys' bias
            assert relative_error(got[parameter], gradient) < 1e-9, parameter
