"""OpenCLIP's MODEL:TAG as checkpoint folders: the tag's own activation and statistics, safetensors alone."""

import json

import pytest
import torch
from open_clip import pretrained

import clipmed
from clipmed.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE
from clipmed.checkpoints import load_checkpoint
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub import resolve
from tests.clipmed.tiny import TINY, save_tiny

MODEL = "tiny_listed"


@pytest.fixture
def listed(local_hub, tmp_path, monkeypatch):
    """A model and its tags, as if OpenCLIP listed them."""
    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{MODEL}.json").write_text(json.dumps(TINY | {"custom_text": True}))
    open_clip.add_model_config(tmp_path / "configs")
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "interpolation": "bicubic", "resize_mode": "squash"}
    tags = {
        "good": {"hf_hub": "org/tiny/", "quick_gelu": True, **statistics},
        "pickled": {"hf_hub": "org/pickled/", **statistics},
        "elsewhere": {"url": "https://example.org/model.pt", **statistics},
    }
    monkeypatch.setitem(pretrained._PRETRAINED, MODEL, tags)
    original = save_tiny(tmp_path / "original")
    local_hub.commit("org/tiny", {WEIGHTS_FILE: original / WEIGHTS_FILE})
    local_hub.commit("org/pickled", {"open_clip_pytorch_model.bin": b"a pickle"})
    return original


def test_a_tag_is_a_checkpoint_like_any_other(listed, local_hub):
    found = resolve(f"{MODEL}:good")
    assert found.commit == local_hub.repositories["org/tiny"].branches["main"]
    config = json.loads((found.folder / CONFIG_FILE).read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    loaded, original = load_checkpoint(f"{MODEL}:good"), load_checkpoint(listed)
    assert loaded.mean == (0.5, 0.4, 0.3)
    assert loaded.pixels.resize_mode == "squash"
    state = original.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    seen = len(local_hub.seen)
    assert resolve(f"{MODEL}:good", offline=True).folder == found.folder
    assert len(local_hub.seen) == seen
    assert clipmed.load(f"{MODEL}:good", device="cpu", offline=True).embed_texts("a lung").shape == (1, 16)


def test_tags_that_are_pickles_are_refused_with_the_reason(listed, local_hub):
    with pytest.raises(ConfigError, match=r"OpenCLIP lists the pickle 'https://example.org/model.pt'.*clipmed import"):
        resolve(f"{MODEL}:elsewhere")
    with pytest.raises(CheckpointError, match=r"org/pickled has no .*pickled weights are not read"):
        resolve(f"{MODEL}:pickled")
    assert "org/pickled/open_clip_pytorch_model.bin" not in local_hub.sent


def test_unknown_models_and_tags_name_the_nearest(listed):
    with pytest.raises(ConfigError, match=r"has no weights 'god'; did you mean 'good'\?"):
        resolve(f"{MODEL}:god")
    with pytest.raises(ConfigError, match=r"no model config is called 'ViT-B-33'; did you mean 'ViT-B-32'\?"):
        resolve("ViT-B-33:openai")
