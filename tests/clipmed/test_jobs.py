"""The executor switch: the same results from every kind that runs without a cluster."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig, run_units


def fail_on_three(number: int) -> int:
    if number == 3:
        raise DivideError("three")
    return number


class DivideError(RuntimeError):
    pass


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_every_unit_runs_once(executor, tmp_path):
    jobs = JobsConfig(executor=executor, workers=2, logs=tmp_path)
    results = dict(run_units(abs, [-3, -2, -1], jobs, "squares"))
    assert results == {-3: 3, -2: 2, -1: 1}


def test_submitit_runs_the_same_function(tmp_path):
    jobs = JobsConfig(executor="submitit-local", workers=2, logs=tmp_path, timeout_min=2)
    assert dict(run_units(partial(pow, 2), [3, 4], jobs, "powers")) == {3: 8, 4: 16}


def test_processes_are_other_processes():
    ((_, link),) = run_units(os.readlink, ["/proc/self"], JobsConfig(workers=1), "pid")
    assert int(link) != os.getpid()


def test_a_units_error_reaches_the_caller():
    with pytest.raises(DivideError, match="three"):
        list(run_units(fail_on_three, [1, 2, 3, 4], JobsConfig(executor="inline"), "fail"))
    with pytest.raises(TypeError, match="bad operand"):
        list(run_units(abs, ["x"], JobsConfig(workers=1), "fail"))


ORPHANS = """
import sys, time
from clipmed.jobs import JobsConfig, run_units

if __name__ == "__main__":
    for _ in run_units(time.sleep, [0.05] * 10_000, JobsConfig(workers=2), "orphans"):
        print("running", flush=True)
"""


def test_kill_9_leaves_no_orphaned_workers(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with parent:
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        parent.kill()
    assert workers
    while any(is_running(worker) for worker in workers):  # the suite's timeout ends this
        time.sleep(0.05)


def is_running(process):
    """Whether a process exists and is not a zombie that waits to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("name", ["workers", "nodes", "processes_per_node", "signal_delay_s"])
def test_counts_are_validated(name):
    with pytest.raises(ConfigError, match=f"{name}: got 0; allowed: 1 or more"):
        JobsConfig(**{name: 0})


def test_this_machine_is_one_node():
    with pytest.raises(ConfigError, match="nodes: got 2 with executor 'submitit-local'"):
        JobsConfig(executor="submitit-local", nodes=2)
