"""The state of a run on disk: whole or absent, checked by digest, never pickled.

checkpoints/step_00000100/
    model.safetensors       weights and buffers
    optimizer.safetensors   AdamW's running means and step counts, named <state>/<parameter>
    state.json              step, digests of the sets and of the two files, the loss scaler's state, config

Nothing else is needed to go on: the sample order, augmentation, dropout and learning rate are functions of the config
and the step.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import atomic_folder, sha256_file, write_json

SCHEMA_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
# Settings that a run may change when it goes on, since they do not change its result.
FREE_SETTINGS = ("out", "data.workers", "data.sets", "checkpoint", "tracking", "jobs", "validate")


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"step_{step:08d}"


def save_state(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder, atomically; `state` is JSON-serialisable and holds at least `step`."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as partial:
        save_file(weights, partial / MODEL_FILE)
        save_file(_optimizer_tensors(model, optimizer), partial / OPTIMIZER_FILE)
        digests = {name: sha256_file(partial / name) for name in (MODEL_FILE, OPTIMIZER_FILE)}
        write_json(partial / STATE_FILE, {"schema_version": SCHEMA_VERSION, "sha256": digests, **state})


def newest_state(checkpoints: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and state of the newest whole checkpoint, or None where there is none.

    A damaged one is passed over with a warning that names it.
    """
    for folder in sorted(checkpoints.glob("step_*"), reverse=True):
        try:
            return folder, _read_state(folder)
        except CheckpointError as error:
            warnings.warn(f"passing over a damaged checkpoint: {error}", stacklevel=2)
    return None


def load_state(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the weights and the optimiser's state of a checkpoint into place."""
    model.load_state_dict(load_file(folder / MODEL_FILE))
    tensors = load_file(folder / OPTIMIZER_FILE)
    per_parameter: dict[str, dict[str, torch.Tensor]] = {}
    for full_name, tensor in tensors.items():
        what, _, name = full_name.partition("/")
        per_parameter.setdefault(name, {})[what] = tensor
    names = _names_in_order(model, optimizer)
    states = {number: per_parameter[name] for number, name in enumerate(names) if name in per_parameter}
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints."""
    for folder in sorted(checkpoints.glob("step_*"))[:-keep]:
        # Renamed first: a half-removed folder never looks like a checkpoint.
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def check_same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """Refuse to go on with a run that began with other settings.

    Args:
        found: the config in the run folder, as plain data.
        wanted: the config asked for.
        out: the run folder, for the message.

    Raises:
        ConfigError: naming every setting that differs and matters to the result.
    """
    before, now = _flat(found), _flat(wanted)
    differing = [
        f"{key} ({before.get(key)!r} there, {now.get(key)!r} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if differing:
        raise ConfigError(
            f"{out} holds a run with other settings: {'; '.join(differing)}; "
            "give another --out, or the same settings to go on with that run, or remove the folder"
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_SETTINGS)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        damaged = [name for name, digest in state["sha256"].items() if sha256_file(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {type(error).__name__}: {error}") from error
    if damaged:
        raise CheckpointError(f"{folder}: {', '.join(damaged)} is not what was written")
    if state["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(f"{folder} has schema version {state['schema_version']}; allowed: {SCHEMA_VERSION}")
    return state


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    states = optimizer.state_dict()["state"]
    return {
        f"{what}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for number, name in enumerate(_names_in_order(model, optimizer))
        for what, value in states.get(number, {}).items()
    }


def _names_in_order(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Parameter names in the order of the optimiser's own numbering."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
