"""The road's steps on a real Slurm; `make test-slurm` starts one on this machine."""

import hashlib
import json
import shutil
import subprocess
from functools import partial

import pytest
from safetensors.torch import load_file

from clipmed.jobs import JobsConfig, run_units
from dataset_builders.__main__ import main as dataset_builders
from shards.__main__ import main as shards
from train.__main__ import main as train
from zeroshot_eval.__main__ import main as zeroshot_eval

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


FEW = ["--size", "48", "--train-per-class", "3", "--val-per-class", "1", "--test-per-class", "2", "--articles", "24"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm") / "archives"
    dataset_builders(["phantoms", "--out", str(folder), *FEW])
    return folder


def on_slurm(logs):
    options = {"executor": "slurm", "logs": logs, "cpus-per-task": 1, "memory-gb": 3, "timeout-min": 10}
    return [word for name, value in options.items() for word in (f"--jobs.{name}", str(value))]


def spool_digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_spools_built_on_slurm_have_the_bytes_of_local_ones(archives, tmp_path):
    (tmp_path / "sources.yaml").write_text(
        "sources:\n"
        "  - {kind: dataset, entry: phantom_fundus, root: phantom_fundus}\n"
        "  - {kind: pmc, config: {source: phantom_pmc_bucket, root: phantom_pmc/bucket, num_units: 3}}\n"
    )
    build = ["build", str(tmp_path / "sources.yaml"), "--root", str(archives), "--out"]
    assert dataset_builders([*build, str(tmp_path / "on_slurm"), *on_slurm(tmp_path / "logs")]) == 0
    assert dataset_builders([*build, str(tmp_path / "local"), "--jobs.executor", "inline"]) == 0
    digests = spool_digests(tmp_path / "local")
    assert spool_digests(tmp_path / "on_slurm") == digests
    assert list((tmp_path / "logs").rglob("*_log.out"))


def test_a_run_on_slurm_ends_with_the_weights_of_a_local_one(archives, tmp_path):
    build = ["build", "phantoms", "--root", str(archives), "--out", str(tmp_path / "spools")]
    assert dataset_builders([*build, "--jobs.executor", "inline"]) == 0
    spools = [str(path) for path in sorted((tmp_path / "spools").iterdir())]
    assert shards(["pack", *spools, "--out", str(tmp_path / "set")]) == 0
    run = ["demo_smoke", "--data.sets", str(tmp_path / "set"), "--data.workers", "0", "--out"]
    assert train([*run, str(tmp_path / "on_slurm"), *on_slurm(tmp_path / "logs")]) == 0
    assert train([*run, str(tmp_path / "local")]) == 0
    weights = [load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("on_slurm", "local")]
    assert all((weights[0][name] - tensor).abs().max() < 1e-5 for name, tensor in weights[1].items())


def test_scores_of_images_embedded_on_slurm_are_those_of_a_local_run(archives, tmp_path):
    build = ["build", "phantoms", "--root", str(archives), "--out", str(tmp_path / "spools")]
    assert dataset_builders([*build, "--jobs.executor", "inline"]) == 0
    spools = [str(path) for path in sorted((tmp_path / "spools").iterdir())]
    assert shards(["pack", *spools, "--out", str(tmp_path / "set")]) == 0
    run = ["demo_smoke", "--data.sets", str(tmp_path / "set"), "--data.workers", "0"]
    assert train([*run, "--out", str(tmp_path / "run")]) == 0
    score = ["score", str(tmp_path / "run" / "model"), "--suite", "phantoms", "--sets", str(tmp_path / "set")]
    score += ["--bootstrap-samples", "100", "--no-report", "--out"]
    zeroshot_eval([*score, str(tmp_path / "on_slurm"), *on_slurm(tmp_path / "logs")])
    zeroshot_eval([*score, str(tmp_path / "local")])
    rows = [json.loads((tmp_path / name / "scores.json").read_text())["rows"] for name in ("on_slurm", "local")]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 50
    assert list((tmp_path / "logs").rglob("*_log.out"))
