"""timm image towers and Hugging Face text towers as transformers' VisionTextDualEncoder can hold them.

That model reads `pooler_output` of each tower and applies one linear map without bias. What OpenCLIP does between a
text tower and the embedding is brought to that form without changing it:

- Poolers of the BERT family are tanh(W h + b) of the first token h. With W = s·1, s = 2^-13 and b = 0 it is s·h to
  float32's rounding, and the map after it divides by s.
- A projection W2·gelu(W1 h) becomes one more layer of the text tower. Its attention adds nothing. Its feed-forward part
  has gelu(W1 h), and gelu(h) - gelu(-h) = h, with which it takes the residual away. The layer's norm takes the mean and
  the length away: a coordinate beyond the embedding's holds minus the sum of the others, which makes the mean nought,
  and the length of an embedding does not matter, since embeddings are brought to unit length.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from clipmed.errors import ConfigError
from clipmed.exporting.clip_layout import ONNX_INSTEAD, Tower

if TYPE_CHECKING:
    import torch

POOLER_SCALE = 2.0**-13
PROJECTION_SCALE = 2.0**8  # of the projection beside the residual that is taken away: rounding stays far below it


def timm_tower(visual: Any, cfg: dict[str, Any]) -> Tower:
    """Return a timm image tower as a `TimmWrapperModel`.

    Raises:
        ConfigError: a head that is not one linear map without bias.
    """
    import torch
    import transformers

    head = dict(visual.head.named_children())
    projection = head.get("proj")
    if cfg.get("timm_proj", "linear") == "none":
        projection = torch.nn.Linear(visual.trunk.num_features, visual.trunk.num_features, bias=False)
        torch.nn.init.eye_(projection.weight)
    if head.keys() - {"drop", "proj"} or projection is None or projection.bias is not None:
        raise ConfigError(
            f"vision_cfg: transformers' dual encoder projects by one matrix without bias: got timm_proj="
            f"{cfg.get('timm_proj', 'linear')!r}, timm_pool={cfg.get('timm_pool', 'avg')!r}, timm_proj_bias="
            f"{cfg.get('timm_proj_bias', False)!r}; {ONNX_INSTEAD}"
        )
    hf: Any = transformers
    config = hf.TimmWrapperConfig(
        architecture=cfg["timm_model_name"],
        model_args=_timm_arguments(visual, cfg),
        hidden_size=projection.in_features,
        num_labels=0,
    )
    state = {f"timm_model.{name}": tensor for name, tensor in visual.trunk.state_dict().items()}
    return Tower(config, state, projection.weight.detach())


def hugging_face_tower(text: Any, cfg: dict[str, Any]) -> Tower:
    """Return OpenCLIP's Hugging Face text tower with its pooler and projection.

    Raises:
        ConfigError: a pooler or projection that the dual encoder cannot hold.
    """
    import torch
    import transformers

    kind = type(text.pooler).__name__
    if kind not in {"ClsPooler", "ClsLastHiddenStatePooler"}:
        raise ConfigError(
            f"text_cfg: transformers' dual encoder takes the first token's state: got hf_pooler_type="
            f"{cfg.get('hf_pooler_type')!r}; {ONNX_INSTEAD}"
        )
    config = copy.deepcopy(text.config)
    own_pooler = kind == "ClsPooler" and getattr(text.transformer, "pooler", None) is not None
    state = dict(text.transformer.state_dict())
    matrices = [part.weight.detach() for part in text.proj.modules() if isinstance(part, torch.nn.Linear)]
    if len(matrices) == 2:
        state |= _projection_layer(config, state, matrices, own_pooler)
        config.num_hidden_layers += 1
        projection = torch.eye(matrices[1].shape[0], config.hidden_size)
    else:
        projection = matrices[0] if matrices else torch.eye(config.hidden_size)
    if not own_pooler:
        hf: Any = transformers
        _require_tanh_pooler(hf.AutoModel.from_config(config), config)
        state["pooler.dense.weight"] = POOLER_SCALE * torch.eye(config.hidden_size)
        state["pooler.dense.bias"] = torch.zeros(config.hidden_size)
        projection = projection / POOLER_SCALE
    return Tower(config, state, projection)


def _timm_arguments(visual: Any, cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with which timm builds the trunk that OpenCLIP has, found by trying."""
    import timm
    import torch

    pool = cfg.get("timm_pool", "avg")
    pixels = torch.rand(1, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))
    candidates: list[dict[str, Any]] = (
        [{}] if not pool else [{"global_pool": pool}, {"global_pool": pool, "fc_norm": False}]
    )
    with torch.no_grad():
        expected = visual.trunk(pixels)
        for candidate in candidates:
            try:
                trunk = timm.create_model(cfg["timm_model_name"], num_classes=0, **candidate).eval()
                trunk.load_state_dict(visual.trunk.state_dict())
                if torch.equal(trunk(pixels), expected):
                    return candidate
            except (RuntimeError, TypeError):  # not this model's weights, or no such argument
                continue
    raise ConfigError(
        f"vision_cfg: timm does not build {cfg['timm_model_name']!r} with timm_pool={pool!r} by itself; {ONNX_INSTEAD}"
    )


