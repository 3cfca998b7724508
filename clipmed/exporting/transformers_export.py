"""Checkpoints as folders that plain transformers loads: `AutoModel` and `AutoProcessor`, no code from the folder.

towers of the checkpoint                              class in transformers
OpenCLIP's vision transformer, its causal text         CLIPModel
any other image and text tower that can be held        VisionTextDualEncoderModel

A timm image tower needs timm where the folder is loaded. What cannot be held is refused by name.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError
from clipmed.exporting.carried import Carried
from clipmed.exporting.parity import (
    PROBE_TEXTS,
    REPORT_FILE,
    TOLERANCE,
    largest_difference,
    probe_images,
    probe_pixels,
    require_parity,
    require_replaceable,
)
from clipmed.files import atomic_folder, write_json

if TYPE_CHECKING:
    import torch

    from clipmed.exporting.clip_layout import Tower
    from clipmed.towers import TwoTower

_RESAMPLING = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers


def export_transformers(
    two_tower: TwoTower, out: Path, source: Mapping[str, Any], carried: Carried | None = None
) -> dict[str, Any]:
    """Write a folder for transformers, atomically, after its embeddings were compared with the checkpoint's.

    Args:
        two_tower: the checkpoint, on the CPU in float32.
        out: the folder to write.
        source: what the report says of the checkpoint, such as its digest.
        carried: the checkpoint's card, and its calibration, whose scale becomes the model's `logit_scale`.

    Returns:
        the report, which is `export.json` in the folder too.

    Raises:
        ConfigError: a part that transformers' classes cannot hold, by name; or embeddings differ by more than 1e-5.
    """
    import transformers

    from clipmed.exporting.tokenizers_export import export_tokenizer

    require_replaceable(out)
    carried = carried or Carried()
    scales = carried.scales(two_tower)
    with quiet_transformers():
        model = _convert(two_tower)
        _set_scale(model, scales["logit_scale"])
        images = transformers.CLIPImageProcessor(**_image_settings(two_tower))
        processor_class = (
            transformers.CLIPProcessor if is_clip(two_tower) else transformers.VisionTextDualEncoderProcessor
        )
        processor = processor_class(images, export_tokenizer(two_tower))
        with atomic_folder(out) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
            report = {"format": "transformers", "class": type(model).__name__, **source, **scales}
            report |= _compare(two_tower, partial)
            write_json(partial / REPORT_FILE, report)
            carried.write(partial, "transformers", _use(report, two_tower), scales)
    return report


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep progress bars and notes of transformers and timm from the terminal."""
    from transformers.utils import logging as transformers_logging

    notes: Any = transformers_logging
    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()


def is_clip(two_tower: TwoTower) -> bool:
    """Say whether both towers are OpenCLIP's own, which `CLIPModel` holds; others are put into a dual encoder."""
    cfg = two_tower.model_cfg
    return "timm_model_name" not in cfg["vision_cfg"] and "hf_model_name" not in cfg["text_cfg"]


def _convert(two_tower: TwoTower) -> Any:
    from clipmed.exporting.clip_layout import text_tower, vision_tower
    from clipmed.exporting.dual_towers import hugging_face_tower, timm_tower

    model: Any = two_tower.model
    cfg = two_tower.model_cfg
    if "timm_model_name" in cfg["vision_cfg"]:
        vision = timm_tower(model.visual, cfg["vision_cfg"])
    else:
        vision = vision_tower(model, cfg)
    if "hf_model_name" in cfg["text_cfg"]:
        text = hugging_face_tower(model.text, cfg["text_cfg"])
    else:
        text = text_tower(model, cfg, _eos_id(two_tower))
    built = _shell(two_tower, vision, text)
    state = {f"vision_model.{name}": tensor for name, tensor in vision.state.items()}
    state |= {f"text_model.{name}": tensor for name, tensor in text.state.items()}
    state |= {"visual_projection.weight": vision.projection, "text_projection.weight": text.projection}
    lacking, surplus = built.load_state_dict(state, strict=False)
    lacking = [name for name in lacking if name != "logit_scale"]
    if lacking or surplus:
        raise ConfigError(
            f"transformers' {type(built).__name__} has other weights than this checkpoint: it lacks {surplus[:3]} and "
            f"has {lacking[:3]} besides; export it with --format onnx"
        )
    return built.eval()


def _set_scale(model: Any, scale: float) -> None:
    import torch

    with torch.no_grad():
        model.logit_scale.fill_(math.log(scale))
    model.config.logit_scale_init_value = math.log(scale)


def _shell(two_tower: TwoTower, vision: Tower, text: Tower) -> Any:
    """Return the model in transformers, with weights of chance."""
    import transformers

    hf: Any = transformers
    model: Any = two_tower.model
    whole = is_clip(two_tower)
    config = (hf.CLIPConfig if whole else hf.VisionTextDualEncoderConfig)(
        vision_config=vision.config.to_dict(),
        text_config=text.config.to_dict(),
        projection_dim=vision.projection.shape[0],
    )
    if model.logit_bias is not None:
        config.logit_bias = float(model.logit_bias.detach().reshape(()))
    return (hf.CLIPModel if whole else hf.VisionTextDualEncoderModel)(config)


