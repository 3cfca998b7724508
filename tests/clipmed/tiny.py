"""A checkpoint of random weights, small enough to make in every test file."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from clipmed.checkpoints import save_checkpoint
from clipmed.towers import ModelConfig, build_two_tower

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_checkpoint(folder: Path, image_size: int | list[int] = 32, logit_scale: float | None = None, **pixels) -> Path:
    """Save a checkpoint in `folder` / model; `pixels` are settings of its `PixelConfig`."""
    config = TINY | {"vision_cfg": TINY["vision_cfg"] | {"image_size": image_size}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    two_tower = build_two_tower(ModelConfig(config=str(folder / "tiny.json")))
    two_tower.pixels = replace(two_tower.pixels, **pixels)
    if logit_scale is not None:
        torch.nn.init.constant_(two_tower.model.logit_scale, torch.tensor(logit_scale).log().item())
    save_checkpoint(folder / "model", two_tower, "# A card\n")
    return folder / "model"
