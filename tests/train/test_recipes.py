"""Smoke twins use what their recipes use, and every one of them trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipmed.checkpoints import save_checkpoint
from clipmed.errors import ConfigError
from clipmed.towers import ModelConfig, build_two_tower, model_config
from train import loop
from train.config import TrainConfig
from train.dataset import Batch
from train.loop import train
from train.recipes import RECIPES, recipe
from train.schedule import TowerName
from train.session import build_model
from train.step import StepLoss

FULL = [name for name in RECIPES if not name.endswith("_smoke")]


def features(config: TrainConfig) -> dict[str, Any]:
    optim, cache = config.optim, config.gradcache
    return {
        "locked": optim.locked, "ema": optim.ema_decay, "layer_decay": optim.layer_decay, "wise_ft": optim.wise_ft,
        "loss": config.loss, "guard": config.guard, "best": config.checkpoint.best_metric,
        "images": cache.image_micro_batch is None, "tokens": cache.text_tokens is None, "kept": cache.kept_graphs,
        "texts": cache.text_micro_batch is None, "augment": config.augment, "bad samples": config.data.on_bad_sample,
    }  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_a_smoke_twin_uses_what_its_recipe_uses(name: str) -> None:
    assert features(recipe(f"{name}_smoke")) == features(recipe(name))


@pytest.mark.parametrize("name", FULL)
def test_a_recipes_model_config_exists_and_its_texts_fit_the_budget(name: str) -> None:
    config = recipe(name)
    context = model_config(config.model.config)["text_cfg"]["context_length"]
    assert config.gradcache.text_tokens is None or config.gradcache.text_tokens >= context


@pytest.mark.parametrize("name", FULL)
def test_open_clip_knows_the_weights_that_a_recipe_begins_with(name: str) -> None:
    import open_clip

    model = recipe(name).model
    if model.pretrained:
        assert model.pretrained in open_clip.list_pretrained_tags_by_model(model.config)
    if model.image_weights:
        source, tag = model.image_weights.split(":")
        assert tag in open_clip.list_pretrained_tags_by_model(source)
        theirs, ours = model_config(source), model_config(model.config)
        assert theirs["embed_dim"] == ours["embed_dim"]
        assert theirs["quick_gelu"] == ours["quick_gelu"]
        assert {**theirs["vision_cfg"], "image_size": None} == {**ours["vision_cfg"], "image_size": None}


@pytest.mark.parametrize("name", ["vit_b16", "bmc_clip", "lit_b16"])
def test_the_twins_of_large_recipes_train(name: str, shard_set: Path, tmp_path: Path) -> None:
    twin = recipe(f"{name}_smoke")
    config = replace(
        twin,
        out=tmp_path / "run",
        data=replace(twin.data, sets=(str(shard_set),), workers=0),
        tracking=replace(twin.tracking, tensorboard=False),
    )
    trained = load_file(train(config) / "open_clip_model.safetensors")
    initial = build_model(config).model.state_dict()
    changed = {key for key, tensor in trained.items() if not torch.equal(tensor, initial[key])}
    assert any(key.startswith("text.") for key in changed)
    if config.optim.locked:
        assert {key for key in changed if key.startswith("visual.")} == {"visual.proj"}
    if config.checkpoint.best_metric:
        assert (config.out / "best" / "open_clip_model.safetensors").is_file()
    newest = max((config.out / "checkpoints").glob("step_*"))
    last = load_file(newest / "model.safetensors")
    if config.optim.wise_ft is not None:
        way = {key: initial[key] + config.optim.wise_ft * (last[key] - initial[key]) for key in last}
        assert all(torch.allclose(trained[key], way[key], rtol=0, atol=1e-7) for key in last)
        assert any(not torch.equal(trained[key], last[key]) for key in last)
    if config.optim.ema_decay is not None:
        mean = {key.removeprefix("ema/"): tensor for key, tensor in load_file(newest / "ema.safetensors").items()}
        assert all(torch.equal(trained[key], mean[key]) for key in mean)
        assert any(not torch.equal(trained[key], last[key]) for key in mean)


@pytest.mark.parametrize("locked", [(), ("image",), ("text",)])
def test_a_run_with_all_that_recipes_use_is_stopped_and_resumed_to_the_same_bits(
    locked: tuple[TowerName, ...], shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = recipe("vit_b16_smoke")
    whole = replace(
        twin,
        out=tmp_path / "whole",
        data=replace(twin.data, sets=(str(shard_set),), workers=0),
        optim=replace(twin.optim, locked=locked, wise_ft=0.7, text_lr_factor=0.5),
        checkpoint=replace(twin.checkpoint, every_steps=2, best_metric=None),
        tracking=replace(twin.tracking, tensorboard=False),
    )
    expected = load_file(train(whole) / "open_clip_model.safetensors")
    stopped = replace(whole, out=tmp_path / "stopped")
    step = loop.contrastive_backward

    def killed(encoders: Any, model: Any, batch: Batch, *rest: Any) -> StepLoss:
        if batch.step == 5:
            raise KeyboardInterrupt
        return step(encoders, model, batch, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "contrastive_backward", killed)
        train(stopped)
    resumed = load_file(train(stopped) / "open_clip_model.safetensors")
    assert [key for key in expected if not torch.equal(resumed[key], expected[key])] == []


def test_an_image_tower_comes_from_another_checkpoint_and_another_image_size(tmp_path: Path) -> None:
    source = build_two_tower(ModelConfig(config="clipmed_tiny"))
    source.pixels = replace(source.pixels, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_checkpoint(tmp_path / "source", source, "card")
    taken = build_two_tower(
        ModelConfig(config="clipmed_tiny", image_weights=str(tmp_path / "source"), context_length=8)
    )
    wanted, got = source.model.state_dict(), taken.model.state_dict()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted if key.startswith("visual."))
    assert taken.mean == (0.1, 0.2, 0.3)
    larger = build_two_tower(
        ModelConfig(config="clipmed_tiny", image_weights=str(tmp_path / "source"), image_size=64)
    ).model.state_dict()
    assert larger["visual.positional_embedding"].shape == (65, 16)
    assert torch.equal(larger["visual.conv1.weight"], wanted["visual.conv1.weight"])


def test_an_image_tower_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "source", build_two_tower(ModelConfig(config="clipmed_demo")), "card")
    with pytest.raises(ConfigError, match="does not fit this model's vision_cfg"):
        build_two_tower(ModelConfig(config="clipmed_tiny", image_weights=str(tmp_path / "source")))
    with pytest.raises(ConfigError, match="has no pretrained weights 'nothing'"):
        build_two_tower(ModelConfig(config="clipmed_tiny", image_weights="ViT-B-16:nothing"))


def test_weights_of_open_clips_older_layout_are_read(tmp_path: Path) -> None:
    import open_clip

    config = {**model_config("clipmed_tiny"), "custom_text": False}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(3)
    from clipmed.towers import assemble

    old = assemble(config)
    assert type(old.model) is open_clip.CLIP
    save_checkpoint(tmp_path / "old", old, "card")
    new = build_two_tower(ModelConfig(config=str(path), pretrained=str(tmp_path / "old")))
    assert torch.equal(new.model.get_parameter("text.text_projection"), old.model.get_parameter("text_projection"))
