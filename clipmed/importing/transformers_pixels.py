"""Image processors of transformers as OpenCLIP's `preprocess_cfg`: the same pixels, or an error that says why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipmed.checkpoint_config import read_json
from clipmed.errors import CheckpointError
from clipmed.pixels import OPENAI_MEAN, OPENAI_STD

# Since version 5 of transformers a part of the processor's file, which counts more; up to 4 in a file of its own.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
DEFAULT_SIDE = 224  # CLIPImageProcessor's
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_BY_CLIP = ("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")


def convert_processor(folder: Path, side: int) -> dict[str, Any]:
    """Return OpenCLIP's `preprocess_cfg` for the image processor of a folder.

    Args:
        folder: holds one of PROCESSOR_FILES; what a setting is that they leave out, CLIPImageProcessor says.
        side: of the image tower's input, in pixels.

    Raises:
        CheckpointError: no processor, another one than CLIP's, or a setting that OpenCLIP's transform has not.
    """
    path, given = _processor(folder)
    kind = given.get("image_processor_type", given.get("feature_extractor_type", _BY_CLIP[0]))
    _require(path, "image_processor_type", kind in _BY_CLIP, kind, " or ".join(_BY_CLIP[:2]))
    for switch in ("do_resize", "do_rescale"):
        _require(path, switch, given.get(switch, True) is True, given.get(switch), "true")
    factor = given.get("rescale_factor", 1 / 255)
    is_byte = isinstance(factor, int | float) and math.isclose(factor, 1 / 255, rel_tol=1e-6)
    _require(path, "rescale_factor", is_byte, factor, "1/255")
    resample = given.get("resample", 3)
    _require(path, "resample", resample in _INTERPOLATIONS, resample, "2 (bilinear) or 3 (bicubic)")
    normal = bool(given.get("do_normalize", True))
    return {
        "mean": given.get("image_mean", list(OPENAI_MEAN)) if normal else [0.0] * 3,
        "std": given.get("image_std", list(OPENAI_STD)) if normal else [1.0] * 3,
        "interpolation": _INTERPOLATIONS[resample],
        "resize_mode": _resize_mode(path, given, side),
    }


def _processor(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    found = {}
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            content = read_json(folder / name)
            settings = content.get("image_processor", content)
            if isinstance(settings, dict) and settings.keys() & {"image_mean", "image_processor_type", "size"}:
                found[folder / name] = {key: value for key, value in settings.items() if value is not None}
    if not found:
        raise CheckpointError(
            f"{folder}: no {' or '.join(PROCESSOR_FILES)} that tells how pixels are made; they are not guessed: take "
            "the file from the repository that the model comes from"
        )
    return next(iter(found.items()))


def _resize_mode(path: Path, given: Mapping[str, Any], side: int) -> str:
    """Return how an image comes to a square of `side`: its middle cut out, or both sides scaled."""
    size, crop = given.get("size", DEFAULT_SIDE), given.get("crop_size", DEFAULT_SIDE)
    crops = bool(given.get("do_center_crop", True))
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    square = _sides(size)
    if shortest == side and crops and _sides(crop) == (side, side):
        return "shortest"
    if square == (side, side) and isinstance(size, dict) and (not crops or _sides(crop) == square):
        return "squash"
    said = f"size {size!r}, {'crop_size ' + repr(crop) if crops else 'no crop'}"
    raise _refused(path, "size", said, f"the tower's {side} pixels: as shortest_edge with a crop to it, or both sides")


def _sides(value: Any) -> tuple[Any, Any]:
    """Return height and width; a number is both."""
    return (value.get("height"), value.get("width")) if isinstance(value, dict) else (value, value)


def _require(path: Path, key: str, holds: bool, got: Any, allowed: str) -> None:
    if not holds:
        raise _refused(path, key, f"{got!r:.100}", allowed)


def _refused(path: Path, key: str, got: str, allowed: str) -> CheckpointError:
    return CheckpointError(f"{path}: {key}: got {got}; allowed, as OpenCLIP makes pixels: {allowed}")
