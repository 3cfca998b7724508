"""Whole small runs: what is written, what resuming gives, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipmed
from clipmed.configuration import load_yaml, save_yaml
from clipmed.errors import ClipmedError, ConfigError, DataError
from tests.train.conftest import make_config, make_set
from train import loop
from train.config import TrainConfig
from train.loop import train
from train.step import StepLoss
from train.tracking import read_metrics

TIMING = {"mfu", "pairs_per_s", "tokens_per_s", "data_wait", "peak_memory_gb"}
REPOSITORY = Path(__file__).parents[2]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "open_clip_model.safetensors")


def metrics(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMING} for row in rows]


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shard_set: Path, model_json: Path) -> TrainConfig:
    """A run that was never interrupted."""
    config = make_config(shard_set, model_json, tmp_path_factory.mktemp("whole"))
    train(config)
    return config


def start(config: TrainConfig, *launcher: str) -> subprocess.Popen[str]:
    """Start the run as a user would, in processes of its own."""
    path = config.out.with_suffix(".yaml")
    save_yaml(config, path)
    launcher = launcher or (sys.executable, "-m")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [*launcher, "train", str(path)], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_run_writes_all_that_the_design_names(finished: TrainConfig) -> None:
    out = finished.out
    assert sorted(entry.name for entry in out.iterdir()) == [
        *("checkpoints", "config.yaml", "metrics.jsonl", "model", "run.html", "samples", "status.json"),
    ]
    assert load_yaml(TrainConfig, out / "config.yaml") == finished
    assert sorted(entry.name for entry in (out / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl", "train")] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl", "validation")] == [3, 6]


def test_the_checkpoint_loads_and_its_card_says_what_it_was_trained_on(finished: TrainConfig) -> None:
    model = clipmed.load(finished.out / "model")
    assert model.embed_texts(["a red square"]).shape == (1, 16)
    card = (finished.out / "model" / "README.md").read_text()
    assert "| phantom_squares | other | CC0-1.0 | 72 |" in card
    assert "No score of it is a medical result" in card
    assert "batch_size: 16" in card


def test_training_learns(config: TrainConfig) -> None:
    longer = replace(config, optim=replace(config.optim, steps=60, warmup_steps=5, lr=3e-3))
    quiet = replace(
        longer,
        validate=replace(config.validate, every_steps=0),
        gradcache=replace(config.gradcache, image_micro_batch=None),
    )
    train(replace(quiet, checkpoint=replace(config.checkpoint, every_steps=60)))
    row = read_metrics(config.out / "metrics.jsonl", "validation")[-1]
    assert row["image_to_text_r1"] > 0.8 > 2 * row["image_to_text_chance_r1"]


def test_the_same_config_gives_the_same_bits_with_loader_processes(finished: TrainConfig, config: TrainConfig) -> None:
    train(replace(config, data=replace(config.data, workers=2)))
    assert_same_weights(config.out, finished.out)
    assert metrics(config.out) == metrics(finished.out)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_stopped_anywhere_and_resumed_ends_the_same(
    finished: TrainConfig, config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    original = loop._one_step

    def one_step(session: Any, batch: Any) -> Any:
        if session.step == step:
            raise StoppedError
        return original(session, batch)

    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(loop, "_one_step", one_step)
        train(config)
    assert not (config.out / "model").exists()
    train(config)
    assert_same_weights(config.out, finished.out)
    assert metrics(config.out) == metrics(finished.out)


def test_kill_9_and_resume_end_with_the_same_bits(finished: TrainConfig, config: TrainConfig) -> None:
    slow = replace(config, data=replace(config.data, workers=1))
    process = start(slow)
    deadline = time.monotonic() + 300
    while not (config.out / "checkpoints" / "step_00000002").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (config.out / "model").exists()
    train(config)
    assert_same_weights(config.out, finished.out)
    assert metrics(config.out) == metrics(finished.out)


def test_two_processes_give_the_losses_of_one(finished: TrainConfig, config: TrainConfig) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = start(config, *launcher)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    one, two = metrics(finished.out), metrics(config.out)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for first, second in zip(one, two, strict=True):
        assert second.pop("kind") == first.pop("kind")
        assert second == pytest.approx(first, rel=1e-5, abs=1e-6)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished: TrainConfig, config: TrainConfig) -> None:
    train(config)
    (config.out / "model" / "open_clip_model.safetensors").unlink()
    damaged = config.out / "checkpoints" / "step_00000006" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match="step_00000006: optimizer.safetensors is not what was written"):
        train(config)
    assert_same_weights(config.out, finished.out)


def test_a_folder_with_another_run_is_refused_and_the_difference_named(finished: TrainConfig) -> None:
    other = replace(finished, optim=replace(finished.optim, lr=0.5), seed=9)
    with pytest.raises(ConfigError, match=r"optim\.lr \(0\.001 there, 0\.5 now\); seed \(0 there, 9 now\)"):
        train(other)


def test_a_folder_with_something_else_is_refused(config: TrainConfig) -> None:
    config.out.mkdir()
    (config.out / "thesis.docx").write_text("chapter 1")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train(config)


def test_other_data_under_a_run_is_refused(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    monkeypatch.setattr("tests.train.conftest.PER_COLOUR", 20)
    other = replace(config, data=replace(config.data, sets=(make_set(tmp_path / "other"),)))
    with pytest.raises(DataError, match="manifests differ"):
        train(other)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.contrastive_backward

    def broken(encoders: Any, model: Any, batch: Any, *rest: Any) -> StepLoss:
        loss = original(encoders, model, batch, *rest)
        return loss._replace(value=loss.value * float("nan")) if batch.step == 3 else loss

    monkeypatch.setattr(loop, "contrastive_backward", broken)
    with pytest.raises(ClipmedError, match=r"step 3: loss nan.*phantom_squares-"):
        train(config)
    dump = json.loads((config.out / "not_finite_step_3_rank_0.json").read_text())
    assert len(dump["keys"]) == 16
    assert (config.out / "checkpoints" / "step_00000002").is_dir()


def test_siglip_trains_and_its_bias_travels_with_the_checkpoint(config: TrainConfig) -> None:
    train(replace(config, loss=replace(config.loss, name="siglip")))
    assert weights(config.out)["logit_bias"].item() != -10.0
    assert clipmed.load(config.out / "model").embed_texts(["x"]).shape == (1, 16)


def test_batch_norm_with_micro_batches_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    model = json.loads(Path(config.model.config).read_text())
    model["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    path = tmp_path / "resnet.json"
    path.write_text(json.dumps(model))
    with pytest.raises(ConfigError, match=r"batch normalisation \(visual\.bn1"):
        train(replace(config, model=replace(config.model, config=str(path))))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    from train.config import DataConfig, check_runnable

    config = TrainConfig(data=DataConfig(sets=(Path("set"),), batch_size=10))
    check_runnable(config, 5)
    with pytest.raises(ConfigError, match="got 10 for 4 processes; allowed: a multiple of 4"):
        check_runnable(config, 4)
    with pytest.raises(ConfigError, match=r"data\.sets: got none"):
        check_runnable(TrainConfig(), 1)
