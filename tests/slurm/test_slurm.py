"""The road's steps on a real Slurm; `make test-slurm` starts one on this machine."""

import shutil
import subprocess
from functools import partial

import pytest

from clipmed.jobs import JobsConfig, run_units

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode != 0,
        reason="no Slurm answers here; make test-slurm starts one",
    ),
]


def test_units_run_as_a_job_array(tmp_path):
    jobs = JobsConfig(executor="slurm", workers=2, cpus_per_task=1, memory_gb=0.5, timeout_min=3, logs=tmp_path)
    assert dict(run_units(partial(pow, 2), [3, 4, 5], jobs, "powers")) == {3: 8, 4: 16, 5: 32}
    assert list(tmp_path.glob("powers/*_0_result.pkl"))


def test_a_units_error_names_the_cause(tmp_path):
    jobs = JobsConfig(executor="slurm", cpus_per_task=1, memory_gb=0.5, timeout_min=3, logs=tmp_path)
    with pytest.raises(Exception, match="bad operand type for abs"):
        list(run_units(abs, ["x"], jobs, "fail"))
