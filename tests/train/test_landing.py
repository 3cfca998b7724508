"""Scores of checkpoints as they land: a real model and suite, one at a time, restarts, failures that stop nothing."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from clipmed.checkpoints import save_checkpoint
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from clipmed.towers import ModelConfig, build_two_tower
from tests.train.conftest import COLOURS
from train.config import ScoreConfig, TrainConfig
from train.landing import Landing, check_suite, headline
from train.scorings import scoring_command
from train.tracking import MetricsFile

PATIENCE_S = 90

SaveModel = Callable[..., Path]


def write_suite(path: Path, split: str = "val") -> Path:
    task = {
        "name": "colours", "task": "colour", "modality": "other", "split": split,
        "templates": ["a picture of {}"], "classes": {name: [f"a {name} square"] for name in COLOURS},
    }  # fmt: skip
    suite = {"name": "colours", "title": "Colours", "phantom": True, "tasks": [task]}
    suite["retrieval"] = [{"name": "captions", "split": split}]
    path.write_text(yaml.safe_dump(suite))
    return path


@pytest.fixture
def scored(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Six steps, of which 2, 4 and 6 are scored."""
    suite = write_suite(tmp_path / "colours.yaml")
    config.out.mkdir()
    return replace(config, score=ScoreConfig(suite=str(suite), every_steps=2))


