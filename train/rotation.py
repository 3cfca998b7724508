"""The checkpoints in a run's folder: which are whole, and which go when newer ones come."""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipmed.errors import CheckpointError
from clipmed.files import sha256_file

SCHEMA_VERSION = 2
STATE_FILE = "state.json"


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"step_{step:08d}"


def newest_state(checkpoints: Path, *, warn: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and state.json of the newest whole checkpoint, or None where there is none.

    A damaged one is passed over, with a warning that names it if `warn`.
    """
    for step in reversed(_steps_in(checkpoints)):
        folder = step_folder(checkpoints, step)
        try:
            return folder, _read_state(folder)
        except CheckpointError as error:
            if warn:
                warnings.warn(f"passing over a damaged checkpoint: {error}", stacklevel=2)
    return None


def rotate(checkpoints: Path, keep: int, newest_step: int, protected: frozenset[int]) -> None:
    """Remove all but the `keep` newest of the checkpoints up to a step, and the protected ones.

    Later ones were damaged when the run went on from an earlier one; they do not count, and stay until replaced.
    """
    steps = [step for step in _steps_in(checkpoints) if step <= newest_step]
    for step in steps[:-keep]:
        if step not in protected:
            _remove(step_folder(checkpoints, step))


def drop_oldest(checkpoints: Path, protected: frozenset[int]) -> bool:
    """Remove the oldest checkpoint that is neither protected nor the newest whole one; return whether there was one."""
    newest = newest_state(checkpoints, warn=False)
    if newest is None:
        return False
    spare = [step for step in _steps_in(checkpoints) if step not in protected]
    spare = [step for step in spare if step_folder(checkpoints, step) != newest[0]]
    return bool(spare) and _remove(step_folder(checkpoints, spare[0]))


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


def _steps_in(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints in a folder, in order."""
    return sorted(int(folder.name.removeprefix("step_")) for folder in checkpoints.glob("step_" + 8 * "[0-9]"))


def _remove(folder: Path) -> bool:
    """Remove a checkpoint, under another name: a half-removed one never looks like one. Return whether it went.

    Where it stays, because of a process that reads it on a network file system, the next rotation tries again.
    """
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return not folder.exists()
