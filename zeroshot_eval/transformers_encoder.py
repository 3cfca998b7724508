"""Encoders of the transformers library: CLIP, SigLIP, SigLIP 2 and dual encoders, each with its own processor's facts.

config.json                                    model type and sizes
model.safetensors, or …-00001-of-00002 and an index    weights
preprocessor_config.json or processor_config.json      pixel statistics, size, resize mode
tokenizer.json, tokenizer_config.json, …       vocabulary
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.devices import DType
from clipmed.errors import CheckpointError
from zeroshot_eval.encoder_protocol import EncoderFacts, LoadedEncoder
from zeroshot_eval.image_processors import describe_processor
from zeroshot_eval.weight_files import digest_of, read_scalar

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
WEIGHT_PATTERNS = (WEIGHTS_FILE, "model-*.safetensors")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
CODE_KEY = "auto_map"  # by which a config names Python files of its repository
TOKEN_LIMIT_MAX = 1_000_000  # tokenizers without a limit of their own give 1e30

CLASSES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
}
# The token positions of text towers whose config leaves the default out, by model type; BERT's for all others.
POSITIONS = {
    "clip": 77,
    "clip_text_model": 77,
    "siglip": 64,
    "siglip_text_model": 64,
    "siglip2": 64,
    "siglip2_text_model": 64,
}
BERT_POSITIONS = 512
# Both were trained on texts padded to the full length, without a mask: padding to less changes the embeddings.
PADDED = frozenset({"siglip", "siglip2"})
# Their positions begin after the padding token's id.
ROBERTAS = frozenset({"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl", "xmod"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSource:
    """A folder in transformers' layout, checked to need none but the library's own code."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def model_type(self) -> str:
        """A key of CLASSES."""
        return str(self.config["model_type"])

    def facts(self) -> EncoderFacts:
        """Return the facts; reads configs and two numbers of the weights, and hashes the files."""
        log_scale = read_scalar(self.weights, "logit_scale")
        if log_scale is None:
            raise CheckpointError(f"{self.name}: its weights have no logit_scale; it is not a CLIP-style model")
        limit, padding = self.token_limit(), "to them" if self.model_type in PADDED else "to the longest of a batch"
        return EncoderFacts(
            name=self.name,
            digest=digest_of([*self.weights, *sorted(path for path in self.folder.iterdir() if _is_config(path))]),
            preprocessing=describe_processor(self.processor),
            tokenization=f"{limit} tokens, padded {padding}",
            logit_scale=math.exp(log_scale),
            logit_bias=read_scalar(self.weights, "logit_bias"),
        )

    def token_limit(self) -> int:
        """Return how many tokens a text keeps: the tokenizer's own limit, or the text tower's positions if fewer."""
        text = self.config.get("text_config_dict") or self.config.get("text_config") or {}
        kind = text.get("model_type", self.model_type)
        positions = int(text.get("max_position_embeddings", POSITIONS.get(kind, BERT_POSITIONS)))
        if kind in ROBERTAS:
            positions -= int(text.get("pad_token_id", 1)) + 1
        own = _read_json(self.folder / "tokenizer_config.json", self.name).get("model_max_length")
        return min(positions, int(own)) if own is not None and own < TOKEN_LIMIT_MAX else positions

    def load(self, device: str, dtype: DType) -> LoadedEncoder:
        """Load processor, tokenizer and model from the folder's files alone."""
        from transformers import AutoImageProcessor, AutoTokenizer

        classes: tuple[Any, Any] = (AutoImageProcessor, AutoTokenizer)
        local = {"trust_remote_code": False, "local_files_only": True}
        try:
            processor, tokenizer = (auto.from_pretrained(self.folder, **local) for auto in classes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.name}: its processor or tokenizer cannot be loaded: {error}") from error
        model = self._model().to(device).eval()
        packs_patches = self.model_type == "siglip2"
        return LoadedEncoder(
            facts=self.facts(),
            device=device,
            dtype=dtype,
            transform=_packed_patches(processor) if packs_patches else _pixel_values(processor),
            image_features=lambda pixels: _image_features(model, pixels, packs_patches),
            text_features=self._text_features(model, tokenizer, device),
        )

    def _model(self) -> Any:
        import torch
        import transformers

        model_class = getattr(transformers, CLASSES[self.model_type])
        try:
            model, found = model_class.from_pretrained(
                self.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{self.name}: transformers cannot load its weights: {said}") from error
        missing = sorted(found["missing_keys"])
        unexpected = sorted(key for key in found["unexpected_keys"] if not key.endswith("position_ids"))
        mismatched = sorted(str(entry[0]) for entry in found["mismatched_keys"])
        if missing or unexpected or mismatched:
            raise CheckpointError(
                f"{self.name}: the weights do not match {CONFIG_FILE}: {len(missing)} tensors are missing "
                f"{missing[:3]}, {len(unexpected)} are unexpected {unexpected[:3]}, {len(mismatched)} differ in shape "
                f"{mismatched[:3]}; the weights are of another model"
            )
        return model

    def _text_features(self, model: Any, tokenizer: Any, device: str) -> Callable[[list[str]], torch.Tensor]:
        limit = self.token_limit()
        padding = "max_length" if self.model_type in PADDED else "longest"

        def features(texts: list[str]) -> torch.Tensor:
            tokens = tokenizer(texts, padding=padding, max_length=limit, truncation=True, return_tensors="pt")
            return _tensor(model.get_text_features(**tokens.to(device)))

        return features


def transformers_source(folder: Path, name: str) -> TransformersSource:
    """Return the source that a folder with transformers' config.json is.

    Raises:
        CheckpointError: another kind of model, one that needs its repository's code, or a file that is missing.
    """
    config = check_model(folder, name)
    processor = _processor_config(folder, name)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise CheckpointError(f"{name}: no tokenizer in it; allowed: one of {', '.join(TOKENIZER_FILES)}")
    weights = _weights(folder, name)
    return TransformersSource(name=name, folder=folder, config=config, processor=processor, weights=weights)


def check_model(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of config.json if it is of a model that is read here; needs no weights.

    Raises:
        CheckpointError: another kind of model, or one that needs its repository's code.
    """
    for file in (CONFIG_FILE, "tokenizer_config.json", *PROCESSOR_FILES):
        content = _read_json(folder / file, name)
        if CODE_KEY in content or CODE_KEY in content.get("image_processor", {}):
            raise CheckpointError(
                f"{name}: {file} names code of its own repository ({CODE_KEY}), which is never run here; convert the "
                "model once to an OpenCLIP folder, or to one of transformers' own classes "
                f"({', '.join(CLASSES.values())})"
            )
    config = _read_json(folder / CONFIG_FILE, name)
    if config.get("model_type") not in CLASSES:
        raise CheckpointError(
            f"{name}: {CONFIG_FILE} has model_type {config.get('model_type')!r}; allowed: {', '.join(CLASSES)}, or an "
            "OpenCLIP folder"
        )
    return config


def _weights(folder: Path, name: str) -> tuple[Path, ...]:
    if (folder / WEIGHTS_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    parts = sorted(set(_read_json(folder / INDEX_FILE, name).get("weight_map", {}).values()))
    if not parts:
        raise CheckpointError(
            f"{name}: no {WEIGHTS_FILE} in it; pickled weights (pytorch_model.bin) are not read, since loading them "
            "can run code; convert them to safetensors first, or name a revision that has them, such as "
            "hf-hub:org/name@refs/pr/1"
        )
    wrong = [part for part in parts if Path(part).name != part or not (folder / part).is_file()]
    if wrong:
        raise CheckpointError(f"{name}: {INDEX_FILE} names {wrong[0]!r}, which is not in it; fetch it again")
    return tuple(folder / part for part in parts)


def _processor_config(folder: Path, name: str) -> dict[str, Any]:
    found = [_read_json(folder / file, name) for file in PROCESSOR_FILES]
    configs = [content.get("image_processor", content) for content in found]
    whole = [config for config in configs if "image_mean" in config or "image_processor_type" in config]
    if not whole:
        raise CheckpointError(
            f"{name}: no {' or '.join(PROCESSOR_FILES)} that tells the pixel statistics; they are not guessed: take "
            "the file from the repository that the model comes from"
        )
    return dict(whole[0])


def _read_json(path: Path, name: str) -> dict[str, Any]:
    """Return a JSON object's content; nothing where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{name}: {path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: {path.name} is no JSON object")
    return content


def _is_config(path: Path) -> bool:
    """Whether a file decides an embedding beside the weights: configs and the tokenizer's files."""
    return path.suffix in {".json", ".txt", ".model"} and path.name != INDEX_FILE and path.is_file()


def _pixel_values(processor: Any) -> Callable[[Any], torch.Tensor]:
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


def _packed_patches(processor: Any) -> Callable[[Any], torch.Tensor]:
    """Return a transform to (P, patch values + 3): the last columns are the patch's mask, and the grid's two sides."""
    import torch

    def pack(image: Any) -> torch.Tensor:
        made = processor(images=image, return_tensors="pt")
        patches = made["pixel_values"][0]
        mask = made["pixel_attention_mask"][0].unsqueeze(-1).to(patches)
        grid = made["spatial_shapes"][0].to(patches).expand(len(patches), 2)
        return torch.cat([patches, mask, grid], dim=-1)

    return pack


def _image_features(model: Any, pixels: torch.Tensor, packs_patches: bool) -> torch.Tensor:
    if not packs_patches:
        return _tensor(model.get_image_features(pixel_values=pixels))
    return _tensor(
        model.get_image_features(
            pixel_values=pixels[..., :-3],
            pixel_attention_mask=pixels[..., -3].int(),
            spatial_shapes=pixels[:, 0, -2:].long(),
        )
    )


def _tensor(features: Any) -> torch.Tensor:
    """Return the embeddings of a tower's answer, which is an object in some versions of the library."""
    pooled: torch.Tensor = getattr(features, "pooler_output", features)
    return pooled
