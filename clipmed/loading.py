"""Models from a config and a folder of weights: built without values, filled once, strictly.

Parameters are made on PyTorch's `meta` device, where they take neither memory nor the time of a random start; each is
then read from the file by itself, so that memory holds the model once. Buffers that are computed, such as masks, are
real from the start.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoint_config import check_config, check_no_code, check_text_config
from clipmed.checkpoint_files import (
    CONFIG_FILE,
    HERE,
    TEXT_CONFIG_FILE,
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
)
from clipmed.errors import CheckpointError, ClipmedError
from clipmed.hub.locations import Location
from clipmed.hub.repositories import fetch_repository
from clipmed.safetensors_header import TensorEntry, read_header

if TYPE_CHECKING:
    import torch

    from clipmed.towers import TwoTower

POSITION_IDS = ".embeddings.position_ids"  # 0, 1, 2 …: saved by transformers before 4.31

FILLS = ("normal_", "uniform_", "zero_", "fill_", "copy_", "erfinv_", "mul_", "add_", "div_", "sub_", "clamp_")

_REGISTERING = threading.Lock()


def open_two_tower(
    config: Mapping[str, Any], folder: Path, device: str = "cpu", offline: bool | None = None
) -> TwoTower:
    """Build the model of a config with the weights of a folder, in evaluation mode.

    The config and tokenizer of a Hugging Face text tower are the folder's own; one that only names them is completed
    from the hub, or its cache, without running any code of theirs.

    Args:
        config: the content of open_clip_config.json.
        folder: holds the weights.
        device: where the model shall be.
        offline: use only what is on this machine; $HF_HUB_OFFLINE if not given.

    Raises:
        CheckpointError: a config that is not sound, or weights of another model.
    """
    from clipmed.deferral import import_open_clip

    import_open_clip()
    from clipmed.towers import assemble

    entries = _entries(folder)
    where = str(folder / CONFIG_FILE)
    check_config(config["model_cfg"], entries, where)
    model_cfg = _with_local_text(config["model_cfg"], folder, entries, offline)
    try:
        with without_values():
            two_tower = assemble(model_cfg, preprocess_cfg=config.get("preprocess_cfg"))
    except ClipmedError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{where}: no model can be built from it ({type(error).__name__}: {said}); fetch or save it again"
        ) from error
    two_tower.model_cfg = dict(config["model_cfg"])
    load_weights(two_tower.model, folder, device)
    two_tower.model.to(device).eval()
    _check_vocabulary(two_tower, where)
    return two_tower


def load_weights(model: torch.nn.Module, folder: Path, device: str = "cpu") -> None:
    """Load the folder's safetensors into `model`; every key must match in name and shape, every number be finite.

    Weights of OpenCLIP's older layout, without a text tower of its own, are renamed where the model has one.

    Raises:
        CheckpointError: names what is missing, unexpected, of another shape, or not a number.
    """
    path = folder / WEIGHTS_FILE
    wanted = model.state_dict()
    entries = _entries(folder)
    places = _places(wanted, entries, path)
    _check_entries(wanted, {name: entries[place] for name, place in places.items()}, path)
    empty = any(tensor.is_meta for tensor in wanted.values())
    state = dict(_tensors(path, places, wanted, device))
    model.load_state_dict(state, assign=empty)


@contextmanager
def without_values() -> Iterator[None]:
    """Let parameters that this thread makes have a shape and a type, and no values, nor the work of random ones."""
    import torch
    from torch.overrides import TorchFunctionMode

    fills = {getattr(torch.Tensor, name) for name in FILLS}

    class NoFills(TorchFunctionMode):
        """Leaves out what would fill a tensor without values: PyTorch imports its compiler for some of it."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            filled = args[0] if args else given.get("tensor")
            is_fill = func in fills or getattr(func, "__module__", "") == "torch.nn.init"
            return filled if is_fill and filled is not None and filled.is_meta else func(*args, **given)

    module_class: Any = torch.nn.Module
    original, owner = module_class.register_parameter, threading.get_ident()

    def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta and threading.get_ident() == owner:
            parameter = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        original(module, name, parameter)

    with _REGISTERING, NoFills():
        module_class.register_parameter = register
        try:
            yield
        finally:
            module_class.register_parameter = original


def _entries(folder: Path) -> dict[str, TensorEntry]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = sorted(entry.name for entry in folder.glob("*") if entry.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        there = f"of its {', '.join(pickles[:3])}" if pickles else "of pickles"
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; pickled weights are not read, since loading them can run code; "
            f"`clipmed import {folder} --out FOLDER` makes safetensors {there} without running any"
        )
    return read_header(path)


