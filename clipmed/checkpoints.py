"""Checkpoints in OpenCLIP's folder format: saved whole, loaded strictly, never unpickled.

`clipmed.checkpoint_files` says which files a folder holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from clipmed.errors import CheckpointError
from clipmed.files import atomic_folder, write_json, write_text
from clipmed.hub import HUB_PREFIX, fetch, fetch_snapshot

if TYPE_CHECKING:
    import torch

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

    `open_clip.create_model_from_pretrained("local-dir:<folder>")` and `clipmed.load(folder)` read it.
    """
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in two_tower.model.state_dict().items()}
    with atomic_folder(folder) as partial:
        save_file(state, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        _save_tokenizer(two_tower, partial)
        write_json(partial / CONFIG_FILE, _config(two_tower))
        write_text(partial / CARD_FILE, card)
        write_sums(partial)


def load_checkpoint(location: str | Path, device: str = "cpu") -> TwoTower:
    """Load a checkpoint from a folder or from the Hugging Face hub (`hf-hub:org/name`), in evaluation mode.

    Raises:
        CheckpointError: nothing there, no safetensors weights, or weights that do not match the config.
    """
    from clipmed.towers import assemble

    folder = checkpoint_folder(location)
    config = read_config(folder)
    check_sums(folder)
    two_tower = assemble(config["model_cfg"], preprocess_cfg=config.get("preprocess_cfg"), folder=folder)
    load_weights(two_tower.model, folder)
    two_tower.model.to(device).eval()
    return two_tower


def checkpoint_folder(location: str | Path) -> Path:
    """Return the folder of a checkpoint; one that lies elsewhere is downloaded, or found in the cache, first."""
    return fetch(location)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Load the folder's safetensors into `model`; every key must match in name and shape.

    Weights of OpenCLIP's older layout, without a text tower of its own, are renamed where the model has one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; pickled weights are not read, since loading them can run code; "
            "convert them to safetensors first"
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it again") from error
    wanted = model.state_dict()
    if "text.positional_embedding" in wanted and "positional_embedding" in state:
        from open_clip.model import convert_to_custom_text_state_dict

        state = convert_to_custom_text_state_dict(state)
    _check_state(wanted, state, path)
    model.load_state_dict(state)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config file, after checking that it is one."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint: no {CONFIG_FILE} in it; give a folder that training wrote "
            f"(its model/ folder) or {HUB_PREFIX}org/name"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise CheckpointError(f"{path} lacks 'model_cfg'; it is not an OpenCLIP config")
    return config


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


def _check_state(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor], path: Path) -> None:
    missing = sorted(wanted.keys() - got.keys())
    unexpected = sorted(got.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(got[name].shape)}, the config wants {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & got.keys())
        if wanted[name].shape != got[name].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path} does not match its config: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are unexpected {unexpected[:3]}, {len(shapes)} differ in shape {shapes[:3]}; "
            "the weights are of another model"
        )
