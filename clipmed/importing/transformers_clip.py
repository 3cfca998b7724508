"""transformers' CLIPModel in OpenCLIP's layout: weights renamed, projections turned, config translated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoint_config import check_no_code, read_json
from clipmed.errors import CheckpointError
from clipmed.importing.published import openclip_config
from clipmed.importing.transformers_pixels import convert_processor

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
CLIP_VOCABULARY = 49408
LEGACY_EOS = 2  # configs of before the end-of-text token was written down; the highest id is meant

_TOWERS = {"vision_model.": "visual.", "text_model.": ""}
_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "final_layer_norm": "ln_final",
}
_BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TURNED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_POSITION_IDS = "embeddings.position_ids"


def convert_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under OpenCLIP's names, those of a model without a text tower of its own.

    Raises:
        CheckpointError: a tensor that a CLIPModel does not have.
    """
    converted = {}
    for name, tensor in state.items():
        if name.endswith(_POSITION_IDS) or _is_third(name):
            continue
        new = _new_name(name)
        if new is None:
            raise CheckpointError(f"{name} is no tensor of transformers' CLIPModel; it is of another layout")
        converted[new] = tensor.T.contiguous() if name in _TURNED else tensor
    converted.update(_joined(state))
    return converted


def convert_config(folder: Path) -> tuple[dict[str, Any], bool]:
    """Return the content of open_clip_config.json, and whether the tokenizer is CLIP's own.

    Args:
        folder: holds transformers' config.json, and its image processor's.

    Raises:
        CheckpointError: not a CLIP, or one with parts, or pixels, that OpenCLIP's has not.
    """
    path = folder / CONFIG_FILE
    config = read_json(path)
    check_no_code(path)
    if config.get("model_type") != "clip":
        raise CheckpointError(f"{path}: model_type is {config.get('model_type')!r:.60}; allowed: clip")
    from transformers import CLIPConfig

    try:
        whole = CLIPConfig.from_pretrained(folder)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a config of transformers' CLIP: {said}") from error
    vision: Any = whole.vision_config
    text: Any = whole.text_config
    activation = _activation({vision.hidden_act, text.hidden_act}, path)
    _check_ratio(vision, text, path)
    own = text.vocab_size == CLIP_VOCABULARY and text.eos_token_id in {LEGACY_EOS, CLIP_VOCABULARY - 1}
    text_cfg = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "norm_kwargs": {"eps": text.layer_norm_eps},
    }
    if not own:
        text_cfg |= {"pool_type": "eos", "eos_id": text.eos_token_id, "hf_tokenizer_name": "."}
    vision_cfg = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "layers": vision.num_hidden_layers,
        "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        "norm_kwargs": {"eps": vision.layer_norm_eps},
    }
    text_cfg["mlp_ratio"] = text.intermediate_size / text.hidden_size
    model_cfg = {"embed_dim": whole.projection_dim, **activation, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    return openclip_config(model_cfg, convert_processor(folder, vision.image_size)), own


def _new_name(name: str) -> str | None:
    if name in _TURNED or name == "logit_scale":
        return _TURNED.get(name, name)
    tower = next((tower for tower in _TOWERS if name.startswith(tower)), None)
    if tower is None:
        return None
    rest = name.removeprefix(tower)
    part, _, kind = rest.rpartition(".")
    block = _BLOCK.fullmatch(rest)
    if rest in _NAMES:
        new = _NAMES[rest]
    elif part in _NAMES:
        new = f"{_NAMES[part]}.{kind}"
    elif block and block[2] in _BLOCK_NAMES:
        new = f"transformer.resblocks.{block[1]}.{_BLOCK_NAMES[block[2]]}.{block[3]}"
    else:
        return None
    return _TOWERS[tower] + new


def _is_third(name: str) -> bool:
    return re.search(r"\.self_attn\.[qkv]_proj\.", name) is not None


def _joined(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the three projections of each attention as OpenCLIP's one."""
    import torch

    for name in state:
        if ".self_attn.q_proj." not in name:
            continue
        tower = next((tower for tower in _TOWERS if name.startswith(tower)), "")
        block = _BLOCK.fullmatch(name.removeprefix(tower))
        thirds = [state.get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        if not tower or block is None or any(third is None for third in thirds):
            raise CheckpointError(f"{name} has no partners of its attention; the file is not whole")
        number, kind = block[1], block[3]
        yield (
            f"{_TOWERS[tower]}transformer.resblocks.{number}.attn.in_proj_{kind}",
            torch.cat([third for third in thirds if third is not None]),
        )


def _activation(names: set[str], path: Path) -> dict[str, Any]:
    if names == {"quick_gelu"}:
        return {"quick_gelu": True}
    if names == {"gelu"}:
        return {}
    raise CheckpointError(
        f"{path}: hidden_act is {' and '.join(sorted(names))}; allowed: quick_gelu or gelu in both towers"
    )


def _check_ratio(vision: Any, text: Any, path: Path) -> None:
    for config in (vision, text):
        if config.hidden_size % config.num_attention_heads:
            raise CheckpointError(
                f"{path}: hidden_size {config.hidden_size} is no multiple of {config.num_attention_heads} heads"
            )
