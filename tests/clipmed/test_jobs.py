"""The executor switch: the same results from every kind that runs without a cluster."""

import os
from functools import partial

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


def test_workers_are_validated():
    with pytest.raises(ConfigError, match="workers: got 0"):
        JobsConfig(workers=0)
