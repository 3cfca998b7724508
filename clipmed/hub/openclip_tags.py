"""Pretrained weights that OpenCLIP lists by a model's name and a tag, as checkpoint folders.

    $HF_HOME/clipmed/tags/MODEL--TAG--COMMIT/   links to the repository's files, with the config that the tag stands for

The tag decides the activation and the pixel statistics, as it does in OpenCLIP's tables of results.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from clipmed.checkpoint_files import CARD_FILE, CONFIG_FILE, SUMS_FILE, TOKENIZER_FILES, WEIGHTS_FILE
from clipmed.configuration import nearest
from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import write_json
from clipmed.hub.copies import link_file
from clipmed.hub.environment import own_cache
from clipmed.hub.locations import HUB_PREFIX, Location, check_repository
from clipmed.hub.repositories import Snapshot, fetch_repository
from clipmed.locks import locked

PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


def fetch_tag(location: Location, *, offline: bool | None = None) -> Snapshot:
    """Return a checkpoint folder of the weights, downloaded or found in the cache.

    Args:
        location: of the kind `tag`.
        offline: use the cache alone; $HF_HUB_OFFLINE if not given.

    Raises:
        ConfigError: no such model or tag, or one that OpenCLIP lists as a pickle alone.
        CheckpointError: the weights cannot be fetched, or are pickles only.
    """
    model, _, tag = location.name.partition(":")
    config, repository = tag_config(model, tag)
    source = Location(kind="hub", name=repository, sha256=location.sha256)
    snapshot = fetch_repository(source, (WEIGHTS_FILE, CARD_FILE, *TOKENIZER_FILES), offline=offline)
    if not (snapshot.folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{location}: {repository} has no {WEIGHTS_FILE}; pickled weights are not read, since loading them can run "
            f"code; `clipmed import {HUB_PREFIX}{repository} --out FOLDER` converts known layouts safely"
        )
    tags = own_cache("tags")
    folder = tags / f"{re.sub(r'[^A-Za-z0-9.-]', '_', location.name.replace(':', '--'))}--{snapshot.commit}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(tags / f".{folder.name}.lock"):
        for path in snapshot.folder.iterdir():
            if path.name not in {CONFIG_FILE, SUMS_FILE}:
                link_file(path.resolve(), folder / path.name, path.resolve())
        write_json(folder / CONFIG_FILE, config)
    return replace(snapshot, folder=folder)


def tag_config(model: str, tag: str) -> tuple[dict[str, Any], str]:
    """Return the content of open_clip_config.json that a tag stands for, and the hub repository of its weights.

    Raises:
        ConfigError: no such model or tag, or one without a repository of its own.
    """
    import open_clip

    from clipmed.towers import model_config

    model_cfg = model_config(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise ConfigError(
            f"OpenCLIP's model {model!r} has no weights {tag!r}{nearest(tag, tags)} "
            f"Allowed: {', '.join(tags) or 'none'}"
        )
    listed = open_clip.get_pretrained_cfg(model, tag)
    repository = str(listed.get("hf_hub", "")).removesuffix("/")
    if repository.count("/") != 1:
        raise ConfigError(
            f"{model}:{tag} has no repository of its own on the hub: OpenCLIP lists the pickle "
            f"{listed.get('hf_hub') or listed.get('url')!r}, and loading pickles can run code; download it, and "
            f"`clipmed import FILE --layout openclip --model {model} --out FOLDER` converts it safely"
        )
    preprocess = {key: listed[key] for key in PREPROCESS_KEYS if listed.get(key) is not None}
    config = {
        "model_cfg": model_cfg | {"quick_gelu": bool(listed.get("quick_gelu"))},
        "preprocess_cfg": {
            key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.items()
        },
    }
    return config, check_repository(repository)
