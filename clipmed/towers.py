"""Two-tower models: OpenCLIP's, from a JSON config, with timm image towers and Hugging Face text towers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.configuration import nearest
from clipmed.deferral import import_open_clip
from clipmed.errors import CheckpointError, ConfigError
from clipmed.pixels import PixelConfig, pixel_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which two-tower model to build, and from which weights."""

    config: str = "clipmed_demo"
    """a config shipped with clipmed, the path of an OpenCLIP JSON config, or any OpenCLIP model name"""
    pretrained: str | None = None
    """start from these weights: an OpenCLIP tag of that model, or the folder of a checkpoint"""
    image_weights: str | None = None
    """start the image tower from that of another CLIP model: the folder of a checkpoint, or OpenCLIP's MODEL:TAG"""
    pretrained_image: bool = False
    """start the image tower from timm's weights"""
    pretrained_text: bool = False
    """start the text tower from its Hugging Face weights"""
    image_size: int | None = None
    """input side in pixels, instead of the config's"""
    context_length: int | None = None
    """text length in tokens, instead of the config's"""

    def __post_init__(self) -> None:
        if self.pretrained and (self.pretrained_image or self.pretrained_text or self.image_weights):
            raise ConfigError(
                f"pretrained={self.pretrained!r} replaces both towers; allowed: either it, or image_weights, "
                "pretrained_image and pretrained_text; drop one of them"
            )
        if self.image_weights and self.pretrained_image:
            raise ConfigError(
                f"image_weights={self.image_weights!r} and pretrained_image both give the image tower's weights; "
                "drop one of them"
            )


