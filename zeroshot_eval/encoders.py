"""Encoders by location: which library reads it, what its facts are, and the loaded model.

A location is one of
    a folder                   with open_clip_config.json (a run's model/), or transformers' config.json
    hf-hub:org/name[@revision] a repository of the Hugging Face hub in either format
    MODEL:TAG                  weights that OpenCLIP lists, such as ViT-B-32:openai
    a flag                     of a published model, such as biomedclip (see baselines.yaml)

Weights are read from safetensors alone, and no repository's code is ever run.
"""

from __future__ import annotations

from pathlib import Path

from clipmed.checkpoints import CONFIG_FILE, HUB_PREFIX, checkpoint_folder
from clipmed.errors import CheckpointError
from zeroshot_eval.encoder_protocol import DType, Encoder, EncoderFacts, check_dtype
from zeroshot_eval.openclip_encoder import OpenClipSource, folder_source, load_openclip, openclip_facts, tag_source

__all__ = ["DType", "Encoder", "EncoderFacts", "describe_encoder", "open_encoder"]

GENERIC_FOLDERS = frozenset({"model", "best", "work"})


def describe_encoder(location: str | Path) -> EncoderFacts:
    """Return what is known of an encoder without loading it; one of the hub is fetched, or found in the cache, first.

    Raises:
        ClipmedError: nothing there, or nothing that can be read without running code; says what to do.
    """
    return openclip_facts(_source(location))


def open_encoder(location: str | Path, device: str = "cpu", dtype: DType = "float32") -> Encoder:
    """Load an encoder for evaluation.

    Args:
        location: see above.
        device: where to run, such as `cpu` or `cuda`.
        dtype: what features are computed in; embeddings are float32 always.

    Raises:
        ClipmedError: as `describe_encoder`, and weights that do not fit their config.
    """
    check_dtype(dtype)
    return load_openclip(_source(location), device, dtype)


def _source(location: str | Path) -> OpenClipSource:
    text = str(location)
    folder = Path(location)
    if text.startswith(HUB_PREFIX):
        return folder_source(checkpoint_folder(text), text.removeprefix(HUB_PREFIX))
    if folder.is_dir():
        return folder_source(folder, _folder_name(folder))
    model, colon, tag = text.partition(":")
    if colon and "/" not in text:
        return tag_source(model, tag)
    raise CheckpointError(
        f"no encoder at {text!r}; allowed: a folder with {CONFIG_FILE}, {HUB_PREFIX}org/name, or an OpenCLIP MODEL:TAG"
    )


def _folder_name(folder: Path) -> str:
    """Return a folder's name for tables; with its parents' where alone it says nothing, as in run-3/model."""
    parts = folder.resolve().parts
    named = next((place for place in range(len(parts) - 1, 0, -1) if parts[place] not in GENERIC_FOLDERS), 0)
    return "/".join(parts[named:])
