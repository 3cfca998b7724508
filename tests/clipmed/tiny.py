"""A checkpoint small enough for a test, with OpenCLIP's own towers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from clipmed.checkpoints import save_checkpoint
from clipmed.towers import ModelConfig, build_two_tower

NAME = "org/tiny"  # of the tiny checkpoint at the hub of tests
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CARD = "# A card\n"


def save_tiny(folder: Path, seed: int = 0, card: str = CARD, config: dict = TINY) -> Path:
    """Write a checkpoint with random weights to a folder; return it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}-config.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(seed)
    save_checkpoint(folder, build_two_tower(ModelConfig(config=str(path))), card)
    return folder


FULL_CARD = """# A tiny model

For research.

## Data

Noise.

## Licences

None.

## Training configuration

No step.

## Scores

None is worth a number.

## Limits of use

All.
"""


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


def same_files(folder, checkpoint):
    """Require that two folders hold the same files."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.iterdir()}
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in checkpoint.iterdir())
