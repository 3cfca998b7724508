"""What a run folder tells of its run: settings, numbers by step, checkpoints, skipped samples, and how it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from clipmed.configuration import load_yaml
from clipmed.files import write_json
from train.config import TrainConfig
from train.tracking import METRICS_FILE, Kind, json_rows, read_metrics

CONFIG_FILE = "config.yaml"
STATUS_FILE = "status.json"
SKIPPED_FILES = "skipped*.jsonl"  # one of each process
REFUSED_FILES = "*_step_*_rank_0.json"
RECENT_ROWS = 10


def skipped_file(rank: int) -> str:
    """Return the name of a process's list of bad samples that others stand for."""
    return "skipped.jsonl" if rank == 0 else f"skipped_rank_{rank}.jsonl"


State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What neither the settings nor the log hold. `shares` is the share of each source that the stream plans."""

    device: str
    processes: int
    parameters: int
    samples: int
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How a run stands, in its own words. A killed run leaves `running` behind; its log then falls silent."""

    state: State
    reason: str = ""
    facts: RunFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEntry:
    """A checkpoint on disk; `is_best` by `checkpoint.best_metric`."""

    step: int
    saved: datetime
    size: int
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """A run folder, read. Rows are those of metrics.jsonl, in order of their steps, one a step.

    `skipped` are samples that others stand for, `refused` steps that the guard did not let change the weights.
    """

    out: Path
    config: TrainConfig
    status: RunStatus
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    checkpoints: list[CheckpointEntry]
    skipped: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    logged: datetime | None

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((row["step"] for row in (*self.train, *self.validation)), default=0)

    @property
    def sources(self) -> list[str]:
        """Sources that were planned or seen, those that were seen most first."""
        planned = self.status.facts.shares if self.status.facts else {}
        seen = {name.partition("/")[2] for row in self.train for name in row if name.startswith("share/")}
        shares = {name: self.realised_share(name) or 0.0 for name in {*planned, *seen}}
        return sorted(shares, key=lambda name: (-shares[name], name))

    def points(self, kind: Kind, name: str) -> list[tuple[float, float]]:
        """Return the (step, value) points of one curve; values that are not known are left out."""
        rows: list[dict[str, Any]] = getattr(self, kind)
        return [(row["step"], row[name]) for row in rows if row.get(name) is not None]

    def recent(self, name: str) -> float | None:
        """Return the mean of a training value over its last rows, or None where it was never logged."""
        values = [value for _, value in self.points("train", name)[-RECENT_ROWS:]]
        return sum(values) / len(values) if values else None

    def realised_share(self, source: str) -> float | None:
        """Return the share of a source in all batches so far."""
        values = [value for _, value in self.points("train", f"share/{source}")]
        return sum(values) / len(self.train) if values else None

    def seconds_trained(self) -> float:
        """Return how long the logged steps took, without what lies between runs and between steps."""
        seconds, before = 0.0, 0
        for step, rate in self.points("train", "pairs_per_s"):
            seconds += (step - before) * self.config.data.batch_size / max(rate, 1e-9)
            before = int(step)
        return seconds

    def seconds_left(self) -> float | None:
        """Return how long the steps that are left take at the recent rate, or None before the first row."""
        rate = self.recent("pairs_per_s")
        pairs = (self.config.optim.steps - self.step) * self.config.data.batch_size
        return pairs / rate if rate else None


def write_status(out: Path, status: RunStatus) -> None:
    """Write how the run stands, atomically."""
    write_json(out / STATUS_FILE, asdict(status))


def read_history(out: Path) -> RunHistory:
    """Read a run folder.

    Raises:
        ConfigError: it holds no config.yaml of a run.
    """
    config = load_yaml(TrainConfig, out / CONFIG_FILE)
    metrics = out / METRICS_FILE
    return RunHistory(
        out=out,
        config=config,
        status=_read_status(out),
        train=_one_a_step(metrics, "train"),
        validation=_one_a_step(metrics, "validation"),
        scores=_one_a_step(metrics, "scores"),
        checkpoints=_checkpoints(out / "checkpoints"),
        skipped=_skipped(out),
        refused=_refused(out),
        logged=_modified(metrics) if metrics.exists() else None,
    )


def _read_status(out: Path) -> RunStatus:
    values = _read_json(out / STATUS_FILE)
    if not values:
        return RunStatus(state="finished" if (out / "model").is_dir() else "running")
    facts = values.pop("facts")
    return RunStatus(**values, facts=RunFacts(**facts) if facts else None)


def _one_a_step(metrics: Path, kind: Kind) -> list[dict[str, Any]]:
    """Return the rows by step; of several for one step the last one counts."""
    rows: dict[int, dict[str, Any]] = {}
    for row in read_metrics(metrics, kind):
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def _skipped(out: Path) -> list[dict[str, Any]]:
    rows = [row for path in sorted(out.glob(SKIPPED_FILES)) for row in json_rows(path)]
    # A run that was killed and goes on meets the same bad samples again.
    distinct = {json.dumps(row, sort_keys=True): row for row in rows}.values()
    return sorted(distinct, key=lambda row: int(row.get("step", 0)))


def _refused(out: Path) -> list[dict[str, Any]]:
    """Return what rank 0 wrote of each refused step, with the name of the file."""
    rows = [_read_json(path) | {"file": path.name} for path in out.glob(REFUSED_FILES)]
    return sorted(rows, key=lambda row: int(row["step"]))


def _checkpoints(folder: Path) -> list[CheckpointEntry]:
    best = _read_json(folder / "best.json")
    entries = []
    for path in sorted(folder.glob("step_*/state.json")):
        step = int(path.parent.name.removeprefix("step_"))
        try:
            size = sum(member.stat().st_size for member in path.parent.rglob("*") if member.is_file())
            saved = _modified(path)
        except FileNotFoundError:  # removed by the run in this moment
            continue
        entries.append(CheckpointEntry(step=step, saved=saved, size=size, is_best=best.get("step") == step))
    return entries


def _read_json(path: Path) -> dict[str, Any]:
    values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(values)


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