def _with_local_text(
    model_cfg: Mapping[str, Any], folder: Path, entries: Mapping[str, TensorEntry], offline: bool | None
) -> dict[str, Any]:
    """Return the config with the names of a Hugging Face text tower replaced by folders of this machine."""
    cfg = copy.deepcopy(dict(model_cfg))
    text = cfg["text_cfg"]
    model_name = text.get("hf_model_name")
    tokenizer_name = text.get("hf_tokenizer_name") or model_name
    if model_name:
        source = _folder_of(model_name, folder, (TEXT_CONFIG_FILE,), offline)
        check_text_config(source / TEXT_CONFIG_FILE, int(text.get("context_length") or 77), entries)
        text["hf_model_name"] = str(source)
    if tokenizer_name:
        source = _folder_of(tokenizer_name, folder, VOCABULARY_FILES, offline)
        for path in source.glob("*.json"):
            if path.name in {"tokenizer_config.json", TEXT_CONFIG_FILE}:
                check_no_code(path)
        text["hf_tokenizer_name"] = str(source)
    return cfg


def _folder_of(name: str, folder: Path, files: tuple[str, ...], offline: bool | None) -> Path:
    if any((folder / file).is_file() for file in files):
        return folder
    if name == HERE:
        raise CheckpointError(f"{folder} lacks {files[0]} of its text tower; fetch or save the checkpoint again")
    found = fetch_repository(Location(kind="hub", name=name), TOKENIZER_FILES, offline=offline).folder
    if not any((found / file).is_file() for file in files):
        raise CheckpointError(f"{folder}: its text tower is {name}, which has no {files[0]}; put the file beside it")
    return found


def _places(wanted: Mapping[str, Any], entries: Mapping[str, TensorEntry], path: Path) -> dict[str, str]:
    """Return the names that tensors have in the file by those that they have in the model."""
    places = {name: name for name in entries}
    if "text.positional_embedding" in wanted and "positional_embedding" in entries:
        from open_clip.model import convert_to_custom_text_state_dict

        places = convert_to_custom_text_state_dict(places)
    for name in [name for name in places if name.endswith(POSITION_IDS) and name not in wanted]:
        _check_positions(path, places.pop(name))
    return places


def _check_positions(path: Path, place: str) -> None:
    import torch

    stored = _read(path, place).flatten()
    if not torch.equal(stored, torch.arange(len(stored), dtype=stored.dtype)):
        raise CheckpointError(f"{path}: {place} does not count positions; the weights are of another model")


def _check_entries(wanted: Mapping[str, torch.Tensor], got: Mapping[str, TensorEntry], path: Path) -> None:
    missing = sorted(wanted.keys() - got.keys())
    unexpected = sorted(got.keys() - wanted.keys())
    differing = [
        f"{name} is {got[name].dtype} {got[name].shape}, the config wants {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & got.keys())
        if tuple(wanted[name].shape) != got[name].shape or wanted[name].is_floating_point() != got[name].is_float
    ]
    if missing or unexpected or differing:
        raise CheckpointError(
            f"{path} does not match its config: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are unexpected {unexpected[:3]}, {len(differing)} differ in shape {differing[:3]}; "
            "the weights are of another model"
        )


def _tensors(
    path: Path, places: Mapping[str, str], wanted: Mapping[str, torch.Tensor], device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors of their own, one by one: those that the file gives are windows into it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            for name, place in places.items():
                tensor = stored.get_tensor(place)
                if not _is_finite(tensor):
                    raise CheckpointError(f"{path}: {place} holds numbers that are not finite; its training went wrong")
                yield name, tensor.to(device=device, dtype=wanted[name].dtype, copy=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it again") from error


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor an infinity; makes no tensor of its size."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


def _read(path: Path, place: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            tensor: torch.Tensor = stored.get_tensor(place)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it again") from error
    return tensor


def _check_vocabulary(two_tower: TwoTower, where: str) -> None:
    """Check that every token has a row in the text tower's table: others would be an index out of range later."""
    tokenizer: Any = two_tower.tokenizer
    model: Any = two_tower.model
    tokens = len(tokenizer.tokenizer) if hasattr(tokenizer, "tokenizer") else tokenizer.vocab_size
    if tokens > model.vocab_size > 0:
        raise CheckpointError(
            f"{where}: its tokenizer has {tokens} tokens, and its text tower knows {model.vocab_size}; the tokenizer "
            "is of another model"
        )
