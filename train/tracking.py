"""Where the numbers of a run go: one protocol, and metrics.jsonl, TensorBoard and Weights & Biases behind it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from clipmed.configuration import to_dict
from clipmed.files import write_text
from train.config import TrainConfig

METRICS_FILE = "metrics.jsonl"
Kind = Literal["train", "validation"]


class Tracker(Protocol):
    """Takes numbers by step."""

    def log(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step; `step` counts finished optimiser steps."""

    def close(self) -> None:
        """Write out what is buffered."""


class MetricsFile:
    """metrics.jsonl: one JSON object a row, appended and flushed row by row.

    Resuming at a step cuts off the rows after it, so that in the end the file is that of an uninterrupted run, timing
    apart.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        _truncate(path, resumed_step)
        self._stream = path.open("a", encoding="utf-8")

    def log(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._stream.write(json.dumps({"kind": kind, "step": step, **finite}, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class TensorBoard:
    """TensorBoard events in `<out>/tensorboard`."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        import tensorboardX

        purge_step = resumed_step + 1 if resumed_step else None
        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Add a point to every curve."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write out the events."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run, one a run folder: a resumed run goes on in the same one."""

    def __init__(self, config: TrainConfig) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=config.tracking.wandb_project,
            name=config.out.name,
            id=hashlib.sha256(str(config.out.resolve()).encode()).hexdigest()[:16],
            dir=config.out,
            config=to_dict(config),
            resume="allow",
        )

    def log(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Send the values."""
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_trackers(config: TrainConfig, resumed_step: int) -> list[Tracker]:
    """Return the trackers that the config asks for, metrics.jsonl first."""
    trackers: list[Tracker] = [MetricsFile(config.out / METRICS_FILE, resumed_step)]
    if config.tracking.tensorboard:
        trackers.append(TensorBoard(config.out / "tensorboard", resumed_step))
    if config.tracking.wandb:
        trackers.append(Wandb(config))
    return trackers


def read_metrics(path: Path, kind: Kind) -> list[dict[str, Any]]:
    """Return the rows of one kind; a last row that a killed process left half-written is passed over."""
    return [row for row in _rows(path) if row["kind"] == kind]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _truncate(path: Path, resumed_step: int) -> None:
    """Drop what a run that resumes at a step will do again: later steps, and the validation of this one."""
    last = {"train": resumed_step, "validation": resumed_step - 1}
    kept = [row for row in _rows(path) if row["step"] <= last[row["kind"]]]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
