"""Bars on scores and drops from a baseline: what passes, what fails, what is wrong input, and what is written."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from clipmed.errors import ConfigError
from tests.zeroshot_eval.stored_answers import answered, make_header, make_items, ranked, write_all
from zeroshot_eval.comparison import CompareSettings
from zeroshot_eval.gate import GateConfig, run_gate
from zeroshot_eval.gate_files import gate_table, write_junit, write_markdown

FAST = CompareSettings(samples=1000)
TARGETS = [0, 1] * 100


def row(level, metric, value, **changes):
    fields = {"suite": "toy", "task": None, "modality": None, "checkpoint": "new", "n": 200, "held_out": False}
    return {
        **fields,
        "level": level,
        "metric": metric,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
    } | changes


def evaluation(folder: Path, answers=(), rows=(), checkpoints=("new",)) -> Path:
    """A folder of scores as the suite writes them, as far as the gate reads them."""
    tasks = {"lesions": {"main_metric": "accuracy"}, "search": {"main_metric": "image_to_text/recall@5"}}
    scores = {"rows": list(rows), "tasks": tasks, "checkpoints": [{"name": name} for name in checkpoints],
              "sets": []}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores))
    return write_all(folder, answers)


@pytest.fixture
def scored(tmp_path):
    return evaluation(
        tmp_path / "scored",
        rows=[
            row("task", "accuracy", 0.8, task="lesions", modality="ct"),
            row("task", "ece", 0.2, task="lesions", modality="ct"),
            row("task", "image_to_text/recall@5", 0.3, task="search"),
            row("modality", "balanced_accuracy", 0.7, modality="ct"),
            row("modality", "auroc", 0.9, modality="ct"),
            row("overall", "balanced_accuracy", 0.65),
        ],
    )


@pytest.mark.parametrize(
    ("bars", "outcome"),
    [
        ({"min": ("modality.ct=0.7",)}, "pass"),  # at the bar
        ({"min": ("modality.ct=0.71",)}, "fail"),
        ({"min": ("modality.ct.auroc=0.89",)}, "pass"),
        ({"min": ("task.lesions=0.81",)}, "fail"),  # the main metric
        ({"min": ("task.search.image_to_text/recall@5=0.3",)}, "pass"),
        ({"min": ("overall=0.6",)}, "pass"),
        ({"min": ("overall=0.64",), "whole_interval": True}, "fail"),
        ({"max": ("task.lesions.ece=0.25",)}, "pass"),
        ({"max": ("task.lesions.ece=0.1",)}, "fail"),
        ({"max": ("task.lesions.ece=0.22",), "whole_interval": True}, "fail"),
    ],
)
def test_bars(scored, bars, outcome):
    result = run_gate(GateConfig(folder=scored, **bars))
    assert [check.outcome for check in result.checks] == [outcome]
    assert result.passed == (outcome == "pass")


def test_one_failed_bar_fails_the_gate_and_says_why(scored):
    result = run_gate(GateConfig(folder=scored, min=("overall=0.6", "modality.ct=0.75")))
    assert not result.passed
    assert [check.detail for check in result.checks] == ["0.6500 is not below 0.6", "0.7000 is below 0.75"]


def test_suites_that_share_a_name_are_all_held_to_the_bar(tmp_path):
    rows = [row("overall", "balanced_accuracy", value, suite=str(value)) for value in (0.8, 0.5, 0.7)]
    result = run_gate(GateConfig(folder=evaluation(tmp_path / "two", rows=rows), min=("overall=0.6",)))
    assert (result.checks[0].value, result.passed) == (0.5, False)


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ({"min": ("modality.tc=0.6",)}, "no score is called 'modality.tc'; did you mean 'modality.ct'"),
        ({"min": ("task.lesions.acuracy=0.6",)}, "did you mean 'task.lesions.accuracy'"),
        ({"min": ("modality.ct",)}, "got 'modality.ct'; allowed: NAME=VALUE"),
        ({"min": ("modality.ct=nan",)}, "allowed: NAME=VALUE with a finite value"),
        ({"max": ("=1",)}, "got '=1'"),
        ({}, "nothing to hold the scores to"),
        ({"no_worse_than": Path("none"), "max_drop": -1.0}, "max_drop: got -1.0; allowed: 0 or more"),
        ({"min": ("overall=0",), "checkpoint": "nwe"}, "checkpoint: got 'nwe'; did you mean 'new'"),
    ],
)
def test_wrong_input_is_no_verdict(scored, bars, message):
    with pytest.raises(ConfigError, match=message):
        run_gate(GateConfig(folder=scored, **bars))


def test_folders_without_sound_scores_are_no_verdict(tmp_path):
    with pytest.raises(ConfigError, match="no scores at"):
        run_gate(GateConfig(folder=tmp_path, min=("overall=0",)))
    (tmp_path / "scores.json").write_text("{cut")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        run_gate(GateConfig(folder=tmp_path, min=("overall=0",)))
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no scores of this version"):
        run_gate(GateConfig(folder=tmp_path, min=("overall=0",)))
    with pytest.raises(ConfigError, match=r"checkpoint: .* holds 2; Allowed: a, b"):
        run_gate(GateConfig(folder=evaluation(tmp_path / "two", checkpoints=("a", "b")), min=("overall=0",)))


def with_errors(name, checkpoint, wrong, **changes):
    header = make_header(name, checkpoint=checkpoint, main_metric="accuracy", **changes)
    return answered(header, TARGETS, [1 - target if at < wrong else target for at, target in enumerate(TARGETS)])


@pytest.mark.parametrize(
    ("wrong", "max_drop", "outcome"),
    [
        (20, 0.01, "pass"),  # as the baseline
        (10, 0.01, "pass"),  # better
        (24, 0.01, "pass"),  # two points less of 200 images: not shown to be more than one
        (60, 0.01, "fail"),  # twenty points less
        (60, 0.3, "pass"),
    ],
)
def test_drops_from_a_baseline(tmp_path, wrong, max_drop, outcome):
    base = evaluation(tmp_path / "base", [with_errors("lesions", "old", 20)], checkpoints=("old",))
    new = evaluation(tmp_path / "new", [with_errors("lesions", "new", wrong)])
    result = run_gate(GateConfig(folder=new, no_worse_than=base, max_drop=max_drop, settings=FAST))
    (check,) = result.checks
    assert (check.outcome, result.passed) == (outcome, outcome == "pass")
    assert check.value == pytest.approx((20 - wrong) / 200)


def test_drops_are_corrected_for_the_number_of_tasks(tmp_path):
    """Seven flips to none: one-sided p about 0.01 of one task, not shown as one of twelve."""
    names = [f"task-{at}" for at in range(12)]
    old = [with_errors(name, "old", 0) for name in names]
    new = [with_errors(name, "new", 7 if name == "task-0" else 0) for name in names]
    base, folder = evaluation(tmp_path / "base", old, checkpoints=("old",)), evaluation(tmp_path / "new", new)
    alone = CompareSettings(samples=1000, tasks=("task-0",))
    assert not run_gate(GateConfig(folder=folder, no_worse_than=base, settings=alone, max_drop=0.01)).passed
    assert run_gate(GateConfig(folder=folder, no_worse_than=base, settings=FAST, max_drop=0.01)).passed


def test_a_task_that_the_baseline_alone_answered_fails(tmp_path):
    old = [with_errors("lesions", "old", 20), with_errors("gone", "old", 20)]
    base = evaluation(tmp_path / "base", old, checkpoints=("old",))
    new = evaluation(tmp_path / "new", [with_errors("lesions", "new", 20), with_errors("more", "new", 20)])
    result = run_gate(GateConfig(folder=new, no_worse_than=base, settings=FAST))
    assert {check.name: check.outcome for check in result.checks} == {
        "task.lesions": "pass", "task.gone": "fail", "task.more": "not judged"
    }  # fmt: skip


def test_a_higher_rank_is_a_drop(tmp_path):
    items = make_items(60)

    def search(checkpoint, rank):
        header = make_header(
            "search", kind="retrieval", classes=(), checkpoint=checkpoint, main_metric="image_to_text/median_rank"
        )
        return ranked(header, [("image_to_text", rank + at % 5, rank + at % 5) for at in range(60)], items)

    base = evaluation(tmp_path / "base", [search("old", 1)], checkpoints=("old",))
    new = evaluation(tmp_path / "new", [search("new", 9)])
    (check,) = run_gate(GateConfig(folder=new, no_worse_than=base, settings=FAST)).checks
    assert (check.value, check.outcome) == (-8, "fail")
    assert check.low <= check.value <= check.high


def test_other_data_is_no_verdict(tmp_path):
    base = evaluation(tmp_path / "base", [with_errors("lesions", "old", 0, data_digest="x")], checkpoints=("old",))
    new = evaluation(tmp_path / "new", [with_errors("lesions", "new", 0)])
    with pytest.raises(ConfigError, match="data digest"):
        run_gate(GateConfig(folder=new, no_worse_than=base, settings=FAST))


def test_files_for_continuous_integration(scored, tmp_path):
    result = run_gate(GateConfig(folder=scored, min=("overall=0.6", "modality.ct=0.75")))
    write_junit(result, tmp_path / "gate.xml")
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase[@name='modality.ct']/failure")
    assert failure.get("message") == "0.7000 is below 0.75"
    assert suite.find("testcase[@name='overall']/failure") is None
    write_markdown(result, tmp_path / "gate.md")
    text = (tmp_path / "gate.md").read_text()
    assert "## new: 1 of 2 checks failed" in text
    assert "| modality.ct | balanced accuracy | ≥ 0.75 | 0.700 | 0.650 … 0.750 | fail | 0.7000 is below 0.75 |" in text
    assert gate_table(result).rich().row_count == 2