def _eos_id(two_tower: TwoTower) -> int:
    """Return the id of the token that pools; 2 has transformers take the highest id, as OpenCLIP's argmax does."""
    cfg = two_tower.model_cfg["text_cfg"]
    if cfg.get("pool_type", "argmax") == "eos":
        return int(cfg.get("eos_id", 2))
    return int(getattr(two_tower.tokenizer, "eot_token_id", 2))


def _image_settings(two_tower: TwoTower) -> dict[str, Any]:
    pixels = two_tower.pixels
    height, width = pixels.size
    if pixels.resize_mode == "longest" or (pixels.resize_mode == "shortest" and height != width):
        raise ConfigError(
            f"preprocess_cfg: transformers' image processor has no resize_mode={pixels.resize_mode!r} for {height}x"
            f"{width} pixels; allowed: shortest for a square, squash; export it with --format onnx"
        )
    size = {"height": height, "width": width}
    return {
        "size": size if pixels.resize_mode == "squash" else {"shortest_edge": height},
        "do_center_crop": pixels.resize_mode == "shortest",
        "crop_size": size,
        "resample": _RESAMPLING[pixels.interpolation],
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }


def _compare(two_tower: TwoTower, folder: Path) -> dict[str, Any]:
    """Load the folder as a stranger would; return what differs, from the checkpoint to the embeddings."""
    import torch
    import transformers

    from clipmed.zeroshot import embed_images, embed_texts

    hf: Any = transformers
    model, processor = hf.AutoModel.from_pretrained(folder).eval(), hf.AutoProcessor.from_pretrained(folder)
    pixels = probe_pixels(two_tower)
    expected = embed_images(two_tower, pixels)
    tokens = processor(text=list(PROBE_TEXTS), return_tensors="pt")
    with torch.no_grad():
        texts = _unit(model.get_text_features(**tokens).pooler_output)
        images = _unit(model.get_image_features(pixel_values=pixels).pooler_output)
        processed = processor(images=probe_images(), return_tensors="pt")["pixel_values"]
        whole = _unit(model.get_image_features(pixel_values=processed).pooler_output)
    std = torch.tensor(two_tower.std).reshape(3, 1, 1)
    return {
        "tolerance": TOLERANCE,
        "image_embeddings_differ_by": require_parity("image embeddings", largest_difference(images, expected)),
        "text_embeddings_differ_by": require_parity(
            "text embeddings", largest_difference(texts, embed_texts(two_tower, PROBE_TEXTS))
        ),
        # transformers resizes tensors, OpenCLIP Pillow images, and they cut the middle out a pixel apart where the
        # margin is an odd number: in grey levels of 255, then as cosines of the two embeddings of a probe image.
        "processor_pixels_differ_by_mean": float(((processed - pixels) * std).abs().mean() * 255),
        "processor_pixels_differ_by": largest_difference(processed * std, pixels * std) * 255,
        "processor_lowest_cosine": float((whole * expected).sum(dim=-1).min()),
    }


def _unit(features: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)


def _use(report: Mapping[str, Any], two_tower: TwoTower) -> str:
    needs_timm = "timm_model_name" in two_tower.model_cfg["vision_cfg"]
    text = _USE.format(
        name=report["class"],
        needs="transformers and timm" if needs_timm else "transformers",
        differs=f"{max(report['image_embeddings_differ_by'], report['text_embeddings_differ_by']):.1e}",
        pixels=f"{report['processor_pixels_differ_by_mean']:.2f}",
        cosine=f"{report['processor_lowest_cosine']:.4f}",
    )
    notes = [] if is_clip(two_tower) else [_DUAL_NOTE]
    notes += [] if getattr(two_tower.model, "logit_bias", None) is None else [_BIAS_NOTE]
    return "".join([text, *notes])


_USE = """A {name}, exported by clipmed; needs {needs}.

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("."), AutoProcessor.from_pretrained(".")
image = Image.open("image.png").convert("RGB")
inputs = processor(text=["a normal scan", "a scan with a mass"], images=image, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(dim=-1))
```

`get_image_features` and `get_text_features` give embeddings as `pooler_output`; bring them to unit length. The
processor pads and cuts texts to the context length by itself.

Of the same pixels, embeddings differ from the checkpoint's by at most {differs}. The processor's own pixels differ by
{pixels} grey levels of 255 on average; the lowest cosine between an embedding of those and the checkpoint's is {cosine}
(export.json).
"""
_DUAL_NOTE = """
The text tower's pooler holds the projection, and so does its last layer where the checkpoint projects texts by two
matrices: neither is as trained. Use `get_text_features`, in float32 or bfloat16.
"""
_BIAS_NOTE = """
The checkpoint's `logit_bias` is in config.json; transformers does not add it to the logits.
"""
