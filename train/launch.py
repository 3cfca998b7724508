"""Where a run executes: in this process, or as a job of Slurm (or of submitit's local stand-in) that resumes itself.

A job has one process a GPU, each of them a task of Slurm's own, so that signals reach all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.errors import ClipmedError, ConfigError
from clipmed.jobs import JobsConfig, make_executor
from train.config import TrainConfig, check_runnable
from train.requeue import requeue_stopped_job
from train.signals import StoppedBySignalError, StopSignals
from train.tracking import METRICS_FILE

POLL_DELAY_S = 1.0
SETTLE_S = 10.0
TAIL_BYTES = 64 << 10
JOB_NAME = "train"
FIRST_PORT, NUM_PORTS = 20_000, 12_000  # below those that systems hand out by themselves
INTERRUPTED_STATUS = 130


def launch(config: TrainConfig) -> Path:
    """Train here, or submit the run as a job and wait for it; return the model folder.

    Raises:
        StoppedBySignalError: the run, here or as a job, was told to stop, and saved its state.
        ConfigError, ClipmedError: it failed.
        SystemExit: Ctrl-C while waiting for a Slurm job, which goes on without this process.
    """
    if config.jobs.executor == "inline":
        from train.loop import train

        return train(config)
    check_runnable(config, num_processes(config.jobs))
    executor = make_executor(config.jobs, JOB_NAME, processes_per_node(config.jobs))
    if config.jobs.executor == "slurm":
        # Given twice, the same command waits for its first job instead of writing into the same folder.
        executor.update_parameters(name=job_name(config.out), slurm_dependency="singleton")
    job = executor.submit(TrainJob(config=config))
    paths = job.task(0).paths
    tqdm.write(f"job {job.job_id}, log {paths.stdout}, errors {paths.stderr}", file=sys.stderr)
    try:
        _follow(job, config.out)
    except KeyboardInterrupt:
        if config.jobs.executor != "slurm":  # the job got the Ctrl-C as well
            raise
        tqdm.write(
            f"job {job.job_id} goes on without this command. Follow it: tail -f {paths.stderr}; "
            f"end it, saved first: scancel {job.job_id}",
            file=sys.stderr,
        )
        raise SystemExit(INTERRUPTED_STATUS) from None
    return config.out / "model"


def processes_per_node(jobs: JobsConfig) -> int:
    """Return how many processes train on each node: as many as asked for, or one a GPU, or one."""
    return jobs.processes_per_node or max(1, jobs.gpus_per_node)


def num_processes(jobs: JobsConfig) -> int:
    """Return how many processes a job trains with."""
    return jobs.nodes * processes_per_node(jobs)


def job_name(out: Path) -> str:
    """Return the name of a run folder's Slurm jobs, which no other folder's have."""
    digest = hashlib.sha256(str(out.resolve()).encode()).hexdigest()
    return f"{JOB_NAME}_{out.name}_{digest[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """The run as submitit calls it, once in each process. Preempted or out of time, it is requeued and goes on."""

    config: TrainConfig

    def __call__(self) -> str:
        """Train; return the model folder.

        Raises:
            StoppedBySignalError: in the first process, where the job has ended with the signal.
            SystemExit: after a signal, in all others, and where the job will run again. submitit then writes no
                result, which would say that the job has ended.
        """
        import submitit

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            os.environ.update(process_group_variables(environment))
        # Instead of submitit's handlers: those ignore SIGTERM, and requeue without asking the run to save.
        with StopSignals():
            from train.loop import train

            try:
                return str(train(replace(self.config, jobs=replace(self.config.jobs, executor="inline"))))
            except StoppedBySignalError as stop:
                if environment.global_rank > 0:
                    raise SystemExit(0) from None
                _run_again_if_due(environment.cluster, stop)
                raise

    def checkpoint(self) -> Any:
        """Return what submitit requeues after a signal in the first seconds, before `__call__`: the same run."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def process_group_variables(environment: Any) -> dict[str, str]:
    """Return the environment variables through which a job's processes find each other, as torchrun sets them.

    Args:
        environment: submitit's `JobEnvironment` of this process.
    """
    return {
        "MASTER_ADDR": environment.hostnames[0],
        "MASTER_PORT": str(FIRST_PORT + int(environment.raw_job_id) % NUM_PORTS),
        "RANK": str(environment.global_rank),
        "WORLD_SIZE": str(environment.num_tasks),
        "LOCAL_RANK": str(environment.local_rank),
        "LOCAL_WORLD_SIZE": str(environment.num_tasks // environment.num_nodes),
    }


def _run_again_if_due(cluster: str, stop: StoppedBySignalError) -> None:
    """Leave the process where the stopped job runs again; return where it has ended."""
    if cluster == "slurm":
        if requeue_stopped_job(stop.name):
            tqdm.write(f"train: {stop}; the job is requeued", file=sys.stderr)
            raise SystemExit(0)
        return
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    if stop.name in ("SIGUSR1", "SIGUSR2"):
        tqdm.write(f"train: {stop}; the job starts again", file=sys.stderr)
        raise SystemExit(LOCAL_REQUEUE_RETURN_CODE)


def _follow(job: Any, out: Path) -> None:
    """Show the job's state and newest loss until it ends; a job that is preempted or requeued has not ended.

    Raises:
        StoppedBySignalError: the job was told to stop.
        ConfigError, ClipmedError: the job failed; with the last lines of its errors.
    """
    shown = ""
    while not _has_ended(job):
        row = _newest_row(out / METRICS_FILE)
        state = f"job {job.job_id} {job.state}" + (f": step {row['step']}, loss {row['loss']:.3f}" if row else "")
        if state != shown:
            tqdm.write(state, file=sys.stderr)
            shown = state
        time.sleep(POLL_DELAY_S)
    error = _error_of(job)
    if error is None:
        return
    stop = StoppedBySignalError.read_from(str(error), out)
    if stop is not None:
        raise stop
    paths = job.task(0).paths
    text = paths.stderr.read_text(encoding="utf-8", errors="replace") if paths.stderr.exists() else str(error)
    last = "\n".join(text.strip().splitlines()[-40:])
    kind = ConfigError if "ConfigError" in last else ClipmedError
    raise kind(f"job {job.job_id} failed; the end of {paths.stderr}:\n{last}")


def _has_ended(job: Any) -> bool:
    """Whether the first process left a result, or Slurm says twice that the job is over.

    Once is not enough: a job can count as cancelled or completed for a moment, before it waits in the queue again.
    """
    first = job.task(0)
    if not first.done():
        return False
    if first.paths.result_pickle.exists():
        return True
    time.sleep(SETTLE_S)
    job.watcher.clear()
    return bool(first.done(force_check=True))


def _error_of(job: Any) -> Exception | None:
    """Return what went wrong in the first process that says so, or else in the first process."""
    import submitit

    first: Exception | None = job.task(0).exception()
    if first is None or isinstance(first, submitit.core.utils.FailedJobError):
        return first
    told = [job.task(rank) for rank in range(job.num_tasks) if job.task(rank).paths.result_pickle.exists()]
    errors = (task.exception() for task in told)
    return next((error for error in errors if error is not None), first)


def _newest_row(path: Path) -> dict[str, Any] | None:
    """Return the last whole row of the training log, from the file's end alone."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = stream.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    whole = (line for line in reversed(lines) if line.startswith(b"{") and line.endswith(b"}\n"))
    rows: list[dict[str, Any]] = [json.loads(line) for line in whole]
    return next((row for row in rows if row["kind"] == "train" and row["loss"] is not None), None)
