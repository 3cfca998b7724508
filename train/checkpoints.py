"""The state of a run on disk: whole or absent, checked by digest, never pickled.

checkpoints/step_00000100/
    model.safetensors       weights and buffers
    optimizer.safetensors   AdamW's running means and step counts, named <state>/<parameter>
    ema.safetensors         running means of the weights, named ema/<parameter>, where the run keeps any
    state.json              step, digests of the sets and of the files above, the loss scaler's state, config
checkpoints/best.json       which step's checkpoint had the best validation

With checkpoint.format "sharded" every process writes its own model-00000-of-00008.safetensors and so on, as
torch.distributed.checkpoint's HuggingFaceStorageReader reads them. Nothing else is needed to go on: the sample order,
augmentation, dropout and learning rate are functions of the config and the step.
"""

from __future__ import annotations

import errno
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import replace_folder, sync, write_json
from train.config import CheckpointConfig
from train.peers import Peers
from train.rotation import SCHEMA_VERSION, STATE_FILE, drop_oldest, newest_state, rotate, step_folder
from train.snapshot import Snapshot, TrainState, put_back, take_snapshot
from train.writer import FULL_ERRORS, RETRY_DELAYS_S, retried, write_tensors

BEST_FILE = "best.json"
# Settings that a run may change when it goes on. The first do not change its result, but for rounding; the last two say
# what happens at a failure, which is what someone changes after one.
FREE_SETTINGS = (
    "out",
    "data.workers",
    "data.sets",
    "loss.tile",
    "loss.kernel",
    "gradcache.kept_graphs",
    "parallel",
    "checkpoint",
    "tracking",
    "jobs",
    "validate",
    "score",
    "guard",
    "data.on_bad_sample",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One checkpoint to be written. `protected` are the steps that rotation leaves alone."""

    step: int
    snapshot: Snapshot
    state: dict[str, Any]
    protected: frozenset[int]
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    value: float
    step: int


class CheckpointStore:
    """The checkpoints of one run, written while training goes on.

    Every process makes one at the same point and calls `save`, `wait`, `newest` and `best` at the same steps. A failure
    to write is a warning, since the checkpoint before stands, except where it is the last that the run will write.

    Args:
        folder: checkpoints/ of the run folder, on a file system that all processes share.
        config: how often to keep and how to write.
        rank: number of this process.
        world_size: number of processes.
        retry_delays_s: pauses before another try where a network file system hiccups.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self.folder = folder
        self.config = config
        self._peers = Peers(rank, world_size)
        self._rank = rank
        self._world_size = world_size
        self._retry_delays_s = retry_delays_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: tuple[_Job, Future[str | None]] | None = None
        self._candidate: _Best | None = None
        self._best = self._read_best()

    def save(self, state: TrainState, step: int, extra: Mapping[str, Any], *, final: bool = False) -> None:
        """Copy the state to host memory and write it: behind training's back, or before this returns.

        It first waits for the checkpoint before. `state` may change as soon as this returns.

        Args:
            state: what training changes.
            step: number of finished steps.
            extra: JSON-serialisable (no NaN), returned by `newest`.
            final: nothing is trained or saved after this; it is written before this returns.

        Raises:
            CheckpointError: a final checkpoint could not be written.
        """
        self.wait()
        snapshot = take_snapshot(state, self.config.format, self._rank)
        facts = {**deepcopy(dict(extra)), "step": step, "schema_version": SCHEMA_VERSION, "format": self.config.format}
        protected = frozenset({step} if self._best is None else {step, self._best.step})
        job = _Job(step=step, snapshot=snapshot, state=facts, protected=protected, final=final)
        if self._rank == 0:
            with suppress(OSError):  # writing will meet it again, where all processes hear of it
                self._make_room(job)
        if self.config.background and not final:
            self._pending = job, self._thread.submit(self._write, job)
        else:
            self._settle(job, self._write(job))

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if there is one; warn where it could not be."""
        if self._pending is not None:
            (job, future), self._pending = self._pending, None
            self._settle(job, future.result())

    def poll(self) -> None:
        """Do what `wait` does, if that takes no time: a warning then comes at the next step, not at the next save."""
        if self._pending is not None and self._pending[1].done():
            self.wait()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the folder of the newest whole checkpoint and its state.json, or None where there is none.

        A damaged one is passed over with a warning that names it. What a killed process left half-written is removed.
        """
        return self._peers.first_does(self._open_newest)

    def load(self, folder: Path, state: TrainState) -> None:
        """Put a checkpoint of either format into `state`, in place: model, optimiser (if given), running means.

        Raises:
            CheckpointError: where names or shapes are not those of the model.
        """
        put_back(folder, state)

    def note_validation(self, step: int, values: Mapping[str, float]) -> None:
        """Remember the step's checkpoint where its validation is the best so far; a step without one is passed over.

        Raises:
            ConfigError: checkpoint.best_metric is not one of `values`.
        """
        metric = self.config.best_metric
        if metric is None:
            return
        if metric not in values:
            allowed = ", ".join(repr(name) for name in sorted(values))
            raise ConfigError(f"checkpoint.best_metric: got {metric!r}; allowed: {allowed}")
        found = _Best(value=values[metric], step=step)
        if self._rank > 0 or not self._is_better(found):
            return
        if self._pending is not None and self._pending[0].step == step:
            self._candidate = found  # it is the best only once it is written
            self.poll()
        elif step_folder(self.folder, step).exists():
            self._set_best(found, newest_step=step)

    def best(self) -> tuple[Path, int] | None:
        """Return the folder and step of the checkpoint with the best validation, or None where there is none."""
        self.wait()
        step = self._peers.first_does(lambda: None if self._best is None else self._best.step)
        return None if step is None else (step_folder(self.folder, step), step)

    # Writing, which may happen in the thread. `_write` does not touch what `save` and `note_validation` change.

    def _write(self, job: _Job) -> str | None:
        """Write and rotate; return what went wrong where that could not be done."""
        while failure := self._try_to_write(job):
            if not self._peers.first_does(partial(self._retreat, job, failure)):
                return str(failure)
        return None

    def _try_to_write(self, job: _Job) -> OSError | None:
        try:
            self._peers.first_does(partial(self._patiently, self._prepare, job))
            parts = self._peers.all_do(partial(self._patiently, self._write_files, job))
            digests = {name: digest for part in parts for name, digest in part.items()}
            self._peers.first_does(partial(self._patiently, self._publish, job, digests))
        except OSError as error:
            return error
        return None

    def _patiently(self, action: Any, *arguments: Any) -> Any:
        return retried(partial(action, *arguments), self._retry_delays_s)

    def _prepare(self, job: _Job) -> None:
        unfinished = self._unfinished(job)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)

    def _write_files(self, job: _Job) -> dict[str, str]:
        snapshot, ending = job.snapshot, ""
        if snapshot.offsets is not None:
            ending = f"-{self._rank:05d}-of-{self._world_size:05d}"
        return {
            f"{group}{ending}.safetensors": write_tensors(
                self._unfinished(job) / f"{group}{ending}.safetensors", tensors, snapshot.offsets
            )
            for group, tensors in snapshot.groups.items()
            if tensors
        }

    def _publish(self, job: _Job, digests: dict[str, str]) -> None:
        unfinished = self._unfinished(job)
        if unfinished.exists():  # it does not where a try before this one did rename it
            unseen = [name for name in digests if not (unfinished / name).exists()]
            if unseen:
                reason = f"no {', '.join(unseen)} there; do all processes share that file system?"
                raise OSError(errno.ENOENT, reason, str(unfinished))
            write_json(unfinished / STATE_FILE, {**job.state, "sha256": digests})
            sync(unfinished)
            replace_folder(unfinished, step_folder(self.folder, job.step))
        rotate(self.folder, self.config.keep, job.step, job.protected)

    def _retreat(self, job: _Job, error: OSError) -> bool:
        """Remove what was written; return whether there is more room now than before."""
        shutil.rmtree(self._unfinished(job), ignore_errors=True)
        return error.errno in FULL_ERRORS and drop_oldest(self.folder, job.protected)

    def _unfinished(self, job: _Job) -> Path:
        folder = step_folder(self.folder, job.step)
        return folder.with_name(f".{folder.name}.partial")

    # What rank 0 alone does, beside training.

    def _make_room(self, job: _Job) -> None:
        """Remove checkpoints that rotation would remove later, where the disk is too full to do that later; warn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = job.snapshot.num_bytes
        while (free := shutil.disk_usage(self.folder).free) < needed:
            if not drop_oldest(self.folder, job.protected):
                sizes = f"takes {needed / 1e9:.3g} GB, and {self.folder} has {free / 1e9:.3g} GB free"
                warnings.warn(
                    f"step {job.step}: the checkpoint {sizes}; free some, lower checkpoint.keep, or go on with the run "
                    "on another disk",
                    stacklevel=3,
                )
                return

    def _settle(self, job: _Job, failure: str | None) -> None:
        """Say what became of a checkpoint."""
        candidate, self._candidate = self._candidate, None
        if failure is None:
            if candidate is not None:
                self._set_best(candidate, newest_step=job.step)
            return
        message = (
            f"step {job.step}: no checkpoint could be written to {self.folder} ({failure}). The ones before it stand. "
            "Free some room there, lower checkpoint.keep, or move the run folder to another disk"
        )
        if job.final:
            raise CheckpointError(f"{message}; the same command then goes on from the newest one")
        if self._rank == 0:
            warnings.warn(f"{message}; training goes on, and tries again at the next checkpoint", stacklevel=3)

    def _is_better(self, found: _Best) -> bool:
        if not math.isfinite(found.value):
            return False
        before = self._candidate or self._best
        lower_is_better = str(self.config.best_metric).endswith("loss")
        return before is None or (found.value < before.value if lower_is_better else found.value > before.value)

    def _set_best(self, best: _Best, newest_step: int) -> None:
        self._best = best
        content = {"metric": self.config.best_metric, "value": best.value, "step": best.step}
        try:
            self._patiently(write_json, self.folder / BEST_FILE, content)
        except OSError as error:
            warnings.warn(f"{self.folder / BEST_FILE} could not be written: {error}", stacklevel=3)
            return
        rotate(self.folder, self.config.keep, newest_step, frozenset({best.step}))

    def _read_best(self) -> _Best | None:
        path = self.folder / BEST_FILE
        if self._rank > 0 or self.config.best_metric is None or not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        is_there = step_folder(self.folder, content["step"]).exists()
        if content["metric"] != self.config.best_metric or not is_there:
            return None
        return _Best(value=content["value"], step=content["step"])

    def _open_newest(self) -> tuple[Path, dict[str, Any]] | None:
        for leftover in (*self.folder.glob(".step_*.partial"), *self.folder.glob(".step_*.old")):
            shutil.rmtree(leftover, ignore_errors=True)
        return newest_state(self.folder)


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
