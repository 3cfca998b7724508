"""The suites that ship are what the catalogue makes of them, and the zero-shot suite reads them."""

from __future__ import annotations

import pytest
import yaml

from dataset_builders.suites import suite_of
from zeroshot_eval.suite_files import SUITES_FOLDER, load_suite

MADE = {
    "unimed21": (["unimed_eval"], 21),
    "medpmc26": (["medpmc_clip_eval"], 26),
    "medmnist": (["medmnist"], 18),
    "biomedica": (["medpmc_clip_eval", "microbench", "biomedica"], 30),
}


@pytest.mark.parametrize("name", MADE)
def test_a_suite_is_what_the_catalogue_makes_of_its_tags(name: str) -> None:
    shipped = yaml.safe_load((SUITES_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    tags, number = MADE[name]
    assert shipped == suite_of(tags, shipped["title"], name)
    suite = load_suite(name)
    assert len(suite.tasks) == number
    assert all(len(prompts) > 1 for task in suite.tasks for prompts in task.all_prompts().values())
