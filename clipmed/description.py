"""What a checkpoint is, read from its files' headers, configs and card; its weights are not loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipmed.cards import Card, missing, parse_card
from clipmed.checkpoint_config import read_config, read_json
from clipmed.checkpoint_files import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    MERGE_FILE,
    WEIGHTS_FILE,
    check_sums,
    checkpoint_digest,
    file_sha256,
)
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub import Fetched
from clipmed.safetensors_header import TensorEntry, count_values, read_header

DEFAULT_SIDE, DEFAULT_CONTEXT = 224, 77


def describe(fetched: Fetched) -> dict[str, Any]:
    """Return the facts of a checkpoint by name, as JSON can hold them.

    Raises:
        CheckpointError: files that are damaged or not what SHA256SUMS says.
    """
    folder = fetched.folder
    config = read_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; `clipmed import {folder} --out FOLDER` converts pickles"
        )
    entries = read_header(folder / WEIGHTS_FILE)
    sums = check_sums(folder)
    return {
        "location": str(fetched.location),
        "folder": str(folder),
        "commit": fetched.commit,
        "digest": checkpoint_digest(folder),
        "sha256": file_sha256(folder / WEIGHTS_FILE),
        "files checked": len(sums),
        **_sizes(config, entries, folder),
        **_card_facts(folder),
        "calibration": _calibration(folder),
        "merged from": _parents(folder),
    }


def read_card(folder: Path) -> Card:
    """Return the card of a checkpoint's folder; an empty one where there is none.

    Raises:
        ConfigError: metadata that is no YAML, or a card that is no text.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return Card(intro="")
    try:
        return parse_card(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from error


def _sizes(config: dict[str, Any], entries: dict[str, TensorEntry], folder: Path) -> dict[str, Any]:
    from clipmed.pixels import pixel_config

    model_cfg = config["model_cfg"]
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    side = vision.get("image_size") or DEFAULT_SIDE
    image = {name: entry for name, entry in entries.items() if name.startswith("visual.")}
    scalars = {name: entry for name, entry in entries.items() if name in {"logit_scale", "logit_bias"}}
    total, of_image = count_values(entries), count_values(image)
    try:
        pixels = pixel_config(config.get("preprocess_cfg"), side, str(folder / CONFIG_FILE))
    except TypeError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: image_size is {side!r}; allowed: a side or two") from error
    return {
        "parameters": total,
        "image tower": of_image,
        "text tower": total - of_image - count_values(scalars),
        "stored as": ", ".join(sorted({entry.dtype for entry in entries.values()})),
        "image tower's kind": vision.get("timm_model_name") or "OpenCLIP's own",
        "text tower's kind": text.get("hf_model_name") or "OpenCLIP's own",
        "embedding dimensions": model_cfg.get("embed_dim"),
        "image size": list(pixels.size),
        "context length": text.get("context_length") or DEFAULT_CONTEXT,
        "pixels": {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "resize": pixels.resize_mode,
            "interpolation": pixels.interpolation,
        },
    }


def _card_facts(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    data = next((line for line in card.sections.get("Data", "").splitlines() if line.strip()), None)
    return {
        "title": card.title if card.sections or card.intro else None,
        "licence": card.metadata.get("license"),
        "data": data,
        "card lacks": sorted(missing(card)),
    }


def _calibration(folder: Path) -> str | None:
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    belongs = read_json(path).get("checkpoint") == checkpoint_digest(folder)
    return "of this checkpoint" if belongs else "of other weights: it is refused at loading"


def _parents(folder: Path) -> list[dict[str, Any]] | None:
    path = folder / MERGE_FILE
    if not path.is_file():
        return None
    parents = read_json(path).get("parents")
    if not isinstance(parents, list) or not all(isinstance(parent, dict) for parent in parents):
        raise CheckpointError(f"{path} names no parents; it is not the record of a merge")
    return parents