def _require_tanh_pooler(shell: Any, config: Any) -> None:
    import torch

    pooler = getattr(shell, "pooler", None)
    if not isinstance(getattr(pooler, "activation", None), torch.nn.Tanh) or not hasattr(pooler, "dense"):
        raise ConfigError(
            f"text_cfg: transformers' dual encoder needs a text tower with a pooler, {config.model_type} has none; "
            f"{ONNX_INSTEAD}"
        )


def _projection_layer(
    config: Any, state: dict[str, torch.Tensor], matrices: list[torch.Tensor], own_pooler: bool
) -> dict[str, torch.Tensor]:
    """Return the weights of one more layer that does the projection W2·gelu(W1 h); see the module's docstring.

    The last layer's norm, h = g·n + b, becomes n: g and b go into W1, since the new layer's first norm keeps n alone.
    """
    import torch

    first, second = matrices
    width, inner, size = config.hidden_size, first.shape[0], second.shape[0]
    last = f"encoder.layer.{config.num_hidden_layers - 1}"
    new = f"encoder.layer.{config.num_hidden_layers}"
    norm = f"{last}.output.LayerNorm"
    fits = size < width and inner + 2 * width <= getattr(config, "intermediate_size", 0)
    if own_pooler or not fits or f"{norm}.weight" not in state or config.hidden_act != "gelu":
        raise ConfigError(
            f"text_cfg: transformers' dual encoder projects by one matrix, and the projection hf_proj_type='mlp' "
            f"({width} to {inner} to {size}) does not fit into one more layer of the {config.model_type} tower: that "
            f"takes hf_pooler_type='cls_last_hidden_state_pooler', gelu, fewer than {width} embedding dimensions and "
            f"an intermediate size of {inner + 2 * width}; {ONNX_INSTEAD}"
        )
    gain, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
    eye, feed = torch.eye(width), torch.zeros(config.intermediate_size, width)
    bias, back = torch.zeros(config.intermediate_size), torch.zeros(width, config.intermediate_size)
    feed[:inner], bias[:inner] = first * gain, first @ shift
    feed[inner : inner + 2 * width] = torch.cat([eye, -eye])
    back[:size, :inner] = PROJECTION_SCALE * second
    back[size:, :inner] = -PROJECTION_SCALE * second.sum(dim=0) / (width - size)
    back[:, inner : inner + 2 * width] = torch.cat([-eye, eye], dim=1)
    own = {name: tensor for name, tensor in state.items() if name.startswith(f"{last}.")}
    layer = {name.replace(last, new, 1): torch.zeros_like(tensor) for name, tensor in own.items()}
    ones = {f"{where}.LayerNorm.weight": torch.ones(width) for where in (f"{new}.attention.output", f"{new}.output")}
    layer |= ones | {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    layer |= {f"{new}.intermediate.dense.weight": feed, f"{new}.intermediate.dense.bias": bias}
    return layer | {f"{new}.output.dense.weight": back}
