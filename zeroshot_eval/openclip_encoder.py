"""Encoders in OpenCLIP's format: a folder with open_clip_config.json, a repository of the hub, or a model's tag."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmed.checkpoints import (
    CONFIG_FILE,
    HUB_PREFIX,
    WEIGHTS_FILE,
    checkpoint_digest,
    fetch_snapshot,
    read_config,
)
from clipmed.devices import DType
from clipmed.errors import CheckpointError
from clipmed.hub.openclip_tags import tag_config
from clipmed.loading import open_two_tower
from clipmed.pixels import PixelConfig, image_pixels, pixel_config
from zeroshot_eval.encoder_protocol import EncoderFacts, LoadedEncoder
from zeroshot_eval.weight_files import digest_of, file_digest, read_scalar

DEFAULT_SIDE, DEFAULT_CONTEXT = 224, 77


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipSource:
    """A model's config, and the folder that holds its weights and tokenizer."""

    name: str
    config: dict[str, Any]
    folder: Path
    digest: str

    def facts(self) -> EncoderFacts:
        """Return the facts; reads the config and two numbers of the weights.

        Raises:
            CheckpointError: a damaged or unsound config or weights file.
        """
        weights = [self.folder / WEIGHTS_FILE]
        log_scale = read_scalar(weights, "logit_scale")
        if log_scale is None:
            raise CheckpointError(f"{self.name}: its weights have no logit_scale; it is not a CLIP-style model")
        context = self.config["model_cfg"].get("text_cfg", {}).get("context_length", DEFAULT_CONTEXT)
        return EncoderFacts(
            name=self.name,
            digest=self.digest,
            preprocessing=_pixel_config(self).words(),
            tokenization=f"{context} tokens, padded to them",
            logit_scale=math.exp(log_scale),
            logit_bias=read_scalar(weights, "logit_bias"),
        )

    def load(self, device: str, dtype: DType) -> LoadedEncoder:
        """Build the model and load its weights, strictly.

        Raises:
            ClipmedError: a config that OpenCLIP refuses, or weights of another model.
        """
        two_tower = open_two_tower(self.config, self.folder, device)
        model: Any = two_tower.model
        pixels = _pixel_config(self)
        return LoadedEncoder(
            facts=self.facts(),
            device=device,
            dtype=dtype,
            transform=lambda image: image_pixels(image, pixels),
            image_features=model.encode_image,
            text_features=lambda texts: model.encode_text(two_tower.tokenizer(texts).to(device)),
        )


def folder_source(folder: Path, name: str) -> OpenClipSource:
    """Return the source that a folder with open_clip_config.json is.

    Raises:
        CheckpointError: no safetensors weights beside the config, or a config that is none.
    """
    config = read_config(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{name}: no {WEIGHTS_FILE} beside its {CONFIG_FILE}; pickled weights are not read, since loading them can "
            "run code; convert them to safetensors first, or name a revision that has them (hf-hub:org/name@revision)"
        )
    return OpenClipSource(name=name, config=config, folder=folder, digest=checkpoint_digest(folder, file_digest))


def tag_source(model: str, tag: str) -> OpenClipSource:
    """Return the source of pretrained weights that OpenCLIP lists under a model's name and a tag.

    The tag decides the activation and the pixel statistics, as it does in OpenCLIP's tables of results.

    Raises:
        ConfigError: no such model or tag, or one without a repository on the Hugging Face hub.
        CheckpointError: the weights cannot be fetched, or are pickles only.
    """
    config, repository = tag_config(model, tag)
    folder = fetch_snapshot(f"{HUB_PREFIX}{repository}", (WEIGHTS_FILE,))
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(f"{model}:{tag}: {repository} has no {WEIGHTS_FILE}; pickled weights are not read")
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(f"{text}\n{digest_of([weights])}".encode()).hexdigest()
    return OpenClipSource(name=f"{model}:{tag}", config=config, folder=folder, digest=digest)


def _pixel_config(source: OpenClipSource) -> PixelConfig:
    """Return the transform that a config asks for, with OpenCLIP's defaults."""
    side = source.config["model_cfg"].get("vision_cfg", {}).get("image_size", DEFAULT_SIDE)
    return pixel_config(source.config.get("preprocess_cfg"), side, source.name)
