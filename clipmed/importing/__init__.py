"""Published checkpoints converted into this library's: read without running code, checked, complete, with their source.

A conversion ends by loading the result as any user does: it fails there, or the result is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoint_config import is_hub_name, read_config
from clipmed.checkpoint_files import (
    CARD_FILE,
    CONFIG_FILE,
    HERE,
    SMALL_FILES,
    TEXT_CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    check_sum,
    file_sha256,
    write_sums,
)
from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import atomic_folder, write_json, write_text
from clipmed.hub import PICKLES, fetch_snapshot
from clipmed.hub.locations import HUB_PREFIX, parse_location, split_sha256
from clipmed.importing.card import import_card
from clipmed.importing.published import (
    BY_LAYOUT,
    BY_REPOSITORY,
    FAMILIES,
    UNIMED_MODELS,
    Family,
    Layout,
    Published,
    openclip_config,
)

if TYPE_CHECKING:
    import torch

SAFE_FILES = (WEIGHTS_FILE, "model.safetensors")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What to convert, and what its files do not say."""

    source: str
    """a file of weights, a folder, or hf-hub:org/name[@revision]; each may end in #sha256=…"""
    out: Path
    """the checkpoint folder to write; one that is there is replaced only if it is a checkpoint"""
    layout: Layout = "auto"
    """what the weights are of; auto: as the names of their tensors say"""
    model: str | None = None
    """a model config: shipped with clipmed, OpenCLIP's name, or a JSON file"""
    tokenizer: str | None = None
    """where the text tower's config and tokenizer are: a folder, or org/name of the hub"""
    license: str | None = None
    """of the weights, as the hub names it"""
    sha256: str | None = None
    """hex SHA-256 that the file of weights must have, checked before it is read; the source may end in it, too"""
    offline: bool | None = None
    """use only what is on this machine; $HF_HUB_OFFLINE if not given"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a conversion."""

    folder: Path
    layout: str
    weights: str
    """the file that was read"""
    sha256: str
    """of that file"""
    tensors: int
    left_out: tuple[str, ...]
    """tensors that are computed, such as position_ids"""


def import_checkpoint(wanted: Import) -> Imported:
    """Convert a published checkpoint into a checkpoint folder.

    Raises:
        ConfigError: settings that do not go together, or `out` is taken.
        CheckpointError: a file that asks for code, another layout than said, or tensors that are missing or unexpected.
    """
    if wanted.out.exists() and not (wanted.out / CONFIG_FILE).is_file():
        raise ConfigError(f"out: {wanted.out} is there and no checkpoint; remove it first, or give another folder")
    source, pin = split_sha256(wanted.source, wanted.sha256)
    wanted = replace(wanted, source=source, sha256=pin)
    path, folder = _source_files(wanted)
    if pin is not None:
        check_sum(path, pin, "the file is another than the one that was pinned; it was not read")
    state = _read_state(path)
    family = _family(state, wanted.layout, path)
    known = _known(wanted)
    config, tokenizer = _config(wanted, family, state, folder, known)
    state = _converted(state, family)
    left_out = tuple(sorted(name for name in state if name.endswith("embeddings.position_ids")))
    sha256 = file_sha256(path)
    with atomic_folder(wanted.out) as partial:
        _write_weights({name: tensor for name, tensor in state.items() if name not in left_out}, partial / WEIGHTS_FILE)
        _write_text_files(config, tokenizer, partial)
        write_json(partial / CONFIG_FILE, config)
        write_text(partial / CARD_FILE, import_card(wanted, known, path.name, sha256))
        write_sums(partial)
        _check_loads(partial, wanted)
    return Imported(
        folder=wanted.out,
        layout=family if wanted.layout == "auto" else wanted.layout,
        weights=str(path),
        sha256=sha256,
        tensors=len(state) - len(left_out),
        left_out=left_out,
    )


def detect_family(names: Mapping[str, Any]) -> Family | None:
    """Return the layout that names of tensors are of; None where it is none of those known.

    >>> detect_family({"text_encoder.proj.0.weight": 0, "visual.proj": 0})
    'unimed'
    """
    tops = {name.partition(".")[0] for name in names}
    if {"vision_model", "text_model"} <= tops:
        return "transformers"
    if {"visual", "text_encoder"} <= tops:
        return "unimed"
    return "openclip" if "visual" in tops and {"text", "token_embedding"} & tops else None


def _source_files(wanted: Import) -> tuple[Path, Path | None]:
    """Return the file of weights, and the folder whose other files belong to it."""
    if wanted.source.startswith(HUB_PREFIX):
        folder = fetch_snapshot(wanted.source, (*SMALL_FILES, *SAFE_FILES), offline=wanted.offline)
        if not any((folder / name).is_file() for name in SAFE_FILES):
            folder = fetch_snapshot(wanted.source, (*SMALL_FILES, *PICKLES), offline=wanted.offline)
        return _weights_of(folder), folder
    path = Path(wanted.source)
    if path.is_dir():
        return _weights_of(path), path
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; give a file of weights, a folder, or {HUB_PREFIX}org/name")
    return path, None


