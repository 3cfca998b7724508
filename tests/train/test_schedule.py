"""What learns and how fast: factors by hand for every kind of tower, and locked towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clipmed.errors import ConfigError
from clipmed.towers import assemble
from tests.train.test_gradcache import bert_config
from train.config import OptimConfig
from train.schedule import (
    evaluation_mode,
    learning_rate_factors,
    lock_towers,
    make_optimizer,
    set_learning_rate,
    set_training_mode,
)

VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "patch_dropout": 0.5}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 32}


def build(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, custom: bool = True) -> Any:
    cfg = {"embed_dim": 8, "custom_text": custom, "vision_cfg": vision or VISION, "text_cfg": text or TEXT}
    return assemble(cfg).model


def _tokenizer_folder(folder: Path) -> Path:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return folder


@pytest.mark.parametrize("custom", [True, False])
def test_layers_of_open_clips_towers_by_hand(custom: bool) -> None:
    factors = learning_rate_factors(build(custom=custom), OptimConfig(layer_decay=0.5, image_lr_factor=0.1))
    prefix = "text." if custom else ""
    assert factors["visual.conv1.weight"] == pytest.approx(0.1 * 0.5**3)
    assert factors["visual.positional_embedding"] == pytest.approx(0.1 * 0.5**3)
    assert factors["visual.transformer.resblocks.0.attn.in_proj_weight"] == pytest.approx(0.1 * 0.5**2)
    assert factors["visual.transformer.resblocks.1.mlp.c_fc.weight"] == pytest.approx(0.1 * 0.5)
    assert factors["visual.proj"] == pytest.approx(0.1)
    assert factors[f"{prefix}token_embedding.weight"] == 0.25
    assert factors[f"{prefix}transformer.resblocks.0.ln_1.weight"] == 0.5
    assert factors[f"{prefix}text_projection"] == 1.0
    assert factors["logit_scale"] == 1.0


def test_layers_of_timm_and_hugging_face_towers_by_hand(tmp_path: Path) -> None:
    factors = learning_rate_factors(build(TIMM, bert_config(_tokenizer_folder(tmp_path))), OptimConfig(layer_decay=0.5))
    assert factors["visual.trunk.patch_embed.proj.weight"] == 0.5**13
    assert factors["visual.trunk.pos_embed"] == 0.5**13
    assert factors["visual.trunk.blocks.11.attn.qkv.weight"] == 0.5
    assert factors["visual.trunk.norm.weight"] == 1.0
    assert factors["visual.head.proj.weight"] == 1.0
    assert factors["text.transformer.embeddings.word_embeddings.weight"] == 0.25
    assert factors["text.transformer.encoder.layer.0.attention.self.query.weight"] == 0.5
    assert factors["text.proj.0.weight"] == 1.0


def test_stages_of_a_hierarchical_trunk_by_hand() -> None:
    convnext = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    factors = learning_rate_factors(build(convnext), OptimConfig(layer_decay=0.5))
    assert factors["visual.trunk.stem.0.weight"] == 0.5**5
    assert factors["visual.trunk.stages.0.blocks.1.conv_dw.weight"] == 0.5**4
    assert factors["visual.trunk.stages.2.downsample.1.weight"] == 0.25
    assert factors["visual.trunk.stages.2.blocks.5.mlp.fc1.weight"] == 0.25
    assert factors["visual.trunk.stages.3.blocks.0.mlp.fc1.weight"] == 0.5
    assert factors["visual.head.proj.weight"] == 1.0


@pytest.mark.parametrize(
    ("vision", "custom", "spared"),
    [
        (VISION, True, {"visual.positional_embedding", "text.positional_embedding"}),
        (VISION, False, {"visual.positional_embedding", "positional_embedding"}),
        (TIMM, True, {"visual.trunk.cls_token", "visual.trunk.pos_embed", "text.positional_embedding"}),
    ],
    ids=["open_clip", "open_clip old layout", "timm"],
)
def test_matrices_decay_but_for_positions_and_class_tokens(
    vision: dict[str, Any], custom: bool, spared: set[str]
) -> None:
    model = build(vision, custom=custom)
    groups = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    still = {name for name, parameter in model.named_parameters() if decays[id(parameter)] == 0}
    assert {name for name, parameter in model.named_parameters() if name in still and parameter.ndim > 1} == spared
    assert {name for name, parameter in model.named_parameters() if parameter.ndim < 2} <= still
    assert set(decays.values()) == {0.0, 0.3}


def test_the_factors_reach_the_optimiser_and_every_parameter_is_in_one_group() -> None:
    model = build()
    optimizer = make_optimizer(model, OptimConfig(layer_decay=0.5, text_lr_factor=2.0))
    set_learning_rate(optimizer, 1e-2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.visual.conv1.weight)] == pytest.approx(1e-2 * 0.125)
    assert rates[id(model.text.text_projection)] == pytest.approx(2e-2)


def test_layer_decay_of_a_tower_without_blocks_is_refused() -> None:
    resnet = build(RESNET)
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: got 0\.9, but the image tower has no numbered"):
        make_optimizer(resnet, OptimConfig(layer_decay=0.9))


RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}


@pytest.mark.parametrize(
    ("vision", "projections"),
    [
        (VISION, ["visual.proj"]),
        (TIMM, ["visual.head.proj.weight"]),
        (RESNET, ["visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"]),
    ],
    ids=["open_clip", "timm", "resnet"],
)
def test_a_locked_image_tower_trains_its_projection_alone(vision: dict[str, Any], projections: list[str]) -> None:
    model = build(vision)
    lock_towers(model, ("image",))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if name.startswith("visual.")] == projections
    assert "text.token_embedding.weight" in trained
    make_optimizer(model, OptimConfig(locked=("image",), layer_decay=0.9))  # a locked tower's layers need no rates


@pytest.mark.parametrize("hugging_face", [False, True], ids=["open_clip", "hugging_face"])
def test_a_locked_text_tower_trains_its_projection_alone(hugging_face: bool, tmp_path: Path) -> None:
    model = build(text=bert_config(_tokenizer_folder(tmp_path)) if hugging_face else None)
    lock_towers(model, ("text",))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    projections = ["text.proj.0.weight", "text.proj.2.weight"] if hugging_face else ["text.text_projection"]
    assert [name for name in trained if name.startswith("text.")] == projections
    assert "visual.conv1.weight" in trained


def test_locking_both_towers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.locked: got \['image', 'text'\].*allowed: one tower"):
        lock_towers(build(), ("image", "text"))


def test_statistics_of_a_locked_tower_stay_and_its_weights_take_no_step() -> None:
    model = build(RESNET)
    lock_towers(model, ("image",))
    set_training_mode(model, ("image",))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = make_optimizer(model, OptimConfig(locked=("image",), weight_decay=0.5))
    for _ in range(3):
        images, texts = model.encode_image(torch.rand(2, 3, 32, 32)), model.encode_text(torch.ones(2, 8).long())
        (images * texts).sum().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if name.startswith("visual.")} == {
        "visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias",
    }  # fmt: skip
    assert any(name.startswith("text.") for name in changed)


def test_after_an_evaluation_every_module_is_in_its_own_mode_again() -> None:
    model = build(RESNET)
    lock_towers(model, ("image",))
    set_training_mode(model, ("image",))
    before = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="scoring"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("scoring")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert set(before.values()) == {True, False}


def test_a_locked_tower_is_in_evaluation_mode_and_draws_no_dropout() -> None:
    model = build()
    lock_towers(model, ("image",))
    set_training_mode(model, ("image",))
    pixels = torch.rand(3, 3, 16, 16)
    assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))
    assert model.text.transformer.training
    set_training_mode(model, ())
    assert not torch.equal(model.encode_image(pixels), model.encode_image(pixels))
