"""Checkpoints in OpenCLIP's folder format: saved whole, loaded strictly, never unpickled.

`clipmed.checkpoint_files` says which files a folder holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoint_config import read_config
from clipmed.checkpoint_files import (
    CARD_FILE,
    CONFIG_FILE,
    SMALL_FILES,
    SUMS_FILE,
    WEIGHTS_FILE,
    check_sums,
    checkpoint_digest,
    write_sums,
)
from clipmed.files import atomic_folder, write_json, write_text
from clipmed.hub import HUB_PREFIX, fetch, fetch_snapshot
from clipmed.loading import load_weights, open_two_tower

if TYPE_CHECKING:
    from clipmed.towers import TwoTower

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "HUB_PREFIX",
    "SMALL_FILES",
    "SUMS_FILE",
    "WEIGHTS_FILE",
    "checkpoint_digest",
    "checkpoint_folder",
    "fetch_snapshot",
    "load_checkpoint",
    "load_weights",
    "read_config",
    "save_checkpoint",
]


def save_checkpoint(folder: Path, two_tower: TwoTower, card: str) -> None:
    """Write a checkpoint folder, atomically; `card` is the model card in Markdown.

    `clipmed.load(folder)` and OpenCLIP's `local-dir:<folder>` read it. Where the files of a Hugging Face text tower lie
    in the folder, its name in the config is ".", which OpenCLIP takes for the current folder: it loads such a
    checkpoint as `local-dir:.` from inside the folder, or by its name from the hub, once it is published.
    """
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in two_tower.model.state_dict().items()}
    with atomic_folder(folder) as partial:
        save_file(state, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        _save_tokenizer(two_tower, partial)
        write_json(partial / CONFIG_FILE, _config(two_tower))
        write_text(partial / CARD_FILE, card)
        write_sums(partial)


def load_checkpoint(location: str | Path, device: str = "cpu", *, offline: bool | None = None) -> TwoTower:
    """Load a checkpoint, in evaluation mode.

    Args:
        location: as for `clipmed.hub.fetch`.
        device: where the model shall be.
        offline: use only what is on this machine; $HF_HUB_OFFLINE if not given.

    Raises:
        ConfigError: a malformed location.
        CheckpointError: nothing there, no safetensors weights, files that were changed, or weights that do not match
            the config.
    """
    folder = fetch(location, offline=offline)
    config = read_config(folder)
    check_sums(folder)
    return open_two_tower(config, folder, device, offline)


def checkpoint_folder(location: str | Path) -> Path:
    """Return the folder of a checkpoint; one that lies elsewhere is downloaded, or found in the cache, first."""
    return fetch(location)


def _config(two_tower: TwoTower) -> dict[str, Any]:
    model_cfg: dict[str, Any] = json.loads(json.dumps(two_tower.model_cfg))
    text_cfg = model_cfg["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if key in text_cfg and Path(text_cfg[key]).is_dir():
            text_cfg[key] = "."  # a folder of this machine means nothing elsewhere: the files lie beside the config
    if "hf_model_name" in text_cfg:
        text_cfg.setdefault("hf_tokenizer_name", text_cfg["hf_model_name"])
    return {"model_cfg": model_cfg, "preprocess_cfg": two_tower.pixels.preprocess_cfg()}


def _save_tokenizer(two_tower: TwoTower, folder: Path) -> None:
    save_pretrained = getattr(two_tower.tokenizer, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
    text: Any = getattr(two_tower.model, "text", None)
    text_config = getattr(text, "config", None)
    if text_config is not None:
        text_config.save_pretrained(folder)
