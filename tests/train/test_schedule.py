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
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    factors = learning_rate_factors(build(TIMM, bert_config(tmp_path)), OptimConfig(layer_decay=0.5))
    assert factors["visual.trunk.patch_embed.proj.weight"] == 0.5**13
    assert factors["visual.trunk.pos_embed"] == 0.5**13
    assert factors["visual.trunk.blocks.11.attn.qkv.weight"] == 0.5
    assert factors["visual.trunk.norm.weight"] == 1.0
    assert factors["visual.head.proj.weight"] == 1.0
    assert factors["text.transformer.embeddings.word_embeddings.weight"] == 0.25
    assert factors["text.transformer.encoder.layer.0.attention.self.query.weight"] == 0.5
    assert factors["text.proj.0.weight"] == 1.0


def test_the_factors_reach_the_optimiser_and_every_parameter_is_in_one_group() -> None:
    model = build()
    optimizer = make_optimizer(model, OptimConfig(layer_decay=0.5, text_lr_factor=2.0))
    set_learning_rate(optimizer, 1e-2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.visual.conv1.weight)] == pytest.approx(1e-2 * 0.125)
    assert rates[id(model.text.text_projection)] == pytest.approx(2e-2)


def test_layer_decay_of_a_tower_without_blocks_is_refused() -> None:
    resnet = build({"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8})
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: got 0\.9, but the image tower has no numbered"):
        make_optimizer(resnet, OptimConfig(layer_decay=0.9))


@pytest.mark.parametrize(
    ("vision", "projection"), [(VISION, "visual.proj"), (TIMM, "visual.head.proj.weight")], ids=["open_clip", "timm"]
)
def test_a_locked_image_tower_trains_its_projection_alone(vision: dict[str, Any], projection: str) -> None:
    model = build(vision)
    lock_towers(model, ("image",))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if name.startswith("visual.")] == [projection]
    assert "text.token_embedding.weight" in trained


def test_a_locked_tower_is_in_evaluation_mode_and_draws_no_dropout() -> None:
    model = build()
    lock_towers(model, ("image",))
    set_training_mode(model, ("image",))
    pixels = torch.rand(3, 3, 16, 16)
    assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))
    assert model.text.transformer.training
    set_training_mode(model, ())
    assert not torch.equal(model.encode_image(pixels), model.encode_image(pixels))
