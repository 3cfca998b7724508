"""Runs told to stop: what is taken note of, what is saved, and that the same command ends with the same weights."""

from __future__ import annotations

import os
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
from tests.train.conftest import make_config
from train.config import TrainConfig
from train.launch import TrainJob, job_name, num_processes, process_group_variables
from train.loop import train
from train.requeue import Fate, fate_of_job
from train.signals import StoppedBySignalError, StopSignals
from train.tracking import read_metrics

REPOSITORY = Path(__file__).parents[2]
STEPS = 40
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def long_config(shard_set: Path, model_json: Path, folder: Path) -> TrainConfig:
    """A run that is long enough to be stopped, and saves only when it is told to stop, and at its end."""
    base = make_config(shard_set, model_json, folder)
    return replace(
        base,
        optim=replace(base.optim, steps=STEPS),
        checkpoint=replace(base.checkpoint, every_steps=10 * STEPS),
        validate=replace(base.validate, every_steps=0),
        tracking=replace(base.tracking, page=False),
    )


@pytest.fixture
def config(shard_set: Path, model_json: Path, tmp_path: Path) -> TrainConfig:
    return long_config(shard_set, model_json, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shard_set: Path, model_json: Path) -> TrainConfig:
    """A run that was never told to stop."""
    config = long_config(shard_set, model_json, tmp_path_factory.mktemp("whole"))
    train(config)
    return config


def losses(out: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(out / "metrics.jsonl", "train")}


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = (load_file(out / "model" / "open_clip_model.safetensors") for out in (first, second))
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def checkpoint_steps(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (out / "checkpoints").glob("step_*"))


