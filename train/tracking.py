"""Where the numbers of a run go: one protocol, and metrics.jsonl, TensorBoard and Weights & Biases behind it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from clipmed.configuration import to_dict
from clipmed.errors import ConfigError
from clipmed.files import write_text
from train.config import TrainConfig
from train.samples import COLUMNS, SampleSheet, save_samples, tiles

METRICS_FILE = "metrics.jsonl"
Kind = Literal["train", "validation", "scores"]
Values = Mapping[str, float | None]
# Of each value that the console shows: its name there, and its format.
POSTFIX = {
    "loss": ("loss", ".3f"),
    "logit_scale": ("scale", ".1f"),
    "mfu": ("MFU", ".0%"),
    "data_wait": ("data wait", ".0%"),
}


class Tracker(Protocol):
    """Takes what is to be seen of a run, by step."""

    def log(self, kind: Kind, step: int, values: Values) -> None:
        """Take the values of one step; `step` counts finished optimiser steps. None is a value that is not known."""

    def show(self, sheet: SampleSheet) -> None:
        """Take samples of a batch as the model saw them."""

    def close(self) -> None:
        """Write out what is buffered."""


class MetricsFile:
    """metrics.jsonl: one JSON object a row, appended and flushed row by row; sample sheets in samples/ beside it.

    Resuming at a step cuts off the rows after it, so that in the end the file is that of an uninterrupted run, timing
    apart. What is not finite is null.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        _truncate(path, resumed_step)
        self._folder = path.parent
        self._stream = path.open("a", encoding="utf-8")

    def log(self, kind: Kind, step: int, values: Values) -> None:
        """Append a row."""
        row = dict.fromkeys(values) | _finite(values)
        self._stream.write(json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n")
        self._stream.flush()

    def show(self, sheet: SampleSheet) -> None:
        """Write the sheet."""
        save_samples(self._folder, sheet)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class TensorBoard:
    """TensorBoard events in `<out>/tensorboard`."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        import tensorboardX

        purge_step = resumed_step + 1 if resumed_step else None
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, kind: Kind, step: int, values: Values) -> None:
        """Add a point to every curve."""
        for name, value in _finite(values).items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def show(self, sheet: SampleSheet) -> None:
        """Add the samples as one picture and their captions as a text."""
        self._writer.add_image("samples", tiles(sheet.pixels, COLUMNS), sheet.step, dataformats="HWC")
        captions = "\n".join(f"1. {sample.source}: {sample.caption}" for sample in sheet.samples)
        self._writer.add_text("captions", captions, sheet.step)

    def close(self) -> None:
        """Write out the events."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run, one a run folder: a resumed run goes on in the same one.

    The curves are drawn over the logged `step`, not over the order of arrival, since scores land late. Where the server
    cannot be reached, the run is kept on this machine.

    Raises:
        ConfigError: wandb is not installed, or does not know who reports.
    """

    def __init__(self, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "tracking.wandb: got True, but wandb is not installed; run `pip install wandb`, or leave it out"
            ) from error
        settings: dict[str, Any] = {
            "project": config.tracking.wandb_project,
            "name": config.out.name,
            "id": hashlib.sha256(str(config.out.resolve()).encode()).hexdigest()[:16],
            "dir": config.out,
            "config": to_dict(config),
            "resume": "allow",
        }
        self._image = wandb.Image
        try:
            self._run: Any = wandb.init(**settings)
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise ConfigError(
                f"tracking.wandb: {error}; allowed: `wandb login` first, WANDB_MODE=offline, or no --tracking.wandb"
            ) from error
        except wandb.errors.CommError as error:
            warnings.warn(
                f"Weights & Biases cannot be reached ({str(error).splitlines()[0]}); the run is kept in "
                f"{config.out / 'wandb'}, and `wandb sync` sends it",
                stacklevel=2,
            )
            wandb.teardown()  # its service still holds the id of the run
            self._run = wandb.init(**settings, mode="offline")
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: Kind, step: int, values: Values) -> None:
        """Send the values."""
        self._run.log({"step": step} | {f"{kind}/{name}": value for name, value in _finite(values).items()})

    def show(self, sheet: SampleSheet) -> None:
        """Send the samples with their captions."""
        pairs = zip(sheet.pixels, sheet.samples, strict=True)
        images = [self._image(pixels, caption=f"{shown.source}: {shown.caption}") for pixels, shown in pairs]
        self._run.log({"step": sheet.step, "samples": images})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackers:
    """Several trackers as one; none for the processes that do not report.

    A tracker that fails (a full disk, a lost file system) is warned of once and never stops the run.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = tuple(trackers)
        self._warned: set[str] = set()

    def log(self, kind: Kind, step: int, values: Values) -> None:
        """Pass the values on to every tracker."""
        self._each(lambda tracker: tracker.log(kind, step, values))

    def show(self, sheet: SampleSheet) -> None:
        """Pass the samples on to every tracker."""
        self._each(lambda tracker: tracker.show(sheet))

    def close(self) -> None:
        """Close every tracker."""
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                act(tracker)
            except OSError as error:
                self._warn(tracker, error)

    def _warn(self, tracker: Tracker, error: OSError) -> None:
        name = type(tracker).__name__
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"{name} cannot be written ({error}); training goes on, and its curves may have gaps. Free space or "
                "mend the file system of the run folder",
                stacklevel=4,
            )


def open_trackers(config: TrainConfig, resumed_step: int) -> Trackers:
    """Return the trackers that the config asks for, metrics.jsonl first."""
    trackers: list[Tracker] = [MetricsFile(config.out / METRICS_FILE, resumed_step)]
    if config.tracking.tensorboard:
        trackers.append(TensorBoard(config.out / "tensorboard", resumed_step))
    if config.tracking.wandb:
        trackers.append(Wandb(config))
    return Trackers(trackers)


def postfix(values: Values) -> dict[str, str]:
    """Return what the console shows beside the progress bar, which has pairs a second and the time left of its own.

    `values` are the newest of each name, of which those that are missing or not known are left out.
    """
    known = {name: value for name in POSTFIX if (value := values.get(name)) is not None}
    return {POSTFIX[name][0]: format(value, POSTFIX[name][1]) for name, value in known.items()}


def read_metrics(path: Path, kind: Kind) -> list[dict[str, Any]]:
    """Return the rows of one kind, in the order of their arrival."""
    return [row for row in _rows(path) if row["kind"] == kind]


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, if there is one.

    A line that a killed process left half-written is passed over.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _finite(values: Values) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in json_rows(path) if {"kind", "step"} <= row.keys()]


def _truncate(path: Path, resumed_step: int) -> None:
    """Drop what a run that resumes at a step will do again: later steps, and the validation of this one."""
    kept = [row for row in _rows(path) if row["step"] <= resumed_step - (row["kind"] == "validation")]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
