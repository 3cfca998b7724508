"""Pixels are those that the checkpoint's config asks for, as OpenCLIP makes them."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import clipmed
from clipmed.checkpoints import load_checkpoint, save_checkpoint
from clipmed.errors import CheckpointError
from clipmed.pixels import PixelConfig, image_pixels, pixel_config
from tests.clipmed.tiny import tiny_checkpoint

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [32, [32, 48]])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("interpolation", "fill"), [("bicubic", 0), ("bilinear", 200)])
def test_every_setting_gives_the_embedding_of_plain_open_clip(tmp_path, size, mode, interpolation, fill):
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    chosen = {"resize_mode": mode, "interpolation": interpolation, "fill_color": fill, **statistics}
    folder = tiny_checkpoint(tmp_path, size, **chosen)
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    ours = clipmed.load(folder, "cpu")
    pixels = preprocess(WIDE)
    torch.testing.assert_close(image_pixels(WIDE, ours.two_tower.pixels), pixels, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours.embed_images(WIDE), theirs.encode_image(pixels[None], normalize=True))


def test_modes_differ():
    base = {"size": (32, 32), "interpolation": "bicubic"}
    made = [image_pixels(WIDE, PixelConfig(resize_mode=mode, **base)) for mode in ("shortest", "longest", "squash")]
    made.append(image_pixels(WIDE, PixelConfig(size=(32, 32), interpolation="bilinear")))
    assert all(not torch.equal(one, other) for place, one in enumerate(made) for other in made[:place])


def test_settings_survive_saving_and_loading(tmp_path):
    chosen = {"resize_mode": "squash", "interpolation": "bilinear", "fill_color": 7, "mean": (0.5, 0.5, 0.5)}
    folder = tiny_checkpoint(tmp_path, [32, 48], **chosen)
    loaded = load_checkpoint(folder)
    assert loaded.pixels == PixelConfig(size=(32, 48), **chosen)
    save_checkpoint(tmp_path / "again", loaded, "")
    name = "open_clip_config.json"
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_what_the_config_leaves_out_is_open_clips_default():
    assert pixel_config({"mean": None, "std": 0.5, "interpolation": "random", "url": "x"}, 224, "it") == PixelConfig(
        size=(224, 224), std=(0.5, 0.5, 0.5)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize_mode": "stretch"},
        {"interpolation": "lanczos"},
        {"mode": "L"},
        {"fill_color": -1},
        {"mean": [0.5]},
        {"mean": "grey"},
        {"std": [0.5, 0.0, 0.5]},
        {"std": [0.5, float("nan"), 0.5]},
    ],
)
def test_settings_that_open_clip_does_not_know_are_errors(tmp_path, wrong):
    folder = tiny_checkpoint(tmp_path)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"] |= wrong
    with pytest.raises(CheckpointError, match=f"preprocess_cfg has .*{next(iter(wrong))}"):
        pixel_config(config["preprocess_cfg"], 32, "it")