@contextmanager
def started(config: TrainConfig, *launcher: str) -> Iterator[subprocess.Popen[str]]:
    """Start the run as a user would; end it with the test."""
    path = config.out.with_suffix(".yaml")
    save_yaml(config, path)
    process = subprocess.Popen(
        [*(launcher or (sys.executable, "-m")), "train", str(path)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def wait_for_steps(config: TrainConfig, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged some steps; the suite's timeout ends a wait that is in vain."""
    while not losses(config.out):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def test_a_signal_is_noted_and_the_handlers_before_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    with StopSignals() as signals:
        assert signals.code == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.name_of(signals.code) == "SIGUSR1"
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signals.name_of(signals.code) == "SIGTERM"
    assert before == {number: signal.getsignal(number) for number in before}


def test_a_signal_before_the_run_began_still_stops_it() -> None:
    with StopSignals() as outer:
        os.kill(os.getpid(), signal.SIGUSR2)
        with StopSignals() as inner:
            assert inner.code == outer.code > 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.name_of(outer.code) == "SIGTERM"


def test_ctrl_c_twice_interrupts() -> None:
    with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.name_of(signals.code) == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)


def test_the_message_of_a_stopped_run_is_read_back_from_a_jobs_errors(tmp_path: Path) -> None:
    stop = StoppedBySignalError("SIGTERM", 12, tmp_path)
    found = StoppedBySignalError.read_from(f"Traceback …\ntrain.signals.StoppedBySignalError: {stop}\n", tmp_path)
    assert str(found) == str(stop)
    assert StoppedBySignalError.read_from("ValueError: stopped", tmp_path) is None


# What Slurm 22.05 says of a job from inside, at the moment of the signal.
RUNNING = "JobState=RUNNING Reason=None Requeue=1 Restarts=0 EndTime=Unknown PreemptTime=None"
IN_GRACE_TIME = "JobState=RUNNING Reason=None Requeue=1 Restarts=0 EndTime=Unknown PreemptTime=2026-11-23T02:54:03"
PREEMPTED = "JobState=COMPLETING Reason=None Requeue=1 Restarts=1 EndTime=Unknown SuspendTime=None"
CANCELLED = "JobState=COMPLETING Reason=None Requeue=1 Restarts=0 EndTime=2026-11-23T02:54:50 PreemptTime=None"


@pytest.mark.parametrize(
    ("name", "job", "restarts", "fate"),
    [
        ("SIGUSR1", RUNNING, 0, "requeue"),
        ("SIGUSR2", RUNNING, 0, "requeue"),
        ("SIGTERM", IN_GRACE_TIME, 0, "requeue"),
        ("SIGTERM", PREEMPTED, 0, "requeued"),
        ("SIGTERM", RUNNING, 0, "ended"),
        ("SIGINT", RUNNING, 0, "ended"),
        ("SIGTERM", CANCELLED, 0, "ended"),
        ("SIGUSR2", CANCELLED, 0, "ended"),
        ("SIGTERM", CANCELLED.replace("Restarts=0", "Restarts=3"), 3, "ended"),
        ("SIGTERM", PREEMPTED.replace("Restarts=1", "Restarts=4"), 3, "requeued"),
    ],
)
def test_what_becomes_of_a_stopped_job(name: str, job: str, restarts: int, fate: Fate) -> None:
    assert fate_of_job(name, job, restarts) == fate


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_same_command_ends_with_the_same_weights(
    finished: TrainConfig, config: TrainConfig, name: str
) -> None:
    loading = replace(config, data=replace(config.data, workers=1))
    with started(loading) as process:
        wait_for_steps(config, process)
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate()
    assert process.returncode == 75, errors
    steps = list(losses(config.out))
    assert steps[-1] < STEPS
    assert checkpoint_steps(config.out) == [steps[-1]]
    assert f"stopped by {name}: {config.out} is saved at step {steps[-1]}" in errors
    with started(loading) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert_same_weights(config.out, finished.out)
    assert losses(config.out) == losses(finished.out)


@pytest.mark.slow
@pytest.mark.parametrize("receiver", ["torchrun", "one of its processes"])
def test_a_signal_to_torchrun_or_one_process_stops_all_at_the_same_step(
    finished: TrainConfig, config: TrainConfig, receiver: str
) -> None:
    with started(config, *TORCHRUN) as process:
        wait_for_steps(config, process)
        if receiver == "torchrun":
            process.send_signal(signal.SIGTERM)
        else:
            os.kill(children(process.pid)[-1], signal.SIGUSR1)
        _, errors = process.communicate()
    last = max(losses(config.out))
    assert last < STEPS, errors
    assert checkpoint_steps(config.out) == [last]
    with started(config, *TORCHRUN) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert losses(config.out) == pytest.approx(losses(finished.out), rel=1e-4)


def submitted(config: TrainConfig, **jobs: Any) -> TrainConfig:
    logs = config.out.with_name("jobs")
    return replace(config, jobs=JobsConfig(executor="submitit-local", logs=logs, timeout_min=5, **jobs))


def test_a_job_that_is_told_to_make_room_starts_again_by_itself(finished: TrainConfig, config: TrainConfig) -> None:
    with started(submitted(config)) as process:
        wait_for_steps(config, process)
        (controller,) = children(process.pid)
        (task,) = children(controller)
        os.kill(task, signal.SIGUSR2)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    (log,) = config.out.with_name("jobs").glob("train/*_log.err")
    assert "stopped by SIGUSR2" in log.read_text()
    assert_same_weights(config.out, finished.out)


def test_a_job_that_is_ended_says_that_it_is_saved(config: TrainConfig) -> None:
    with started(submitted(config)) as process:
        wait_for_steps(config, process)
        (controller,) = children(process.pid)
        (task,) = children(controller)
        os.kill(task, signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert f"{config.out} is saved at step {max(losses(config.out))}; the same command goes on" in errors
    assert checkpoint_steps(config.out) == [max(losses(config.out))]


@pytest.mark.slow
def test_a_jobs_processes_train_as_one(finished: TrainConfig, config: TrainConfig) -> None:
    with started(submitted(config, processes_per_node=2)) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert losses(config.out) == pytest.approx(losses(finished.out), rel=1e-4)


class _Environment:
    """Of the second process on the second of two nodes with eight GPUs each."""

    hostnames = ("node7", "node9")
    raw_job_id = "1234567"
    global_rank = 9
    num_tasks = 16
    num_nodes = 2
    local_rank = 1


def test_processes_of_two_nodes_meet_on_the_first_at_a_port_of_the_jobs_own() -> None:
    assert process_group_variables(_Environment()) == {
        "MASTER_ADDR": "node7",
        "MASTER_PORT": "30567",
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
    }
    assert num_processes(JobsConfig(executor="slurm", nodes=2, gpus_per_node=8)) == 16
    assert num_processes(JobsConfig(executor="slurm", nodes=2)) == 2
    assert num_processes(JobsConfig(executor="slurm", nodes=2, gpus_per_node=8, processes_per_node=4)) == 8


def test_jobs_of_one_folder_have_a_name_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_name(Path("run")) == job_name(tmp_path / "run")
    assert job_name(Path("run")) != job_name(tmp_path / "other" / "run")


def test_what_submitit_requeues_by_itself_is_the_same_run(config: TrainConfig) -> None:
    job = TrainJob(config=config)
    assert job.checkpoint().function == job