def _weights_of(folder: Path) -> Path:
    safe = [folder / name for name in SAFE_FILES if (folder / name).is_file()]
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES and path.is_file())
    if safe:
        return safe[0]
    if len(pickles) != 1:
        shown = ", ".join(path.name for path in pickles[:5]) or "none"
        raise CheckpointError(f"{folder}: its files of weights are {shown}; give the one to convert, by its path")
    return pickles[0]


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        from clipmed.importing.pickles import read_pickled_state

        return read_pickled_state(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from error


def _family(state: Mapping[str, Any], layout: Layout, path: Path) -> Family:
    found = detect_family(state)
    if found is None or (layout != "auto" and FAMILIES[layout] != found):
        said = f"of the layout {found!r}" if found else f"of none that is known: {', '.join(sorted(state)[:3])}, …"
        raise CheckpointError(
            f"{path}: its {len(state)} tensors are {said}; asked for: {layout}; known: {', '.join(FAMILIES)}"
        )
    return found


def _known(wanted: Import) -> Published | None:
    if wanted.source.startswith(HUB_PREFIX):
        name = parse_location(wanted.source).name
        if name in BY_REPOSITORY:
            return BY_REPOSITORY[name]
    return BY_LAYOUT.get(wanted.layout)


def _config(
    wanted: Import, family: Family, state: Mapping[str, torch.Tensor], folder: Path | None, known: Published | None
) -> tuple[dict[str, Any], Path | None]:
    """Return the content of open_clip_config.json, and the folder of the text tower's files where it needs any."""
    from clipmed.towers import model_config

    own = True
    if wanted.model is not None:
        config = openclip_config(model_config(wanted.model))
    elif family == "transformers":
        if folder is None:
            raise ConfigError(f"transformers' layout needs its {TEXT_CONFIG_FILE}: give the folder that holds both")
        from clipmed.importing.transformers_clip import convert_config

        config, own = convert_config(folder)
    elif folder is not None and (folder / CONFIG_FILE).is_file():
        config = read_config(folder)
    else:
        config = openclip_config(model_config(_model_name(family, state, known)))
    if family == "unimed":
        config["model_cfg"]["custom_text"] = True
    text = config["model_cfg"]["text_cfg"]
    needs = not own or text.get("hf_model_name") or text.get("hf_tokenizer_name")
    return config, _text_folder(wanted, text, folder, family) if needs else None


def _model_name(family: Family, state: Mapping[str, torch.Tensor], known: Published | None) -> str:
    if family == "unimed":
        words = state.get("text_encoder.transformer.embeddings.word_embeddings.weight")
        widths = (len(state.get("visual.class_embedding", ())), 0 if words is None else words.shape[-1])
        if widths in UNIMED_MODELS:
            return UNIMED_MODELS[widths]
        raise ConfigError(
            f"model: the image and text towers have the widths {widths}; known of UniMed-CLIP: "
            f"{', '.join(map(str, UNIMED_MODELS))}; give --model with a config that fits"
        )
    if known is not None and known.model is not None:
        return known.model
    raise ConfigError(
        f"model: the weights come without {CONFIG_FILE}; give --model with OpenCLIP's name of the architecture, such "
        "as ViT-B-16, or with a JSON config; or --layout with the name of a published checkpoint"
    )


def _text_folder(wanted: Import, text: Mapping[str, Any], folder: Path | None, family: Family) -> Path:
    """Return a folder with what the text tower needs: its config.json, if it is a Hugging Face one, and a tokenizer."""
    if wanted.tokenizer is not None:
        path = Path(wanted.tokenizer)
        if path.is_dir():
            return path
        return fetch_snapshot(f"{HUB_PREFIX}{wanted.tokenizer}", TOKENIZER_FILES, offline=wanted.offline)
    names = [text.get(key) for key in ("hf_model_name", "hf_tokenizer_name")]
    if folder is not None and (family == "transformers" or not names[0] or (folder / TEXT_CONFIG_FILE).is_file()):
        return folder
    named = next((name for name in names if name and name != HERE), None)
    if named is None:
        raise ConfigError(
            "tokenizer: the config says that the text tower's files lie beside it, and they do not; give --tokenizer "
            "with a folder of its config.json and tokenizer, or its name at the hub"
        )
    return fetch_snapshot(f"{HUB_PREFIX}{named}", TOKENIZER_FILES, offline=wanted.offline)


def _converted(state: dict[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    if family == "transformers":
        from clipmed.importing.transformers_clip import convert_state

        return convert_state(state)
    if family == "unimed":
        return {
            f"text.{name.removeprefix('text_encoder.')}" if name.startswith("text_encoder.") else name: tensor
            for name, tensor in state.items()
        }
    return state


def _write_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # Clones: tensors of a pickle may share their memory, which safetensors does not allow.
    own = {name: tensor.detach().clone(memory_format=_contiguous()) for name, tensor in state.items()}
    save_file(own, path, metadata={"format": "pt"})


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format


def _write_text_files(config: dict[str, Any], source: Path | None, folder: Path) -> None:
    """Copy the text tower's files beside the config, which says so where it does not name them as the hub does."""
    if source is None:
        return
    text = config["model_cfg"]["text_cfg"]
    hugging_face = bool(text.get("hf_model_name"))
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and (hugging_face or name != TEXT_CONFIG_FILE):
            shutil.copyfile(source / name, folder / name)
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if (hugging_face or key == "hf_tokenizer_name") and not is_hub_name(text.get(key)):
            text[key] = HERE


def _check_loads(folder: Path, wanted: Import) -> None:
    from clipmed.checkpoints import load_checkpoint

    try:
        load_checkpoint(folder, offline=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"what {wanted.source} would become does not load: {str(error).replace(str(folder), 'it')}"
        ) from error
