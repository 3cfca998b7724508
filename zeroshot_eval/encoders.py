"""Encoders by location: which library reads it, what its facts are, and the loaded model.

A location is one of
    a folder                   with open_clip_config.json (a run's model/), or transformers' config.json
    hf-hub:org/name[@revision] a repository of the Hugging Face hub in either layout
    MODEL:TAG                  weights that OpenCLIP lists, such as ViT-B-32:openai
    a flag                     of a published model, such as medsiglip (see baselines.yaml)

Weights are read from safetensors alone, and no repository's code is ever run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipmed import checkpoints
from clipmed.checkpoints import HUB_PREFIX, SMALL_FILES, fetch_snapshot
from clipmed.configuration import nearest
from clipmed.devices import DType, check_dtype
from clipmed.errors import CheckpointError
from zeroshot_eval.encoder_protocol import Encoder, EncoderFacts
from zeroshot_eval.openclip_encoder import OpenClipSource, folder_source, tag_source

if TYPE_CHECKING:  # what a location needs is imported when it is opened
    from zeroshot_eval.transformers_encoder import TransformersSource

    Source = OpenClipSource | TransformersSource

__all__ = ["DType", "Encoder", "EncoderFacts", "describe_encoder", "open_encoder"]

# Names of folders that say nothing without their parent's.
GENERIC_FOLDERS = frozenset({"model", "best", "work"})


def describe_encoder(location: str | Path) -> EncoderFacts:
    """Return what is known of an encoder without loading it; one of the hub is fetched, or found in the cache, first.

    Raises:
        ClipmedError: nothing there, or nothing that can be read without running code; says what to do.
    """
    return _source(location).facts()


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
    return _source(location).load(device, dtype)


def _source(location: str | Path) -> Source:
    text = str(location)
    if text.startswith(HUB_PREFIX):
        return _hub_source(text)
    if Path(location).is_dir():
        return _folder_source(Path(location), _folder_name(Path(location)))
    from zeroshot_eval.baselines import baseline, is_baseline, list_baselines
    from zeroshot_eval.transformers_encoder import CONFIG_FILE

    if is_baseline(text):
        return replace(_source(baseline(text).opened_as()), name=text)
    model, colon, tag = text.partition(":")
    if colon and "/" not in text:
        return tag_source(model, tag)
    flags = [entry.flag for entry in list_baselines()]
    raise CheckpointError(
        f"no encoder at {text!r}{nearest(text, flags)} Allowed: a folder with {checkpoints.CONFIG_FILE} or "
        f"transformers' {CONFIG_FILE}, {HUB_PREFIX}org/name, an OpenCLIP MODEL:TAG, or a flag: "
        f"{', '.join(flags)}"
    )


def _folder_source(folder: Path, name: str) -> Source:
    """Return the source of a folder; one in both layouts is OpenCLIP's, unless its weights are transformers' alone."""
    openclip = (folder / checkpoints.CONFIG_FILE).is_file()
    if (folder / checkpoints.WEIGHTS_FILE).is_file():
        return folder_source(folder, name)
    from zeroshot_eval import transformers_encoder

    other = (folder / transformers_encoder.CONFIG_FILE).is_file()
    if other and (not openclip or (folder / transformers_encoder.WEIGHTS_FILE).is_file()):
        return transformers_encoder.transformers_source(folder, name)
    return folder_source(folder, name)


def _hub_source(location: str) -> Source:
    """Fetch the small files first: what cannot be read is refused before gigabytes of it come."""
    from zeroshot_eval import transformers_encoder

    name = location.removeprefix(HUB_PREFIX)
    folder = fetch_snapshot(location, SMALL_FILES)
    if (folder / checkpoints.CONFIG_FILE).is_file():
        folder = fetch_snapshot(location, (*SMALL_FILES, checkpoints.WEIGHTS_FILE))
    has_other = (folder / transformers_encoder.CONFIG_FILE).is_file()
    if has_other and not (folder / checkpoints.WEIGHTS_FILE).is_file():
        if not (folder / checkpoints.CONFIG_FILE).is_file():
            transformers_encoder.check_model(folder, name)
        folder = fetch_snapshot(location, (*SMALL_FILES, *transformers_encoder.WEIGHT_PATTERNS))
    return _folder_source(folder, name)


def _folder_name(folder: Path) -> str:
    """Return a folder's name for tables; with its parents' where alone it says nothing, as in run-3/model."""
    parts = folder.resolve().parts
    named = next((place for place in range(len(parts) - 1, 0, -1) if parts[place] not in GENERIC_FOLDERS), 0)
    return "/".join(parts[named:])
