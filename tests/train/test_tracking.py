"""Where the numbers and pictures of a run go: files, TensorBoard, Weights & Biases, the console, the profiler."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmed.configuration import save_yaml
from train.config import TrainConfig
from train.profile import profiler
from train.recipes import recipe
from train.samples import SampleSheet, ShownSample
from train.tracking import MetricsFile, TensorBoard, Trackers, open_trackers, postfix, read_metrics

ROOT = Path(__file__).parents[2]


def make_sheet(step: int, count: int = 3) -> SampleSheet:
    pixels = np.random.default_rng(step).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    samples = (ShownSample(caption="a red square", source="phantom_squares", tokens=5),) * count
    return SampleSheet(step=step, pixels=pixels, samples=samples)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_not_known_or_not_finite_is_null(tmp_path: Path) -> None:
    tracker = MetricsFile(tmp_path / "metrics.jsonl", 0)
    tracker.log("train", 1, {"mfu": None, "loss": float("nan"), "lr": 0.5})
    tracker.close()
    row = {"kind": "train", "step": 1, "mfu": None, "loss": None, "lr": 0.5}
    assert rows_of(tmp_path / "metrics.jsonl") == [row]


def test_a_resumed_run_drops_what_it_does_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [("train", 4), ("scores", 2), ("validation", 4), ("train", 5), ("scores", 4), ("scores", 6)]
    path.write_text(
        "".join(json.dumps({"kind": kind, "step": step}) + "\n" for kind, step in rows) + '17\n{"kind": "tr'
    )
    tracker = MetricsFile(path, 4)
    tracker.log("validation", 4, {"loss": 1.0})
    tracker.close()
    assert [(row["kind"], row["step"]) for row in rows_of(path)] == [
        *(("train", 4), ("scores", 2), ("scores", 4), ("validation", 4))
    ]


def test_rows_are_read_by_kind_past_a_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "scores", "step": 1, "overall": 0.5}\n{"kind": "train", "step": 2}\n{"kind": "sc\xff')
    assert read_metrics(path, "scores") == [{"kind": "scores", "step": 1, "overall": 0.5}]
    assert read_metrics(tmp_path / "nothing.jsonl", "train") == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond so many bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log_steps(trackers: Trackers, count: int) -> None:
    for step in range(count):
        trackers.log("train", step, {"loss": 1.0})


def test_a_full_disk_is_warned_of_once_and_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    trackers = Trackers([MetricsFile(path, 0)])
    with largest_file(100), pytest.warns(UserWarning, match="MetricsFile cannot be written .*training goes on") as seen:
        log_steps(trackers, 10)
    assert len(seen) == 1
    trackers.log("train", 10, {"loss": 1.0})
    trackers.close()
    assert [row["step"] for row in rows_of(path)] == list(range(11))


def events_of(folder: Path) -> list[Any]:
    """Read TensorBoard's records: length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    data, place, events = path.read_bytes(), 0, []
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        events.append(Event.FromString(data[place + 12 : place + 12 + size]))
        place += size + 16
    return events


def test_tensorboard_gets_curves_scores_and_samples(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path, 0)
    tracker.log("train", 10, {"loss": 2.5, "mfu": None})
    tracker.log("scores", 4, {"overall": 0.25})
    tracker.show(make_sheet(10))
    tracker.close()
    found = {
        value.tag: (event.step, value.simple_value) for event in events_of(tmp_path) for value in event.summary.value
    }
    assert found["train/loss"] == (10, 2.5)
    assert found["scores/overall"] == (4, 0.25)
    assert "train/mfu" not in found
    assert {"samples", "captions/text_summary"} <= found.keys()


WANDB_PROGRAM = """
import sys
from pathlib import Path
from clipmed.configuration import load_yaml
from tests.train.test_tracking import make_sheet
from train.config import TrainConfig
from train.tracking import Wandb
tracker = Wandb(load_yaml(TrainConfig, Path(sys.argv[1])))
tracker.log("train", 10, {"loss": 2.5, "mfu": None})
tracker.log("scores", 4, {"overall": 0.25})
tracker.show(make_sheet(10))
tracker.close()
"""


def run_wandb(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Report to Weights & Biases in a process of its own; nobody is logged in there."""
    save_yaml(replace(recipe("demo_smoke"), out=out), out / "config.yaml")
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-c", WANDB_PROGRAM, str(out / "config.yaml")],
        cwd=ROOT,
        env=known | {"HOME": str(out), "WANDB_SILENT": "true"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_kept_offline(out: Path) -> None:
    (log,) = out.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"train/loss" in content
    assert b"scores/overall" in content
    assert b"train/mfu" not in content
    assert len(list(out.glob("wandb/offline-run-*/files/media/images/*"))) == 3


def test_wandb_gets_late_scores_and_samples_offline(tmp_path: Path) -> None:
    done = run_wandb(tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert_kept_offline(tmp_path)


def test_without_its_server_wandb_is_kept_offline(tmp_path: Path) -> None:
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2"}
    done = run_wandb(tmp_path, **nobody)
    assert done.returncode == 0, done.stderr
    assert "Weights & Biases cannot be reached" in done.stderr
    assert_kept_offline(tmp_path)


def test_wandb_without_a_login_is_wrong_usage(tmp_path: Path) -> None:
    done = run_wandb(tmp_path)
    assert "ConfigError: tracking.wandb: No API key configured" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr


def test_the_config_chooses_the_trackers(tmp_path: Path) -> None:
    base = recipe("demo_smoke")
    config: TrainConfig = replace(base, out=tmp_path, tracking=replace(base.tracking, tensorboard=True))
    trackers = open_trackers(config, 0)
    trackers.log("train", 1, {"loss": 1.0})
    trackers.show(make_sheet(1))
    trackers.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["metrics.jsonl", "samples", "tensorboard"]
    Trackers().log("train", 1, {"loss": 1.0})


def test_the_console_shows_what_is_known() -> None:
    values = {"loss": 2.34567, "logit_scale": 14.28, "mfu": 0.456, "data_wait": 0.031, "lr": 1e-3}
    assert postfix(values) == {"loss": "2.346", "scale": "14.3", "MFU": "46%", "data wait": "3%"}
    assert postfix({"loss": 2.0, "mfu": None}) == {"loss": "2.000"}


def profiled(out: Path, num_steps: int, rank: int, done: int) -> None:
    with profiler(num_steps, out, rank) as tracer:
        for _ in range(done):
            torch.ones(16, 16) @ torch.ones(16, 16)
            tracer.step()


def test_the_profiler_traces_the_steps_after_the_third(tmp_path: Path) -> None:
    profiled(tmp_path, 2, 0, 8)
    assert sorted(entry.name for entry in (tmp_path / "profile").iterdir()) == ["operators.txt", "trace.json.gz"]
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as stream:
        names = [event.get("name", "") for event in json.load(stream)["traceEvents"]]
    assert sorted({name for name in names if name.startswith("ProfilerStep#")}) == ["ProfilerStep#3", "ProfilerStep#4"]
    assert "aten::mm" in (tmp_path / "profile" / "operators.txt").read_text()


@pytest.mark.parametrize(("num_steps", "rank", "done"), [(0, 0, 6), (2, 1, 6), (2, 0, 0)])
def test_no_trace_where_none_is_due(tmp_path: Path, num_steps: int, rank: int, done: int) -> None:
    profiled(tmp_path, num_steps, rank, done)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_early_leaves_the_trace_of_what_it_did(tmp_path: Path) -> None:
    profiled(tmp_path, 5, 0, 5)
    assert (tmp_path / "profile" / "trace.json.gz").exists()
