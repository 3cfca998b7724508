"""What a transformers image processor does, in words that can name a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers


def describe_processor(config: Mapping[str, Any]) -> str:
    """Return size, resize mode, interpolation, crop, scale, mean and deviation, and a digest of the whole config.

    Settings that the config does not name are those of the processor's class, which comes first.
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "processor")
    parts = [
        _resizing(config),
        _cropping(config),
        *(f"{name}={_numbers(config[f'image_{name}'])}" for name in ("mean", "std") if f"image_{name}" in config),
    ]
    if "max_num_patches" in config:
        parts.append(f"at most {config['max_num_patches']} patches")
    whole = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    return ":".join(["transformers", kind, *(part for part in parts if part), whole, "v1"])


def _resizing(config: Mapping[str, Any]) -> str:
    if not config.get("do_resize", True):
        return "no resize"
    resample = config.get("resample")
    how = f" {RESAMPLING[resample]}" if isinstance(resample, int) and 0 <= resample < len(RESAMPLING) else ""
    size = config.get("size")
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return f"shortest {size['shortest_edge']}{how}"
    return f"resize {_extent(size)}{how}"


def _cropping(config: Mapping[str, Any]) -> str:
    if "do_center_crop" not in config:
        return ""
    return f"centre-crop {_extent(config.get('crop_size'))}" if config["do_center_crop"] else "no crop"


def _extent(size: Any) -> str:
    if isinstance(size, Mapping):
        return "x".join(str(size[side]) for side in ("height", "width") if side in size) or "default"
    return "default" if size is None else str(size)


def _numbers(values: Any) -> str:
    return ",".join(str(value) for value in values) if isinstance(values, list) else str(values)
