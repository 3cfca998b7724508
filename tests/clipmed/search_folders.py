"""What the tests of search share: a tiny checkpoint, drawn images, and indexes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipmed.checkpoints import save_checkpoint
from clipmed.towers import ModelConfig, build_two_tower

DIMENSION = 16
TINY = {
    "embed_dim": DIMENSION,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Save a checkpoint with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(TINY))
    torch.manual_seed(seed)
    save_checkpoint(folder / "model", build_two_tower(ModelConfig(config=str(folder / "tiny.json"))), "# A card\n")
    return folder / "model"


def draw(path: Path, seed: int) -> Path:
    """Draw an image of its own: a coarse pattern of 8 by 8 colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(tiles).resize((60, 40), Image.Resampling.NEAREST).save(path)
    return path


def draw_many(folder: Path, count: int) -> list[Path]:
    """Draw images 000.png, 001.png and so on."""
    return [draw(folder / f"{number:03d}.png", number) for number in range(count)]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
