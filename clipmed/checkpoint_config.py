"""Configs of checkpoints: read as data, and checked before anything is built from them.

A config comes from elsewhere. It may name no path but ".", no code and no address; its values have the types that
OpenCLIP gives them; and it fits the tensors beside it: a model larger than its weights is refused before it is made.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipmed.checkpoint_files import CONFIG_FILE, HERE, WEIGHTS_FILE
from clipmed.configuration import nearest
from clipmed.errors import CheckpointError
from clipmed.hub.locations import HUB_PREFIX
from clipmed.safetensors_header import TensorEntry, count_values

CONFIG_BYTES_MAX = 10_000_000
CONTEXT_MAX = 8192  # the attention mask of OpenCLIP's text tower has its square
SIDE_MAX = 8192

_SECTIONS = ("vision_cfg", "text_cfg")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_TIMM_NAME = re.compile(r"[A-Za-z0-9_.]{1,120}", re.ASCII)
_POSITIVE = frozenset(
    {"embed_dim", "layers", "width", "heads", "head_width", "patch_size", "image_size", "context_length", "vocab_size"}
    | {"attn_pooler_queries", "attn_pooler_heads"}
)
# OpenCLIP's own configs have null here, though its annotations do not say so: ResNets, and towers with timm's own head.
_NULLABLE = frozenset({"patch_size", "timm_proj"})
_CHOICES: dict[str, tuple[str, ...]] = {
    "vision_cfg.pool_type": ("tok", "avg"),
    "text_cfg.pool_type": ("first", "last", "argmax", "eos"),
    "text_cfg.tokenizer_mode": ("", "clips"),
}
# What may be handed to classes of others, and which values.
_OPTIONS: dict[str, dict[str, Any]] = {
    "act_kwargs": {"approximate": ("none", "tanh")},
    "norm_kwargs": {"eps": float, "elementwise_affine": (True, False), "bias": (True, False)},
    "tokenizer_kwargs": {
        "clean": ("canonicalize", "lower", "whitespace"),
        "strip_sep_token": (True, False),
        "reduction_mask": ("simple", "random", "shuffle", "syntax"),
        "language": str,
        "use_fast": (True, False),
    },
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config file, after checking that it is one.

    Raises:
        CheckpointError: no such file, or not a config of OpenCLIP.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: no {CONFIG_FILE} in it; give a folder that training wrote "
            f"(its model/ folder) or {HUB_PREFIX}org/name"
        )
    config = read_json(path)
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, dict):
        raise CheckpointError(f"{path} lacks 'model_cfg'; it is not an OpenCLIP config")
    for name in _SECTIONS:
        if not isinstance(model_cfg.get(name), dict):
            raise CheckpointError(f"{path}: model_cfg lacks {name!r}; it is not a config of two towers")
    if not isinstance(config.get("preprocess_cfg", {}), dict | None):
        raise CheckpointError(f"{path}: preprocess_cfg is {config['preprocess_cfg']!r:.100}; allowed: settings by name")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object.

    Raises:
        CheckpointError: not readable, too large, or anything else.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise CheckpointError(f"{path} has more than {CONFIG_BYTES_MAX} bytes; it is not a config")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} is not readable: {error.strerror}") from error
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; allowed: a JSON object")
    return content


def check_config(model_cfg: Mapping[str, Any], entries: Mapping[str, TensorEntry], where: str) -> None:
    """Check an OpenCLIP `model_cfg` against OpenCLIP's own types and against the tensors that are to fill it.

    Args:
        model_cfg: with the sections `vision_cfg` and `text_cfg`.
        entries: of the weights' header.
        where: the config's file, for messages.

    Raises:
        CheckpointError: names the setting, what it is, and what is allowed.
    """
    from open_clip import CustomTextCLIP
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    hints = typing.get_type_hints(CustomTextCLIP.__init__) | {"custom_text": bool}
    own = {name: hint for name, hint in hints.items() if name not in {*_SECTIONS, "return", "cast_dtype"}}
    _check_values({key: value for key, value in model_cfg.items() if key not in _SECTIONS}, own, where, "")
    _check_values(model_cfg["vision_cfg"], typing.get_type_hints(CLIPVisionCfg), where, "vision_cfg.")
    _check_values(model_cfg["text_cfg"], typing.get_type_hints(CLIPTextCfg), where, "text_cfg.")
    if "embed_dim" not in model_cfg:
        raise CheckpointError(f"{where}: model_cfg lacks 'embed_dim'; it is not an OpenCLIP config")
    _check_names(model_cfg, where)
    _check_fits(model_cfg, entries, where)


def check_text_config(path: Path, context_length: int, entries: Mapping[str, TensorEntry]) -> None:
    """Check the config.json of a Hugging Face text tower: of a kind that OpenCLIP knows, no larger than its weights.

    Raises:
        CheckpointError: names the setting, what it is, and what is allowed.
    """
    from open_clip.hf_configs import arch_dict

    config = read_json(path)
    check_no_code(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in arch_dict:
        raise CheckpointError(f"{path}: model_type is {kind!r:.60}; allowed: {', '.join(arch_dict)}")
    numbers, tensors = count_values(entries), len(entries)
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool):
            limit = tensors if "layers" in key else numbers
            if abs(value) > max(limit, 1_000_000):
                raise CheckpointError(f"{path}: {key} is {value}; the weights beside it have {numbers} numbers in all")
        if "layers" in key and isinstance(value, int) and value > tensors:
            raise CheckpointError(f"{path}: {key} is {value}; the weights beside it have {tensors} tensors in all")
    sides = [config.get(name) for name in ("hidden_size", "vocab_size", "max_position_embeddings", "intermediate_size")]
    width, *others = [side if isinstance(side, int) else 0 for side in sides]
    if any(width * other > numbers for other in (width, *others)):
        raise CheckpointError(f"{path}: sizes {sides}; the weights beside it have {numbers} numbers in all")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and 0 < positions < context_length:
        raise CheckpointError(
            f"{path}: max_position_embeddings is {positions}, less than context_length {context_length}"
        )


def is_hub_name(name: Any) -> bool:
    """Whether a name is that of a repository of the hub, as text towers and tokenizers are called."""
    return isinstance(name, str) and _HUB_NAME.fullmatch(name) is not None and ".." not in name


def check_no_code(path: Path) -> None:
    """Check that a JSON file of a text tower or tokenizer names no code of its repository, and no kernels to fetch.

    Raises:
        CheckpointError: it does.
    """
    config = read_json(path)
    named = [
        key for key in ("auto_map", "trust_remote_code", "quantization_config", "custom_pipelines") if config.get(key)
    ]
    named += [key for key, value in config.items() if "implementation" in key and "/" in str(value)]
    if named:
        raise CheckpointError(
            f"{path} has {named[0]!r}, which names code to fetch or to run; a checkpoint's own code is never run"
        )


def _check_values(section: Mapping[str, Any], hints: Mapping[str, Any], where: str, prefix: str) -> None:
    for key, value in section.items():
        shown = f"{where}: model_cfg.{prefix}{key}"
        if key not in hints:
            raise CheckpointError(f"{shown} is not a setting of OpenCLIP{nearest(str(key), list(hints))}")
        if key in _OPTIONS:
            _check_options(value, _OPTIONS[key], shown)
        elif not _conforms(value, hints[key] | None if key in _NULLABLE else hints[key]):
            raise CheckpointError(f"{shown} is {value!r:.100}; allowed: {_words(hints[key])}")
        elif key in _POSITIVE and not all(number > 0 for number in _numbers(value)):
            raise CheckpointError(f"{shown} is {value!r:.100}; allowed: numbers above 0")
        elif f"{prefix}{key}" in _CHOICES and value not in (None, *_CHOICES[f"{prefix}{key}"]):
            raise CheckpointError(f"{shown} is {value!r:.100}; allowed: {', '.join(_CHOICES[f'{prefix}{key}'])}")


def _check_options(value: Any, allowed: Mapping[str, Any], shown: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise CheckpointError(f"{shown} is {value!r:.100}; allowed: settings by name")
    for key, one in value.items():
        kind = allowed.get(key)
        fits = one in kind if isinstance(kind, tuple) else kind is not None and _conforms(one, kind)
        if not fits:
            raise CheckpointError(f"{shown}.{key} is {one!r:.100}; allowed here: {', '.join(allowed)}")


def _check_names(model_cfg: Mapping[str, Any], where: str) -> None:
    vision, text = (model_cfg[name] for name in _SECTIONS)
    timm = vision.get("timm_model_name")
    if timm is not None and _TIMM_NAME.fullmatch(timm) is None:
        raise CheckpointError(
            f"{where}: model_cfg.vision_cfg.timm_model_name is {timm!r:.100}; allowed: the name of a timm model, "
            "without an address"
        )
    for key in ("hf_model_name", "hf_tokenizer_name"):
        name = text.get(key)
        if name not in (None, HERE) and not is_hub_name(name):
            raise CheckpointError(
                f"{where}: model_cfg.text_cfg.{key} is {name!r:.100}; allowed: '.', for the files beside it, or "
                "org/name of the hub; a path of another machine means nothing here"
            )


def _check_fits(model_cfg: Mapping[str, Any], entries: Mapping[str, TensorEntry], where: str) -> None:
    """Check that no table of the towers has more numbers than the weights have in all, nor more layers than tensors."""
    numbers, tensors = count_values(entries), len(entries)
    layers = max((sum(_numbers(model_cfg[name].get("layers", 0))) for name in _SECTIONS), default=0)
    if layers > tensors:
        raise CheckpointError(
            f"{where}: {layers} layers, and {WEIGHTS_FILE} has {tensors} tensors; it is of another model"
        )
    for name, size in _tables(model_cfg):
        if size > numbers:
            raise CheckpointError(
                f"{where}: its {name} has {size} numbers, and {WEIGHTS_FILE} {numbers} in all; it is of another model"
            )
    vision, text = (model_cfg[name] for name in _SECTIONS)
    for name, value, limit in (
        ("text_cfg.context_length", text.get("context_length", 1), CONTEXT_MAX),
        ("vision_cfg.image_size", vision.get("image_size", 1), SIDE_MAX),
    ):
        if max(_numbers(value)) > limit:
            raise CheckpointError(f"{where}: model_cfg.{name} is {value}; allowed: up to {limit}")


def _tables(model_cfg: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of the tables that a config's own numbers ask for."""
    vision, text = (model_cfg[name] for name in _SECTIONS)
    yield "output", model_cfg["embed_dim"]
    if not vision.get("timm_model_name"):
        width, patch = vision.get("width", 768), vision.get("patch_size", 16)
        sides = _numbers(vision.get("image_size", 224))
        yield "image tower's layer", width * width
        if not isinstance(vision.get("layers"), list | tuple):
            yield "image tower's table of positions", math.prod(side // patch for side in sides[-2:]) * width
    if not text.get("hf_model_name"):
        width = text.get("width", 512)
        yield "text tower's layer", width * width
        yield "vocabulary", text.get("vocab_size", 49408) * width
        yield "text tower's table of positions", text.get("context_length", 77) * width


def _numbers(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value if value is not None else 1]


def _conforms(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type that an annotation says."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, part) for part in parts)
    if origin is tuple:
        of_length = isinstance(value, list | tuple) and (Ellipsis in parts or len(value) == len(parts))
        return of_length and all(_conforms(one, parts[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(hint, type) and isinstance(value, hint)


def _words(hint: Any) -> str:
    names = {
        int: "a whole number, 0 or more",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    parts = typing.get_args(hint)
    if hint in names:
        return names[hint]
    if typing.get_origin(hint) is tuple:
        return f"{len(parts)} whole numbers"
    return " or ".join(dict.fromkeys(_words(part) for part in parts)) or "settings by name"
