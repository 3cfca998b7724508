from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clipmed.errors import ConfigError
from dataset_builders.__main__ import main
from dataset_builders.datasets import load_entry
from dataset_builders.suites import suite_of, suite_tags


def test_a_suite_asks_every_task_with_the_prompts_of_its_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flair.yaml"
    assert main(["suite", "medmnist", "--out", str(out), "--title", "MedMNIST+, zero-shot"]) == 0
    assert "zeroshot_eval" in capsys.readouterr().out
    suite = yaml.safe_load(out.read_text())
    assert (suite["name"], suite["title"]) == ("flair", "MedMNIST+, zero-shot")
    tasks = {task["name"]: task for task in suite["tasks"]}
    blood = load_entry("bloodmnist")
    (name,) = blood.tasks
    assert tasks["bloodmnist"]["task"] == name
    prompts = blood.tasks[name].prompts
    assert prompts is not None
    assert tasks["bloodmnist"]["templates"] == list(prompts.templates)
    assert tasks["bloodmnist"]["classes"] == {class_id: list(words) for class_id, words in prompts.classes.items()}
    assert tasks["retinamnist"]["ordinal"] is True
    chest = tasks["chestmnist"]
    assert chest["kind"] == "multi_label"
    assert set(chest["negative_prompts"]) == set(chest["classes"])
    for class_id, denials in chest["negative_prompts"].items():
        assert all(" no " in f" {denial} ".lower() for denial in denials), class_id


def test_an_unknown_tag_and_an_entry_without_prompts_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no dataset has the tag 'medmnits'; did you mean 'medmnist'"):
        suite_of(["medmnits"], "x", "y")
    assert "unimed_eval" in suite_tags()
    with pytest.raises(ConfigError, match="has no prompts; add them to its catalogue entry"):
        suite_of(["unimed_train"], "x", "y")
