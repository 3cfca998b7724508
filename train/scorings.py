"""One scoring of a checkpoint: the command, and the process or the job that runs it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from clipmed.files import write_text
from clipmed.jobs import make_executor
from train.config import TrainConfig

SCORES_FILE = "scores.json"
LOG_FILE = "log.txt"
JOB_FILE = "job.txt"
LOCK_FILE = ".lock"
WORK_FOLDER = "work"

CHECKOUT = Path(__file__).resolve().parents[1]
JOB_NAME = "score"
NICENESS = 10
STOP_TIMEOUT_S = 10.0
# What torchrun tells a process of a group; the scoring is a process alone.
GROUP_VARIABLES = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


class Scoring(Protocol):
    """A scoring that was started."""

    def ended(self) -> bool:
        """Return whether it has ended, well or not."""

    def stop(self) -> None:
        """End it, where it would not outlive the run in good order."""


def start_scoring(config: TrainConfig, model: Path, folder: Path) -> Scoring | None:
    """Begin to score a model into a folder; return None while one goes on whose run was killed.

    Raises:
        OSError, RuntimeError, ValueError: the process or the job cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = scoring_command(config, model, folder)
    if config.score.executor == "slurm":
        job = _submit(config, "slurm", command, folder)
        write_text(folder / JOB_FILE, f"{job.job_id}\n")
        return _SubmittedJob(job, outlives=True)
    if config.score.executor == "submitit-local":
        return _SubmittedJob(_submit(config, "submitit-local", command, folder), outlives=False)
    niceness = NICENESS if config.score.executor == "background" else 0
    return _start_process(command, folder / LOG_FILE, folder.parent / LOCK_FILE, niceness)


def submitted_scoring(config: TrainConfig, folder: Path) -> Scoring | None:
    """Return the Slurm job that an earlier start of the run submitted for a folder, if there is one."""
    path = folder / JOB_FILE
    if not path.exists():
        return None
    import submitit

    job: Any = submitit.SlurmJob(folder=config.jobs.logs / JOB_NAME, job_id=path.read_text(encoding="utf-8").strip())
    return _SubmittedJob(job, outlives=True)


def scoring_command(config: TrainConfig, model: Path, folder: Path) -> list[str]:
    """Return the command that scores a model into a folder, with absolute paths."""
    sets = config.score.sets or config.data.sets
    suite = str(config.score.suite)
    return [
        *(sys.executable, "-m", "zeroshot_eval", "score", str(model.resolve())),
        *("--suite", str(Path(suite).resolve()) if suite.endswith((".yaml", ".yml")) else suite),
        *("--sets", *map(_absolute, sets)),
        *("--out", str(folder.resolve())),
        *("--cache", str((folder / WORK_FOLDER / "embeddings").resolve())),
        *("--device", _device(config)),
    ]


@dataclass(frozen=True, slots=True)
class _Process:
    """A scoring on this machine."""

    process: subprocess.Popen[bytes]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True, slots=True)
class _SubmittedJob:
    """A scoring as a job of submitit; one of Slurm goes on without the run."""

    job: Any
    outlives: bool

    def ended(self) -> bool:
        try:
            return bool(self.job.done())
        except (OSError, RuntimeError, subprocess.SubprocessError):  # the scheduler may answer the next time
            return False

    def stop(self) -> None:
        if not self.outlives:
            self.job.cancel(check=False)


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """The scoring as submitit calls it on a node."""

    command: Sequence[str]
    log: Path

    def __call__(self) -> None:
        """Run the command from the checkout; raises CalledProcessError where it fails."""
        with self.log.open("wb") as log:
            subprocess.run(
                self.command, cwd=CHECKOUT, env=_environment(), stdout=log, stderr=subprocess.STDOUT, check=True
            )


def _submit(
    config: TrainConfig, executor: Literal["slurm", "submitit-local"], command: Sequence[str], folder: Path
) -> Any:
    jobs = replace(config.jobs, executor=executor, nodes=1, gpus_per_node=min(1, config.jobs.gpus_per_node), workers=1)
    return make_executor(jobs, JOB_NAME).submit(ScoringJob(tuple(command), folder.resolve() / LOG_FILE))


def _start_process(command: Sequence[str], log_path: Path, lock_path: Path, niceness: int) -> _Process | None:
    """Start a scoring on this machine, or return None while one goes on whose run was killed.

    The started process alone keeps the lock, until it ends.
    """
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks: at worst a step is scored twice
            pass
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C is for the run, which ends this one itself
            )
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
    return _Process(process)


def _environment() -> dict[str, str]:
    """Return the environment without what makes a process one of a training group."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in GROUP_VARIABLES and not name.startswith("TORCHELASTIC_")
    }


def _device(config: TrainConfig) -> str:
    """Return where to embed: on a GPU where the scoring has one for itself."""
    if config.score.executor == "slurm":
        return "cuda" if config.jobs.gpus_per_node else "cpu"
    if config.score.executor == "wait" and config.device != "cpu":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cpu"


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).resolve())
