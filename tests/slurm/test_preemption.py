"""Runs on a real Slurm that are preempted, run out of time or are cancelled; `make test-slurm` starts one here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipmed.configuration import save_yaml
from clipmed.jobs import JobsConfig
from tests.train.conftest import make_config, make_set, model_json
from train.config import TrainConfig
from train.tracking import read_metrics

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode != 0,
        reason="no Slurm answers here; make test-slurm starts one",
    ),
]

REPOSITORY = Path(__file__).parents[2]
STEPS = 120
ALL_CORES = 4  # of the node that local_slurm.sh describes

__all__ = ["model_json"]  # a fixture


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, model_json: Path) -> TrainConfig:
    """A run that is long enough to be stopped, and saves only when it is told to stop, and at its end."""
    config = make_config(make_set(tmp_path_factory.mktemp("shards")), model_json, tmp_path_factory.mktemp("whole"))
    return replace(
        config,
        optim=replace(config.optim, steps=STEPS),
        checkpoint=replace(config.checkpoint, every_steps=10 * STEPS),
        validate=replace(config.validate, every_steps=0),
        tracking=replace(config.tracking, page=False),
    )


@pytest.fixture(scope="module")
def finished(base: TrainConfig) -> TrainConfig:
    """The run without Slurm, never stopped."""
    with started(base) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return base


@contextmanager
def started(config: TrainConfig) -> Iterator[subprocess.Popen[str]]:
    """Start the command as a user would; with the test, end it and its job."""
    path = config.out.with_suffix(".yaml")
    save_yaml(config, path)
    command = [sys.executable, "-m", "train", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the job's as well: sums in one order give equal bits
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        for job in job_numbers(config):
            subprocess.run(["scancel", "--quiet", "--signal=KILL", "--full", job], check=False)
            subprocess.run(["scancel", "--quiet", job], check=False)


def on_slurm(base: TrainConfig, folder: Path, **jobs: Any) -> TrainConfig:
    asked: dict[str, Any] = {"cpus_per_task": 2, "memory_gb": 3.0, "timeout_min": 20, "partition": "low"} | jobs
    return replace(base, out=folder / "run", jobs=JobsConfig(executor="slurm", logs=folder / "jobs", **asked))


def job_numbers(config: TrainConfig) -> list[str]:
    return sorted({path.name.split("_")[0] for path in (config.jobs.logs / "train").glob("*_submitted.pkl")})


def wait_for_steps(config: TrainConfig, process: subprocess.Popen[str], more_than: int = 0) -> str:
    """Wait until the job has logged some steps; return its number."""
    while max(losses(config.out), default=0) <= more_than:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    (number,) = job_numbers(config)
    return number


def losses(out: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(out / "metrics.jsonl", "train")}


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (out / "checkpoints").glob("step_*"))


def job_fields(number: str) -> dict[str, str]:
    shown = subprocess.run(["scontrol", "-o", "show", "job", number], check=True, capture_output=True, text=True)
    return dict(re.findall(r"(\w+)=(\S*)", shown.stdout))


def take_the_node() -> None:
    """Submit a job of higher priority that needs all cores for a moment, as another user would."""
    command = ["sbatch", "--partition=high", f"--cpus-per-task={ALL_CORES}", "--mem=100", "--output=/dev/null"]
    subprocess.run([*command, "--wrap", "sleep 1"], check=True, capture_output=True)


def assert_ended_like(finished: TrainConfig, config: TrainConfig) -> None:
    one, other = (load_file(run.out / "model" / "open_clip_model.safetensors") for run in (finished, config))
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert losses(config.out) == losses(finished.out)


@pytest.mark.parametrize("partition", ["low", "low_no_grace"])
def test_a_preempted_run_is_requeued_and_ends_with_the_same_weights(
    finished: TrainConfig, base: TrainConfig, tmp_path: Path, partition: str
) -> None:
    config = on_slurm(base, tmp_path, partition=partition)
    with started(config) as process:
        number = wait_for_steps(config, process)
        take_the_node()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert job_fields(number)["Restarts"] == "1"
    assert "stopped by SIGTERM" in (config.jobs.logs / "train" / f"{number}_0_log.err").read_text()
    assert_ended_like(finished, config)


def test_a_run_whose_time_ends_is_requeued_as_often_as_it_takes(
    finished: TrainConfig, base: TrainConfig, tmp_path: Path
) -> None:
    config = on_slurm(base, tmp_path)
    with started(config) as process:
        before = 0
        for name in ("USR2", "USR1", "USR2", "USR1", "USR2"):  # submitit alone gives up after the third
            number = wait_for_steps(config, process, before)
            subprocess.run(["scancel", f"--signal={name}", number], check=True)
            restarts = job_fields(number)["Restarts"]
            while job_fields(number)["Restarts"] == restarts:
                time.sleep(0.1)
            before = max(losses(config.out))
            assert before < STEPS
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert job_fields(number)["Restarts"] == "5"
    assert_ended_like(finished, config)


def test_a_time_limit_is_met_by_saving_and_going_on(base: TrainConfig, tmp_path: Path) -> None:
    # Slurm looks twice a minute, so that it tells the job half a minute after its start at the latest.
    endless = replace(base, optim=replace(base.optim, steps=100 * STEPS))
    config = on_slurm(endless, tmp_path, timeout_min=2, signal_delay_s=90)
    with started(config) as process:
        number = wait_for_steps(config, process)
        while job_fields(number)["Restarts"] == "0":
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        last = max(losses(config.out))
        assert saved_steps(config.out) == [last]
        wait_for_steps(config, process, last)
        steps = list(losses(config.out))
    assert steps == list(range(1, len(steps) + 1))


def test_a_cancelled_run_is_saved_and_stays_ended(base: TrainConfig, tmp_path: Path) -> None:
    config = on_slurm(base, tmp_path, slurm={"comment": "held_out"})
    with started(config) as process:
        number = wait_for_steps(config, process)
        assert job_fields(number)["Comment"] == "held_out"
        subprocess.run(["scancel", number], check=True)
        _, errors = process.communicate()
        assert process.returncode == 75, errors
        while job_fields(number)["JobState"] == "COMPLETING":
            time.sleep(0.1)
        fields = job_fields(number)
    last = max(losses(config.out))
    assert last < STEPS
    assert saved_steps(config.out) == [last]
    assert f"stopped by SIGTERM: {config.out} is saved at step {last}" in errors
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0")


def test_two_processes_of_a_job_stop_and_go_on_together(
    finished: TrainConfig, base: TrainConfig, tmp_path: Path
) -> None:
    config = on_slurm(base, tmp_path, processes_per_node=2, cpus_per_task=1)
    with started(config) as process:
        number = wait_for_steps(config, process)
        take_the_node()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        fields = job_fields(number)
        assert (fields["NumTasks"], fields["Restarts"]) == ("2", "1")
    assert losses(config.out) == pytest.approx(losses(finished.out), rel=1e-4)


def test_ctrl_c_leaves_the_job_running_and_the_same_command_waits_for_it(
    finished: TrainConfig, base: TrainConfig, tmp_path: Path
) -> None:
    config = on_slurm(base, tmp_path)
    with started(config) as process:
        number = wait_for_steps(config, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130, errors
        assert f"scancel {number}" in errors
        assert job_fields(number)["JobState"] == "RUNNING"
        with started(config) as again:
            _, errors = again.communicate()
            assert again.returncode == 0, errors
    assert_ended_like(finished, config)
