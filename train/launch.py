"""Where a run executes: in this process, or as a job of Slurm (or of submitit's local stand-in) that resumes itself."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.configuration import save_yaml
from clipmed.errors import ClipmedError, ConfigError
from clipmed.jobs import JobsConfig, make_executor
from train.config import TrainConfig, check_runnable
from train.tracking import METRICS_FILE, read_metrics

POLL_DELAY_S = 1.0
MASTER_PORT = 29_500
JOB_NAME = "train"


def launch(config: TrainConfig) -> Path:
    """Train here, or submit the run as a job and wait for it; return the model folder."""
    if config.jobs.executor == "inline":
        from train.loop import train

        return train(config)
    check_runnable(config, num_processes(config.jobs))
    executor = make_executor(config.jobs, JOB_NAME)
    job = executor.submit(TrainJob(config=config))
    tqdm.write(f"job {job.job_id}, log {job.paths.stdout}, errors {job.paths.stderr}", file=sys.stderr)
    _follow(job, config.out)
    return config.out / "model"


def num_processes(jobs: JobsConfig) -> int:
    """Return how many processes a job trains with: one a GPU, or one on each node without."""
    return jobs.nodes * max(1, jobs.gpus_per_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """The run as submitit calls it on a node. Preempted or out of time, it is requeued and goes on."""

    config: TrainConfig

    def __call__(self) -> str:
        """Train, in this process where it is the only one; return the model folder."""
        jobs = self.config.jobs
        inline = replace(self.config, jobs=JobsConfig(executor="inline"))
        if num_processes(jobs) == 1:
            from train.loop import train

            return str(train(inline))
        import submitit

        environment = submitit.JobEnvironment()
        path = jobs.logs / JOB_NAME / f"{environment.job_id}_config.yaml"
        if environment.node == 0:
            save_yaml(inline, path)
        else:
            _wait_for(path)
        command = torchrun_command(jobs, environment.node, environment.hostnames[0], path)
        subprocess.run(command, check=True)
        return str(self.config.out / "model")

    def checkpoint(self) -> Any:
        """Return what submitit requeues: the same run, which finds its newest checkpoint by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def torchrun_command(jobs: JobsConfig, node: int, head: str, config: Path) -> list[str]:
    """Return the command that starts this node's processes.

    Args:
        jobs: nodes and GPUs.
        node: this node's number.
        head: host name of node 0.
        config: the run's config as YAML.
    """
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={jobs.nodes}",
        f"--node-rank={node}",
        f"--nproc-per-node={max(1, jobs.gpus_per_node)}",
        f"--master-addr={head}",
        f"--master-port={MASTER_PORT}",
        *("-m", "train", str(config)),
    ]


def _follow(job: Any, out: Path) -> None:
    """Show the job's state and newest loss until it ends.

    Raises:
        ConfigError, ClipmedError: the job failed; with the last lines of its errors.
    """
    shown = ""
    while not job.done():
        rows = read_metrics(out / METRICS_FILE, "train")
        state = f"job {job.job_id} {job.state}" + (
            f": step {rows[-1]['step']}, loss {rows[-1]['loss']:.3f}" if rows else ""
        )
        if state != shown:
            tqdm.write(state, file=sys.stderr)
            shown = state
        time.sleep(POLL_DELAY_S)
    error = job.exception()
    if error is not None:
        lines = (job.stderr() or str(error)).strip().splitlines()
        last = "\n".join(lines[-40:])
        kind = ConfigError if "ConfigError" in last else ClipmedError
        raise kind(f"job {job.job_id} failed; the end of {job.paths.stderr}:\n{last}")


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(POLL_DELAY_S)