@pytest.fixture(scope="module")
def model_at(model_json: Path) -> SaveModel:
    """A function that saves a tiny model, another for each step."""

    def save(folder: Path, step: int = 0) -> Path:
        torch.manual_seed(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_checkpoint(folder, build_two_tower(ModelConfig(config=str(model_json))), "# tiny")
        return folder

    return save


def wait_for(landing: Landing, count: int) -> dict[int, dict[str, float]]:
    """What lands until there are so many, the way the loop collects it."""
    landed: dict[int, dict[str, float]] = {}
    give_up = time.monotonic() + PATIENCE_S
    while len(landed) < count and time.monotonic() < give_up:
        landed |= landing.collect()
        time.sleep(0.1)
    return landed


def test_what_is_due_is_the_same_on_every_process(scored: TrainConfig) -> None:
    for rank in (0, 1):
        landing = Landing(replace(scored, score=replace(scored.score, every_steps=4)), rank=rank)
        assert [step for step in range(7) if landing.due(step)] == [4, 6]  # 6 is the last
    assert not any(Landing(replace(scored, score=ScoreConfig())).due(step) for step in range(7))


@pytest.mark.slow
def test_models_are_scored_one_after_the_other_while_the_run_goes_on(scored: TrainConfig, model_at: SaveModel) -> None:
    landing = Landing(scored)
    for step in (2, 4):
        landing.score(step, model_at(landing.model_folder(step), step))
    folders = [scored.out / "scores" / f"step_0000000{step}" for step in (2, 4)]
    assert (folders[0] / "log.txt").exists()
    assert not (folders[1] / "log.txt").exists()  # in line
    assert landing.collect() == {}  # does not wait
    landed = landing.finish()
    assert list(landed) == [2, 4]
    for folder, scores in zip(folders, landed.values(), strict=True):
        rows = json.loads((folder / "scores.json").read_text())["rows"]
        written = {(row["level"], row["metric"]): row["value"] for row in rows}
        assert scores["overall/accuracy"] == written["overall", "accuracy"]
        assert scores["captions/image_to_text_r5"] == written["task", "image_to_text/recall@5"]
        assert (folder / "report.html").exists()
        assert not (folder / "work").exists()  # models are large
    assert landing.collect() == {}


def test_a_suite_without_tasks_for_the_sets_is_a_warning_and_a_row(
    scored: TrainConfig, model_at: SaveModel, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "other.yaml", split="test")  # the set has no test split
    failing = replace(scored, score=replace(scored.score, suite=str(suite), executor="wait"))
    landing = Landing(failing)
    with pytest.warns(UserWarning, match=r"the model of step 2 was not scored: .*no task for these sets.*goes on"):
        landing.score(2, model_at(landing.model_folder(2)))
    assert landing.collect() == {2: {"failed": 1.0}}
    assert not landing.model_folder(2).exists()
    assert landing.finish() == {}


def test_a_scoring_that_cannot_start_is_a_warning_and_a_row(
    scored: TrainConfig, model_at: SaveModel, tmp_path: Path
) -> None:
    landing = Landing(scored)
    (scored.out / "scores").write_text("a file is in the way")
    with pytest.warns(UserWarning, match="step 2 was not scored: .*Error"):
        landing.score(2, model_at(tmp_path / "model"))
    assert landing.collect() == {2: {"failed": 1.0}}


def test_a_resumed_run_reports_what_landed_and_scores_nothing_again(scored: TrainConfig, model_at: SaveModel) -> None:
    landing = Landing(scored)
    landing.score(2, model_at(landing.model_folder(2)))
    landed = landing.finish()
    before = (scored.out / "scores" / "step_00000002" / "scores.json").stat().st_mtime_ns

    resumed = Landing(scored, resumed_step=3)  # killed before the row was written
    assert resumed.collect() == landed
    resumed.score(2, model_at(resumed.model_folder(2)))
    assert resumed.finish() == {}

    metrics = MetricsFile(scored.out / "metrics.jsonl", 0)
    metrics.log("scores", 2, landed[2])
    metrics.close()
    assert Landing(scored, resumed_step=3).finish() == {}  # the row is there

    earlier = Landing(scored, resumed_step=0)  # the newest checkpoint is older than the scores
    assert earlier.collect() == {}
    (scored.out / "metrics.jsonl").unlink()
    again = Landing(scored, resumed_step=0)
    again.score(2, model_at(again.model_folder(2)))
    assert again.finish() == landed
    assert (scored.out / "scores" / "step_00000002" / "scores.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_what_a_stopped_run_left_is_made_up(scored: TrainConfig, model_at: SaveModel) -> None:
    landing = Landing(scored)
    for step in (2, 4):
        landing.score(step, model_at(landing.model_folder(step), step))
    landing.close()  # as a signal makes the run do
    assert not list(scored.out.glob("scores/*/scores.json"))
    assert landing.model_folder(2).exists()
    resumed = Landing(scored, resumed_step=5)
    assert list(resumed.finish()) == [2, 4]


def test_a_scoring_that_a_killed_run_left_behind_is_waited_for(scored: TrainConfig, model_at: SaveModel) -> None:
    killed = Landing(scored)
    killed.score(2, model_at(killed.model_folder(2)))  # its process goes on; nobody asks for it any more
    resumed = Landing(scored, resumed_step=3)
    assert resumed.collect() == {}
    children = [child.cmdline() for child in psutil.Process().children()]
    assert sum("zeroshot_eval" in words for words in children) == 1
    assert wait_for(resumed, 1)[2]["overall/accuracy"] >= 0
    assert not resumed.model_folder(2).exists()
    killed.finish()


def test_waiting_ends_when_the_run_is_to_stop(scored: TrainConfig, model_at: SaveModel) -> None:
    config = replace(scored, score=replace(scored.score, executor="wait"))
    landing = Landing(config, stopped=lambda: True)
    landing.score(2, model_at(landing.model_folder(2)))
    assert landing.collect() == {}
    landing.close()
    assert landing.model_folder(2).exists()


@pytest.mark.slow
def test_a_submitted_job_scores_as_a_process_does(scored: TrainConfig, model_at: SaveModel, tmp_path: Path) -> None:
    jobs = JobsConfig(executor="inline", logs=tmp_path / "jobs", timeout_min=5)
    config = replace(scored, score=replace(scored.score, executor="submitit-local"), jobs=jobs)
    landing = Landing(config)
    landing.score(2, model_at(landing.model_folder(2)))
    submitted = landing.finish()[2]
    here = Landing(replace(scored, out=tmp_path / "here"))
    here.score(2, model_at(here.model_folder(2)))
    assert here.finish()[2] == submitted


def test_the_processes_of_other_ranks_do_nothing(scored: TrainConfig, model_at: SaveModel, tmp_path: Path) -> None:
    landing = Landing(scored, rank=1)
    landing.score(2, model_at(tmp_path / "model"))
    assert landing.finish() == {}
    assert not (scored.out / "scores").exists()


def test_the_command_is_the_one_a_user_would_give(scored: TrainConfig) -> None:
    config = replace(scored, score=replace(scored.score, suite="phantoms", sets=("some/set", "s3://bucket/set")))
    command = scoring_command(config, Path("run/model"), Path("run/scores/step_2"))
    here = os.getcwd()  # noqa: PTH109
    assert command[1:7] == ["-m", "zeroshot_eval", "score", f"{here}/run/model", "--suite", "phantoms"]
    assert command[7:10] == ["--sets", f"{here}/some/set", "s3://bucket/set"]
    assert command[command.index("--out") + 1] == f"{here}/run/scores/step_2"


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("phantom", r"score.suite: unknown suite 'phantom'; did you mean 'phantoms'\?.*Allowed: .*phantoms, real"),
        ("no/such.yaml", "score.suite: no such file: no/such.yaml"),
    ],
)
def test_a_suite_that_is_not_there_is_refused_at_once(scored: TrainConfig, suite: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_suite(replace(scored, score=ScoreConfig(suite=suite)))
    check_suite(scored)
    check_suite(replace(scored, score=ScoreConfig(suite="phantoms")))
    check_suite(replace(scored, score=ScoreConfig()))


def test_the_headline_has_averages_and_what_is_in_none() -> None:
    def row(level: str, metric: str, value: float, **where: object) -> dict[str, object]:
        blank = {"task": None, "modality": None, "held_out": False}
        return {"level": level, "metric": metric, "value": value, **blank, **where}

    rows = [
        row("task", "accuracy", 0.1, task="ct_mass", modality="ct"),
        row("task", "accuracy", 0.2, task="ct_new", modality="ct", held_out=True),
        row("task", "accuracy", 0.3, task="organ", modality="mixed"),
        row("task", "image_to_text/recall@5", 0.4, task="figures", modality="mixed"),
        row("task", "image_to_text/recall@1", 0.5, task="figures", modality="mixed"),
        row("dataset", "accuracy", 0.6, modality="ct"),
        row("modality", "accuracy", 0.7, modality="ct"),
        row("overall", "accuracy", 0.8),
        row("overall", "auroc_cosine", 0.9),
    ]
    assert headline({"rows": rows}) == {
        "ct_new/accuracy": 0.2,
        "organ/accuracy": 0.3,
        "figures/image_to_text_r5": 0.4,
        "ct/accuracy": 0.7,
        "overall/accuracy": 0.8,
    }