@dataclass(slots=True, kw_only=True)
class TwoTower:
    """A model with everything that must travel with it.

    `model` is an OpenCLIP `CLIP` or `CustomTextCLIP`. `tokenizer` maps N texts to a LongTensor (N, context_length).
    `pixels` says how images become the image tower's input. `model_cfg` is OpenCLIP's own config.
    """

    model: torch.nn.Module
    tokenizer: Callable[[list[str]], torch.Tensor]
    pixels: PixelConfig
    context_length: int
    model_cfg: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Height of the input in pixels, and its width where it is square."""
        return self.pixels.size[0]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the pixels scaled to 0 … 1, by channel."""
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the pixels scaled to 0 … 1, by channel."""
        return self.pixels.std


def build_two_tower(config: ModelConfig) -> TwoTower:
    """Build a model from its config, with random weights unless the config names others.

    The text tower is a module of its own (OpenCLIP's `custom_text`), whatever the config says: its weights have one
    layout then, and both towers can be cut, compiled, sharded and locked apart.

    Raises:
        ConfigError: an unknown model or pretrained tag, with what is allowed.
        CheckpointError: `pretrained` is a folder that does not hold matching weights, or what the config names cannot
            be fetched.
    """
    model_cfg = model_config(config.config) | {"custom_text": True}
    if config.image_size:
        model_cfg["vision_cfg"]["image_size"] = config.image_size
    if config.context_length:
        model_cfg["text_cfg"]["context_length"] = config.context_length
    if config.pretrained and Path(config.pretrained).is_dir():
        from clipmed.checkpoints import load_weights

        with _fetching(config.config):
            two_tower = assemble(model_cfg)
        load_weights(two_tower.model, Path(config.pretrained))
        return two_tower
    with _fetching(config.config):
        if config.pretrained:
            return _from_openclip_tag(config.config, config.pretrained, model_cfg)
        two_tower = assemble(
            model_cfg, pretrained_image=config.pretrained_image, pretrained_text=config.pretrained_text
        )
    if config.image_weights:
        _take_image_tower(two_tower, config.image_weights)
    return two_tower


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Explain what the libraries say where weights, a text tower's config or its tokenizer are not to be had."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "download" not in str(error):  # OpenCLIP's word for a tag
            raise
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"what the model config {name} names cannot be fetched ({type(error).__name__}: {said}); without a "
            "network, run the same once on a machine that has one, with the same HF_HOME"
        ) from error


def model_config(name: str) -> dict[str, Any]:
    """Return OpenCLIP's model config of a shipped name, a JSON path or an OpenCLIP name."""
    shipped = resources.files("clipmed") / "model_configs"
    if name.endswith(".json"):
        return _read_json_config(Path(name))
    if (shipped / f"{name}.json").is_file():
        return _read_json_config(Path(str(shipped / f"{name}.json")))
    import open_clip

    found: dict[str, Any] | None = open_clip.get_model_config(name)
    if found is None:
        ours = [Path(str(entry)).stem for entry in shipped.iterdir()]
        near = nearest(name, [*ours, *open_clip.list_models()])
        raise ConfigError(
            f"no model config is called {name!r}{near} Allowed: one shipped with clipmed "
            f"({', '.join(sorted(ours))}), the path of a .json file, or an OpenCLIP model name"
        )
    return found


def assemble(
    model_cfg: dict[str, Any],
    *,
    preprocess_cfg: dict[str, Any] | None = None,
    folder: Path | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = False,
) -> TwoTower:
    """Instantiate a model and its tokenizer from OpenCLIP's configs.

    Args:
        model_cfg: OpenCLIP's `model_cfg`; not changed.
        preprocess_cfg: its `preprocess_cfg` (mean, std, …), OpenAI's statistics if not given.
        folder: a checkpoint folder whose tokenizer files and text config serve a Hugging Face text tower.
        pretrained_image: fetch timm's weights for the image tower.
        pretrained_text: fetch Hugging Face weights for the text tower.
    """
    import open_clip

    cfg = copy.deepcopy(model_cfg)
    custom_text = bool(cfg.pop("custom_text", False)) or "hf_model_name" in cfg["text_cfg"]
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = pretrained_image
    if "hf_model_name" in cfg["text_cfg"]:
        cfg["text_cfg"]["hf_model_pretrained"] = pretrained_text
        if folder is not None and (folder / "config.json").is_file():
            cfg["text_cfg"]["hf_model_name"] = str(folder)
    model_class = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        model = model_class(**cfg)
    except TypeError as error:
        raise ConfigError(f"OpenCLIP refuses this model config: {error}; compare it with a shipped one") from error
    pixels = pixel_config(preprocess_cfg, model.visual.image_size, str(folder or "the model"))
    open_clip.model.set_model_preprocess_cfg(model, {"size": model.visual.image_size, **pixels.preprocess_cfg()})
    return _two_tower(model, model_cfg, pixels, folder)


def _two_tower(model: torch.nn.Module, model_cfg: dict[str, Any], pixels: PixelConfig, folder: Path | None) -> TwoTower:
    return TwoTower(
        model=model,
        tokenizer=_tokenizer(model_cfg["text_cfg"], folder),
        pixels=pixels,
        context_length=int(model_cfg["text_cfg"].get("context_length", 77)),
        model_cfg=model_cfg,
    )


def _tokenizer(text_cfg: dict[str, Any], folder: Path | None) -> Callable[[list[str]], torch.Tensor]:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    context_length = int(text_cfg.get("context_length", 77))
    options = dict(text_cfg.get("tokenizer_kwargs", {}))
    name = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    tokenizer: Callable[[list[str]], torch.Tensor]
    if name is None:
        tokenizer = SimpleTokenizer(context_length=context_length, **options)
    else:
        source = str(folder) if folder is not None and (folder / "tokenizer_config.json").is_file() else name
        mode = text_cfg.get("tokenizer_mode")
        tokenizer = HFTokenizer(source, context_length=context_length, tokenizer_mode=mode, **options)
    return tokenizer


def _from_openclip_tag(name: str, tag: str, model_cfg: dict[str, Any]) -> TwoTower:
    import open_clip

    _check_tag(name, tag)
    model = open_clip.create_model(
        name,
        pretrained=tag,
        force_image_size=model_cfg["vision_cfg"].get("image_size"),
        force_context_length=model_cfg["text_cfg"].get("context_length"),
        force_custom_text=True,
    )
    pixels = pixel_config(model.visual.preprocess_cfg, model.visual.image_size, f"{name}:{tag}")
    return _two_tower(model, model_cfg, pixels, None)


def check_is_no_bare_name(location: str | Path) -> None:
    """Raise ConfigError for the name of an OpenCLIP model without a tag, with the tags that its weights have."""
    name = str(location)
    if not name or any(letter in name for letter in ":/\\") or Path(name).exists():
        return
    import_open_clip()
    import open_clip

    model = next((one for one in open_clip.list_models() if one.lower() == name.lower()), None)
    if model is None:
        return
    tags = open_clip.list_pretrained_tags_by_model(model)
    example = f"give one, as in {model}:{tags[0]!s}; its tags: {', '.join(tags)}" if tags else "it has none"
    raise ConfigError(f"{name!r} is an OpenCLIP model without its weights' tag: {example}")


def _check_tag(name: str, tag: str) -> None:
    import open_clip

    tags: Sequence[str] = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ConfigError(
            f"model {name!r} has no pretrained weights {tag!r}{nearest(tag, tags)} "
            f"Allowed: the folder of a checkpoint, or one of: {', '.join(tags) or 'none'}"
        )


def _take_image_tower(two_tower: TwoTower, location: str) -> None:
    """Start the image tower from that of a checkpoint folder, or of an OpenCLIP model and tag, pixel statistics too.

    Position embeddings are interpolated to the model's own image size.
    """
    from open_clip.model import resize_pos_embed

    if Path(location).is_dir():
        from clipmed.checkpoints import load_checkpoint

        source = load_checkpoint(location)
    else:
        name, _, tag = location.partition(":")
        _check_tag(name, tag)
        source = _from_openclip_tag(name, tag, model_config(name))
    own, other = (model.model.get_submodule("visual") for model in (two_tower, source))
    state = {f"visual.{name}": tensor for name, tensor in other.state_dict().items()}
    try:
        resize_pos_embed(state, two_tower.model)
        own.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items()})
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"image_weights: the image tower of {location} does not fit this model's vision_cfg: {said}; allowed: one "
            "of the same architecture and embedding size"
        ) from error
    two_tower.pixels = replace(two_tower.pixels, mean=source.mean, std=source.std)


def _read_json_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable as a JSON model config: {error}") from error
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise ConfigError(f"{path} is not an OpenCLIP model config: it lacks {', '.join(missing)}")
    return dict(config)
