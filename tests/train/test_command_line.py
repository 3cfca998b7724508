"""The command line, recipes, trackers and jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipmed.configuration import from_dict, load_yaml, save_yaml, to_dict
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from clipmed.towers import build_two_tower
from train.__main__ import main
from train.config import CheckpointConfig, GradCacheConfig, OptimConfig, TrainConfig
from train.launch import launch
from train.recipes import RECIPES, recipe
from train.schedule import learning_rate, make_optimizer
from train.tracking import read_metrics


def test_no_words_and_help_teach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "python -m train RECIPE" in capsys.readouterr().out


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


def test_an_unknown_recipe_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lapptop"]) == 2
    assert "did you mean 'laptop'?" in capsys.readouterr().err


def test_an_unknown_or_wrong_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--optim.lrr", "1"], ["--data.batch-size", "1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["demo", *options])
        assert stopped.value.code == 2
    assert "data.batch_size: got 1" in capsys.readouterr().err


def test_missing_data_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laptop_smoke", "--out", str(tmp_path / "run")]) == 2
    assert "data.sets: got none" in capsys.readouterr().err


def test_a_run_that_fails_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo_smoke", "--out", str(tmp_path / "run"), "--data.sets", str(tmp_path / "nothing")]) == 1
    assert "is not a shard set" in capsys.readouterr().err


def test_plan_says_what_a_run_takes_without_starting_it(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_yaml(config, tmp_path / "mine.yaml")
    plan = ["plan", str(tmp_path / "mine.yaml")]
    assert main([*plan, "--jobs.nodes", "2", "--jobs.gpus-per-node", "4"]) == 0
    shown = capsys.readouterr().out
    assert "2 x 4 = 8" in shown
    assert "16 pairs, 2 a process" in shown
    assert not config.out.exists()
    assert main([*plan, "--jobs.nodes", "3"]) == 2
    assert "got 16 for 3 processes" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "got no recipe" in capsys.readouterr().err


def test_page_writes_the_page_of_a_run_anew(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(replace(config, optim=replace(config.optim, steps=3)))
    page = config.out / "run.html"
    page.unlink()
    assert main(["page", str(config.out)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert "<html" in page.read_text()
    assert main(["page", str(tmp_path / "nothing")]) == 2
    assert main(["page"]) == 2
    assert "give one run folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_yaml(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    save_yaml(config, tmp_path / "config.yaml")
    assert load_yaml(TrainConfig, tmp_path / "config.yaml") == config
    assert from_dict(TrainConfig, to_dict(config), "x") == config


def test_every_recipe_has_a_smoke_twin_that_trains_in_a_few_steps() -> None:
    for name in RECIPES:
        twin = RECIPES[name if name.endswith("_smoke") else f"{name}_smoke"]()
        assert twin.optim.steps <= 10
        assert (twin.gradcache.image_micro_batch is None) == (recipe(name).gradcache.image_micro_batch is None)


@pytest.mark.parametrize("name", ["demo", "laptop", "demo_smoke"])
def test_the_models_of_cpu_recipes_build_without_a_network(name: str) -> None:
    assert build_two_tower(recipe(name).model).image_size <= 128


def test_a_smoke_recipe_trains_from_a_yaml_file_with_overrides(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_yaml(config, tmp_path / "mine.yaml")
    assert main([str(tmp_path / "mine.yaml"), "--optim.steps", "3", "--tracking.tensorboard"]) == 0
    assert f"{config.out}/model: trained" in capsys.readouterr().out
    assert load_yaml(TrainConfig, config.out / "config.yaml").optim.steps == 3
    assert list((config.out / "tensorboard").glob("events.out.tfevents.*"))


def test_wandb_works_offline(config: TrainConfig) -> None:
    save_yaml(replace(config, tracking=replace(config.tracking, wandb=True)), config.out.with_suffix(".yaml"))
    command = [sys.executable, "-m", "train", str(config.out.with_suffix(".yaml")), "--optim.steps", "3"]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((config.out / "wandb").glob("offline-run-*/*.wandb"))


def test_bf16_trains_and_stays_near_fp32(config: TrainConfig) -> None:
    save_yaml(replace(config, precision="bf16"), config.out.with_suffix(".yaml"))
    command = [sys.executable, "-m", "train", str(config.out.with_suffix(".yaml"))]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fp32 = replace(config, out=config.out.with_name("fp32"))
    launch(fp32)
    pairs = [
        (first["loss"], second["loss"])
        for first, second in zip(
            read_metrics(config.out / "metrics.jsonl", "train"),
            read_metrics(fp32.out / "metrics.jsonl", "train"),
            strict=True,
        )
    ]
    assert all(first == pytest.approx(second, rel=0.02) for first, second in pairs)
    assert any(first != second for first, second in pairs)


def test_a_submitted_run_trains_and_a_failing_one_says_why(config: TrainConfig, tmp_path: Path) -> None:
    jobs = JobsConfig(executor="submitit-local", logs=tmp_path / "jobs", cpus_per_task=1, timeout_min=5)
    model = launch(replace(config, jobs=jobs))
    assert (model / "open_clip_model.safetensors").is_file()
    other = replace(config, jobs=jobs, seed=5)
    with pytest.raises(ConfigError, match=r"seed \(0 there, 5 now\)"):
        launch(other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(steps=10, warmup_steps=10), r"optim\.warmup_steps: got 10; allowed: 0 to 9"),
        (lambda: OptimConfig(lr=0.0), "lr and eps above 0"),
        (lambda: GradCacheConfig(text_micro_batch=0), r"gradcache\.text_micro_batch: got 0; allowed: 1 or more"),
        (lambda: CheckpointConfig(keep=0), r"checkpoint\.keep: got 0"),
        (lambda: TrainConfig(precision="fp16", device="cpu"), "allowed on the CPU: 'fp32', 'bf16'"),
        (lambda: TrainConfig(jobs=JobsConfig(executor="processes")), "torchrun --nproc-per-node"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_is_allowed(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_the_learning_rate_by_hand() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, steps=12)
    rates = [learning_rate(step, config) for step in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.5)  # half way down the cosine
    assert 0 < rates[11] < 0.05
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_only_matrices_decay() -> None:
    tower = build_two_tower(recipe("demo_smoke").model)
    groups = make_optimizer(tower.model, OptimConfig(weight_decay=0.3)).param_groups
    spared, decayed = sorted(groups, key=lambda group: group["weight_decay"])
    assert decayed["weight_decay"] == 0.3
    assert spared["weight_decay"] == 0.0
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert any(parameter is tower.model.logit_scale for parameter in spared["params"])


def test_half_written_rows_are_cut_off(tmp_path: Path) -> None:
    from train.tracking import MetricsFile

    path = tmp_path / "metrics.jsonl"
    whole = [{"kind": "train", "step": 1}, {"kind": "train", "step": 2}, {"kind": "validation", "step": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in whole) + '{"kind": "train", "st')
    tracker = MetricsFile(path, 2)
    tracker.log("train", 3, {"loss": float("nan")})
    tracker.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2), ("train", 3)]
    assert rows[-1]["loss"] is None
