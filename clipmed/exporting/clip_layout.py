"""OpenCLIP's own transformers in the layout of transformers' CLIP classes: configs and renamed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError

if TYPE_CHECKING:
    import torch

ONNX_INSTEAD = "export it with --format onnx, which keeps every layer"
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# What transformers' CLIP has no counterpart of, with the value that means its absence.
_VISION_ONLY = {
    "attentional_pool": False,
    "no_ln_pre": False,
    "pool_type": "tok",
    "ls_init_value": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_TEXT_ONLY = {
    name: value for name, value in _VISION_ONLY.items() if name not in {"attentional_pool", "no_ln_pre", "pool_type"}
} | {"embed_cls": False, "no_causal_mask": False, "proj_bias": False}


@dataclass(frozen=True, slots=True)
class Tower:
    """One tower in transformers' layout: its config, its weights, and the projection (embed_dim, width) after it."""

    config: Any
    state: dict[str, torch.Tensor]
    projection: torch.Tensor


def vision_tower(model: torch.nn.Module, model_cfg: dict[str, Any]) -> Tower:
    """Return OpenCLIP's vision transformer as a `CLIPVisionModel`.

    Raises:
        ConfigError: a ResNet, or a transformer with parts that transformers' CLIP does not have.
    """
    from transformers import CLIPVisionConfig

    cfg = model_cfg["vision_cfg"]
    if isinstance(cfg.get("layers", 12), list | tuple):
        raise ConfigError(f"vision_cfg: transformers' CLIP has no ResNet; {ONNX_INSTEAD}")
    _refuse_extras("vision_cfg", cfg, _VISION_ONLY)
    visual: Any = model.visual
    if visual.image_size[0] != visual.image_size[1] or visual.patch_size[0] != visual.patch_size[1]:
        raise ConfigError(
            f"vision_cfg: transformers' CLIP takes square images and patches only: got {visual.image_size} and "
            f"{visual.patch_size}; {ONNX_INSTEAD}"
        )
    state = visual.state_dict()
    width = state["class_embedding"].shape[0]
    config = CLIPVisionConfig(
        hidden_size=width,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        num_attention_heads=width // cfg.get("head_width", 64),
        projection_dim=model_cfg["embed_dim"],
        **_block_sizes(state, model_cfg, cfg, visual.ln_post.eps),
    )
    names = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight"}
    renamed = {new: state[old] for new, old in names.items()}
    renamed["embeddings.position_embedding.weight"] = state["positional_embedding"]
    renamed |= _layer_norm(state, "ln_pre", "pre_layrnorm") | _layer_norm(state, "ln_post", "post_layernorm")
    return Tower(config, renamed | _blocks(state), state["proj"].T)


def text_tower(model: torch.nn.Module, model_cfg: dict[str, Any], eos_id: int) -> Tower:
    """Return OpenCLIP's causal text transformer as a `CLIPTextModel`.

    Args:
        model: OpenCLIP's, with a text tower of its own or not.
        model_cfg: its config.
        eos_id: the token at whose first place the text is pooled; the highest id there is, or the config's.

    Raises:
        ConfigError: parts that transformers' CLIP does not have.
    """
    from transformers import CLIPTextConfig

    cfg = model_cfg["text_cfg"]
    _refuse_extras("text_cfg", cfg, _TEXT_ONLY)
    if cfg.get("pool_type", "argmax") not in {"argmax", "eos"} or cfg.get("proj_type", "linear") != "linear":
        raise ConfigError(
            f"text_cfg: transformers' CLIP pools at the end-of-text token and projects linearly: got pool_type="
            f"{cfg.get('pool_type')!r}, proj_type={cfg.get('proj_type')!r}; {ONNX_INSTEAD}"
        )
    text: Any = getattr(model, "text", model)
    state = text.state_dict()
    config = CLIPTextConfig(
        vocab_size=state["token_embedding.weight"].shape[0],
        hidden_size=state["ln_final.weight"].shape[0],
        max_position_embeddings=state["positional_embedding"].shape[0],
        num_attention_heads=cfg.get("heads", 8),
        projection_dim=model_cfg["embed_dim"],
        bos_token_id=eos_id - 1,
        eos_token_id=eos_id,
        pad_token_id=eos_id,
        **_block_sizes(state, model_cfg, cfg, text.ln_final.eps),
    )
    renamed = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    renamed |= _layer_norm(state, "ln_final", "final_layer_norm")
    return Tower(config, renamed | _blocks(state), state["text_projection"].T)


def _refuse_extras(where: str, cfg: dict[str, Any], absent: dict[str, Any]) -> None:
    extras = [f"{name}={cfg[name]!r}" for name, value in absent.items() if cfg.get(name, value) != value]
    if extras:
        raise ConfigError(f"{where}: transformers' CLIP has no counterpart of {', '.join(extras)}; {ONNX_INSTEAD}")


def _block_sizes(state: dict[str, Any], model_cfg: dict[str, Any], cfg: dict[str, Any], eps: float) -> dict[str, Any]:
    return {
        "num_hidden_layers": sum(name.endswith(".ln_1.weight") for name in state if name.startswith("transformer.")),
        "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "hidden_act": _activation(model_cfg, cfg),
        "layer_norm_eps": eps,
    }


def _activation(model_cfg: dict[str, Any], cfg: dict[str, Any]) -> str:
    if model_cfg.get("quick_gelu"):
        return "quick_gelu"
    approximate = (cfg.get("act_kwargs") or {}).get("approximate", "none")
    return "gelu_pytorch_tanh" if approximate == "tanh" else "gelu"


def _layer_norm(state: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {f"{new}.{kind}": state[f"{old}.{kind}"] for kind in ("weight", "bias")}


def _blocks(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith("transformer.resblocks."):
            continue
        number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
        prefix = f"encoder.layers.{number}"
        part, _, kind = rest.rpartition(".")
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{prefix}.self_attn.{letter}_proj.{kind}"] = third
        else:
            renamed[f"{prefix}.{_BLOCK[part]}.{kind}"] = tensor
    return renamed
