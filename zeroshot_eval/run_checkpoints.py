"""The checkpoints that a training run left on its way, as folders that encoders are opened from.

    RUN/checkpoints/step_00001000/
        state.json                                   step, config, digests of the files beside it
        model.safetensors, or -00000-of-00008        weights, whole or in the parts of its processes
        ema.safetensors, …                           running means of weights, named ema/NAME, where the run kept any

What a run publishes are its running means where it has them: so are the folders made here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from clipmed.checkpoints import CONFIG_FILE, load_checkpoint, save_checkpoint
from clipmed.errors import CheckpointError
from clipmed.files import sha256_file

if TYPE_CHECKING:
    import torch

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE = "state.json"
EMA_PREFIX = "ema/"
# Folders of a run that may hold its model in OpenCLIP's layout, whose config and tokenizer all steps share.
MODEL_FOLDERS = ("model", "best", "scores/step_*/work/model")


def checkpoints_of_run(run: Path, out: Path) -> list[tuple[int, Path]]:
    """Write every step's checkpoint of a run as a checkpoint folder below `out`; return (step, folder), in order.

    The weights before any way back to the initial ones (`optim.wise_ft`): interpolate for those.

    Raises:
        CheckpointError: no run, none of its checkpoints left, no model folder to take the config from, or a step that
            is not what was written.
    """
    steps = _steps(run)
    template = _template(run)
    exported = []
    for step, folder in tqdm(steps, desc="reading checkpoints", unit="checkpoint", delay=2):
        _check_whole(folder)
        two_tower = load_checkpoint(template)
        _load_step(two_tower.model, folder)
        card = (
            f"# Step {step} of a training run\n\nFor research. A checkpoint on the way; the run's card is in model/.\n"
        )
        save_checkpoint(out / folder.name, two_tower, card)
        exported.append((step, out / folder.name))
    return exported


def _steps(run: Path) -> list[tuple[int, Path]]:
    folders = sorted((run / CHECKPOINTS_FOLDER).glob("step_" + 8 * "[0-9]"))
    if not folders:
        raise CheckpointError(
            f"{run} has no {CHECKPOINTS_FOLDER}/step_…; give the folder of a training run that keeps checkpoints "
            "(checkpoint.keep says how many)"
        )
    return [(int(folder.name.removeprefix("step_")), folder) for folder in folders]


def _template(run: Path) -> Path:
    found = [path for pattern in MODEL_FOLDERS for path in sorted(run.glob(pattern)) if (path / CONFIG_FILE).is_file()]
    if not found:
        raise CheckpointError(
            f"{run} has no model folder yet ({', '.join(MODEL_FOLDERS)}), from which the steps' config and tokenizer "
            "are taken; wait for the run to end, or let it score on its way (score.suite)"
        )
    return found[0]


def _check_whole(folder: Path) -> None:
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        wanted = {name: digest for name, digest in state["sha256"].items() if not name.startswith("optimizer")}
        damaged = [name for name, digest in wanted.items() if sha256_file(folder / name) != digest]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not whole: {type(error).__name__}: {error}; remove it") from error
    if damaged:
        raise CheckpointError(f"{folder}: {', '.join(damaged)} is not what was written; remove it")


def _load_step(model: torch.nn.Module, folder: Path) -> None:
    """Put a step's weights, or their running means, into the model; whole files and parts are read alike."""
    import torch
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    stored: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    weights = {name: torch.empty_like(tensor) for name, tensor in model.state_dict().items()}
    _check_names(folder, {name: info.size for name, info in stored.items() if "/" not in name}, weights)
    means = {name: weights[name].clone() for name in weights if EMA_PREFIX + name in stored}
    targets = weights | {EMA_PREFIX + name: tensor for name, tensor in means.items()}
    with warnings.catch_warnings():
        # It says that this process reads alone, as it should.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(targets, storage_reader=reader, no_dist=True)
    model.load_state_dict(weights | means)


def _check_names(folder: Path, stored: Mapping[str, Sequence[int]], wanted: Mapping[str, torch.Tensor]) -> None:
    there = {name: tuple(size) for name, size in stored.items()}
    here = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{folder} does not fit the run's model folder: {first} has the shape {there.get(first, 'none')} there and "
            f"{here.get(first, 'none')} in the model; was the folder used for two runs?"
        )
