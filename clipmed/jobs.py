"""One switch between this process, local processes and a Slurm array: the same function over the same units."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from clipmed.errors import ConfigError

Unit = TypeVar("Unit")
Result = TypeVar("Result")

POLL_DELAY_S = 0.5
MAX_TIMEOUTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsConfig:
    """Where work runs: in this process, in local processes, or as Slurm jobs through submitit."""

    executor: Literal["inline", "processes", "slurm", "submitit-local"] = "processes"
    """inline: this process. processes: local ones. slurm: a job array. submitit-local: submitit without Slurm"""
    workers: int = 2
    """how many units run at once"""
    logs: Path = Path("build/jobs")
    """folder for submitit's logs and results; must be on a file system that the nodes share"""
    partition: str | None = None
    """Slurm partition; the cluster's default if not given"""
    cpus_per_task: int = 2
    """cores for each process of a job"""
    gpus_per_node: int = 0
    """GPUs for each node"""
    nodes: int = 1
    """nodes for each job"""
    processes_per_node: int | None = None
    """processes that a training run has on each node; one a GPU if not given, and one without GPUs"""
    memory_gb: float = 4.0
    """memory for each node, in GB"""
    timeout_min: int = 240
    """time limit of each job, in minutes; a job that reaches it is requeued and resumes"""
    signal_delay_s: int = 120
    """seconds before the time limit at which Slurm tells a job to save; longer than a step and a checkpoint take"""
    slurm: dict[str, str] = field(default_factory=dict)
    """more options of sbatch by their long names, as in --jobs.slurm account radiology qos long"""

    def __post_init__(self) -> None:
        for name in ("workers", "nodes", "processes_per_node", "signal_delay_s"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: got {value}; allowed: 1 or more")
        if self.executor == "submitit-local" and self.nodes > 1:
            raise ConfigError(
                f"nodes: got {self.nodes} with executor 'submitit-local', which is this machine; allowed: 1"
            )


def run_units(
    function: Callable[[Unit], Result], units: Sequence[Unit], config: JobsConfig, name: str
) -> Iterator[tuple[Unit, Result]]:
    """Run `function` on every unit and yield (unit, result) as each one ends, in any order.

    Args:
        function: importable by name (a module's function or a partial of one), since other processes run it.
        units: plain data, one element a call.
        config: where and how many at once.
        name: the jobs' name, as `squeue` shows it.

    Raises:
        Exception: the first error of a unit, after the other running ones have been cancelled where that is possible.
    """
    if config.executor == "inline":
        for unit in units:
            yield unit, function(unit)
    elif config.executor == "processes":
        yield from _run_processes(function, units, config)
    else:
        yield from _run_submitit(function, units, config, name)


def make_executor(config: JobsConfig, name: str, processes_per_node: int = 1) -> Any:
    """Return a submitit executor for the config: Slurm's, or the local one that runs the same code without Slurm.

    Args:
        config: what each job gets.
        name: the jobs' name and that of their folder of logs.
        processes_per_node: how often a job's function is called on each node, at the same time.
    """
    import submitit

    cluster = "slurm" if config.executor == "slurm" else "local"
    # submitit counts the time limits that a job reached. A job that saves its work may reach as many as it takes.
    executor = submitit.AutoExecutor(folder=config.logs / name, cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(
        name=name,
        timeout_min=config.timeout_min,
        nodes=config.nodes,
        tasks_per_node=processes_per_node,
        cpus_per_task=config.cpus_per_task,
        mem_gb=config.memory_gb,
        gpus_per_node=config.gpus_per_node,
        slurm_array_parallelism=config.workers,
    )
    if cluster == "slurm":
        _set_slurm_options(executor, config)
    return executor


def _set_slurm_options(executor: Any, config: JobsConfig) -> None:
    if config.partition:
        executor.update_parameters(slurm_partition=config.partition)
    executor.update_parameters(
        slurm_signal_delay_s=config.signal_delay_s,
        # Since Slurm 22.05 srun does not take over the batch job's cores. A process that failed must not leave the
        # others waiting for it.
        slurm_srun_args=[f"--cpus-per-task={config.cpus_per_task}", "--kill-on-bad-exit=1"],
        slurm_additional_parameters={"requeue": True} | config.slurm,
    )


def _run_processes(
    function: Callable[[Unit], Result], units: Sequence[Unit], config: JobsConfig
) -> Iterator[tuple[Unit, Result]]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        config.workers, mp_context=context, initializer=_end_with_parent
    ) as pool:
        futures = {pool.submit(function, unit): unit for unit in units}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: after a kill -9 nobody else would."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_submitit(
    function: Callable[[Unit], Result], units: Sequence[Unit], config: JobsConfig, name: str
) -> Iterator[tuple[Unit, Result]]:
    if not units:
        return
    jobs = make_executor(config, name).map_array(function, list(units))
    waiting = list(zip(units, jobs, strict=True))
    try:
        while waiting:
            ended = [(unit, job) for unit, job in waiting if job.done()]
            waiting = [pair for pair in waiting if pair not in ended]
            for unit, job in ended:
                yield unit, job.result()
            if waiting:
                time.sleep(POLL_DELAY_S)
    finally:
        for _, job in waiting:
            job.cancel()
