"""Two checkpoints on the same samples: pairing, tests, averages, verdicts, and what is written."""

import json

import numpy as np
import pytest
from scipy import stats

from clipmed.errors import ConfigError, DataError
from tests.zeroshot_eval.stored_answers import (
    answered,
    chosen_options,
    classified,
    make_header,
    make_items,
    multi_labelled,
    ranked,
    write_all,
)
from zeroshot_eval.comparison import CompareConfig, CompareSettings, compare_answers, run_compare
from zeroshot_eval.comparison_tables import comparison_tables, write_comparison

FAST = CompareSettings(samples=1000)
OLD = make_header("lesions")
NEW = make_header("lesions", checkpoint="new", checkpoint_digest="1" * 8)
TARGETS = [0, 1] * 40


def with_errors(header, wrong, targets=TARGETS, items=None):
    """Answers that are right but for the given rows."""
    return answered(header, targets, [1 - t if at in wrong else t for at, t in enumerate(targets)], items)


def test_a_difference_is_the_seconds_value_less_the_firsts():
    old, new = with_errors(OLD, set(range(20))), with_errors(NEW, {0, 79})
    (task,) = compare_answers([old], [new], FAST).tasks
    assert (task.first, task.second) == pytest.approx((0.75, 0.975))
    assert task.difference == pytest.approx(0.225) == task.gain
    assert task.low < 0.225 < task.high
    assert (task.verdict, task.n, task.groups, task.metric) == ("win", 80, 80, "balanced_accuracy")
    assert (task.mcnemar.only_first, task.mcnemar.only_second) == (1, 19)
    assert task.mcnemar.p_value == pytest.approx(2 * 21 / 2**20)
    (back,) = compare_answers([new], [old], FAST).tasks
    assert (back.verdict, back.difference) == ("loss", pytest.approx(-0.225))


def test_a_checkpoint_against_itself_ties_everywhere():
    old = with_errors(OLD, {1, 2, 3})
    (task,) = compare_answers([old], [old], FAST).tasks
    assert (task.difference, task.low, task.high, task.p_value, task.verdict) == (0, 0, 0, 1, "tie")


def test_rows_are_paired_by_key_and_lonely_ones_are_named():
    items = make_items(80)
    old = with_errors(OLD, set(), items=items)
    order = list(reversed(range(10, 80)))
    new = answered(NEW, [TARGETS[at] for at in order], [TARGETS[at] for at in order], [items[at] for at in order])
    comparison = compare_answers([old], [new], FAST)
    (task,) = comparison.tasks
    assert (task.n, task.difference) == (70, 0)
    assert task.unpaired_first == tuple(f"clinic-{at}" for at in range(10))
    assert task.unpaired_second == ()
    notes = comparison_tables(comparison)[0].notes
    assert any("10 samples of the first alone were left out: clinic-0, " in note and "5 more" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "targets", "message"),
    [
        ({"classes": ("malignant", "benign")}, TARGETS, "classes: got benign, malignant of old and malignant, benign"),
        ({"data_digest": "other"}, TARGETS, "data digest: got dddddddd of old and other of new"),
        ({}, [1, 0] * 40, "different values of 'target' for the same samples"),
    ],
)
def test_answers_to_different_questions_are_refused(changes, targets, message):
    other = answered(make_header("lesions", checkpoint="new", **changes), targets, targets)
    with pytest.raises(DataError, match=message):
        compare_answers([with_errors(OLD, set())], [other], FAST)


def test_nothing_in_common_is_refused():
    other = with_errors(NEW, set(), items=make_items(80, key=[f"else-{at}" for at in range(80)]))
    with pytest.raises(DataError, match="no sample was answered by both"):
        compare_answers([with_errors(OLD, set())], [other], FAST)


def test_accuracy_of_single_images_is_tested_by_mcnemar_and_of_groups_by_bootstrap():
    settings = CompareSettings(samples=1000, metric="accuracy")
    old, new = with_errors(OLD, {0, 1, 2, 3, 4, 5}), with_errors(NEW, {6})
    (single,) = compare_answers([old], [new], settings).tasks
    assert (single.test, single.p_value) == ("mcnemar", single.mcnemar.p_value)
    pairs = make_items(80, per_group=2)
    grouped = [with_errors(OLD, {0, 1}, items=pairs), with_errors(NEW, {6}, items=pairs)]
    (task,) = compare_answers([grouped[0]], [grouped[1]], settings).tasks
    assert (task.test, task.p_value, task.groups) == ("bootstrap", task.bootstrap_p_value, 40)


def test_auroc_of_two_classes_is_tested_by_delong_and_agrees_with_the_bootstrap():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200)
    cosines = [np.stack([np.zeros(200), gain * targets + rng.normal(size=200)], axis=1) / 10 for gain in (0.6, 1.4)]
    sides = [
        classified(make_header("lesions", checkpoint=name, main_metric="auroc"), targets, scores)
        for name, scores in zip(("old", "new"), cosines, strict=True)
    ]
    (task,) = compare_answers([sides[0]], [sides[1]], FAST).tasks
    areas = [stats.mannwhitneyu(s[targets == 1, 1], s[targets == 0, 1]).statistic / (100**2) for s in cosines]
    expected = [area * 100**2 / (targets.sum() * (200 - targets.sum())) for area in areas]
    assert (task.first, task.second) == pytest.approx(expected)
    assert task.test == "delong"
    assert task.p_value < 0.05
    assert task.bootstrap_p_value < 0.05


def test_holm_corrects_over_the_suite():
    """Six flips to one: p = 0.125 alone. Eight to none: 0.0078, and 0.047 as one of six tasks."""
    settings = CompareSettings(samples=2000, metric="accuracy")
    old, new = [], []
    for at in range(6):
        name = f"task-{at}"
        old.append(with_errors(make_header(name), set(range(8)) if at == 0 else {0, 1}))
        new.append(with_errors(make_header(name, checkpoint="new"), set() if at == 0 else {0, 2}))
    comparison = compare_answers(old, new, settings)
    first = comparison.tasks[0]
    assert first.p_value == pytest.approx(2 / 2**8)
    assert first.adjusted == pytest.approx(6 * 2 / 2**8)
    assert comparison.counts == {"win": 1, "tie": 5, "loss": 0}
    assert {task.adjusted for task in comparison.tasks[1:]} == {1.0}


def test_too_few_resamples_for_so_many_tasks_are_refused():
    old = [with_errors(make_header(f"task-{at}"), set()) for at in range(6)]
    with pytest.raises(ConfigError, match=r"got 200 for 6 tasks.*allowed: 241 or more"):
        compare_answers(old, old, CompareSettings(samples=200))


def test_a_lower_rank_is_a_win():
    header = make_header("search", kind="retrieval", classes=(), main_metric="image_to_text/median_rank")
    items = make_items(60)
    old = ranked(header, [("image_to_text", 9 + at % 5, 9 + at % 5) for at in range(60)], items)
    new = ranked(header, [("image_to_text", 1 + at % 5, 1 + at % 5) for at in range(60)], items)
    (task,) = compare_answers([old], [new], FAST).tasks
    assert (task.difference, task.gain, task.verdict) == (-8, 8, "win")


def test_repeated_captions_of_one_image_are_paired_in_order():
    header = make_header("search", kind="retrieval", classes=(), main_metric="text_to_image/mrr")
    items = [item for item in make_items(20) for _ in range(2)]
    old = ranked(header, [("text_to_image", 1 + at % 2, 1 + at % 2) for at in range(40)], items)
    (task,) = compare_answers([old], [old], FAST).tasks
    assert (task.n, task.groups, task.difference, task.first) == (40, 20, 0, 0.75)


def test_averages_weigh_tasks_and_modalities_alike_and_leave_out_held_out_and_mixed_ones():
    def task(name, errors, **changes):
        return with_errors(make_header(name, **changes), set(range(errors)))

    old = [
        task("a", 40), task("b", 20), task("c", 20, modality="mri"),
        task("d", 0, modality="mixed"), task("e", 0, held_out=True),
    ]  # fmt: skip
    new = [
        task("a", 20), task("b", 0), task("c", 0, modality="mri"),
        task("d", 80, modality="mixed"), task("e", 80, held_out=True),
    ]  # fmt: skip
    averages = compare_answers(old, new, FAST).averages
    accuracy = {one.task: one for one in averages if one.metric == "balanced_accuracy"}
    assert accuracy.keys() == {"ct", "mri", "overall"}
    assert (accuracy["ct"].first, accuracy["ct"].second) == pytest.approx((0.625, 0.875))
    assert accuracy["overall"].difference == pytest.approx(0.25)
    assert (accuracy["ct"].num_tasks, accuracy["ct"].n, accuracy["overall"].num_tasks) == (2, 80, 3)
    assert accuracy["overall"].verdict == "win"


def test_an_average_needs_the_metric_of_every_task():
    one_class = answered(make_header("single"), [0] * 80, [0] * 80)
    averages = compare_answers(
        [with_errors(OLD, set()), one_class], [with_errors(NEW, set()), one_class], FAST
    ).averages
    assert {one.metric for one in averages} == {"balanced_accuracy"}


def test_flips_name_both_answers():
    old, new = with_errors(OLD, {3, 4}), with_errors(NEW, {5})
    flips = compare_answers([old], [new], FAST).flips
    assert [(flip.key, flip.truth, flip.first, flip.second, flip.right) for flip in flips] == [
        ("clinic-5", "malignant", "malignant", "benign", "first"),
        ("clinic-3", "malignant", "benign", "malignant", "second"),
        ("clinic-4", "benign", "malignant", "benign", "second"),
    ]
    limited = compare_answers([old], [new], CompareSettings(samples=1000, flips=1)).flips
    assert [flip.key for flip in limited] == ["clinic-5", "clinic-3"]


def test_flips_of_questions_speak_of_options():
    header = make_header("pairs", kind="choice", classes=(), main_metric="accuracy", modality="mixed")
    sides = [
        chosen_options(header, [1] * 4, scores, list("abcd")) for scores in ([[0, 1]] * 4, [[0, 1]] * 3 + [[0.5, 0.5]])
    ]
    (flip,) = compare_answers([sides[0]], [sides[1]], FAST).flips
    assert (flip.truth, flip.first, flip.second) == ("2", "2", "none")


def test_what_cannot_be_compared_is_named_with_the_reason():
    several = make_header("findings", kind="multi_label", classes=("mass",), main_metric="f1")
    labels = multi_labelled(several, [[1], [0]] * 40, np.random.default_rng(0).random((80, 1)))
    old = [with_errors(OLD, set()), labels, with_errors(make_header("gone"), set())]
    new = [with_errors(NEW, set()), labels]
    skipped = compare_answers(old, new, FAST).skipped
    assert skipped["gone"] == "only the first checkpoint answered it"
    assert skipped["findings"].startswith("stored answers do not give f1")
    with pytest.raises(ConfigError, match="got 'lesion'; did you mean 'lesions'"):
        compare_answers(old, new, CompareSettings(tasks=("lesion",)))


def test_one_group_has_a_difference_and_no_verdict():
    items = make_items(80, per_group=80)
    (task,) = compare_answers(
        [with_errors(OLD, set(range(40)), items=items)], [with_errors(NEW, set(), items=items)], FAST
    ).tasks
    assert (task.low, task.p_value, task.adjusted, task.verdict) == (None, None, None, "tie")


def test_folders_are_read_by_checkpoint(tmp_path):
    both = tmp_path / "both"
    write_all(both, [with_errors(OLD, {1, 2}), with_errors(NEW, {1})])
    with pytest.raises(ConfigError, match="holds answers of 2 checkpoints; name one of: new, old"):
        run_compare(CompareConfig(first=both, second=both))
    with pytest.raises(ConfigError, match="no answers of 'nwe'; did you mean 'new'"):
        run_compare(CompareConfig(first=both, second=both, first_checkpoint="old", second_checkpoint="nwe"))
    with pytest.raises(DataError, match="holds no predictions; give a folder"):
        run_compare(CompareConfig(first=tmp_path / "none", second=both))
    config = CompareConfig(first=both, second=both, first_checkpoint="old", second_checkpoint="new", settings=FAST)
    comparison = run_compare(config)
    assert (comparison.first.name, comparison.second.name) == ("old", "new")
    assert len(comparison.tasks) == 1


def test_what_is_written_is_valid_json_and_says_who_is_better(tmp_path):
    old, new = with_errors(OLD, set(range(20))), with_errors(make_header("lesions", checkpoint="a|b"), {0})
    path = write_comparison(compare_answers([old], [new], FAST), tmp_path)
    text = path.read_text()
    assert "a\\|b against old: 1 better, 0 worse, 0 without a difference shown" in text
    assert "| lesions | balanced accuracy | 0.750 | 0.988 | +0.238 |" in text
    values = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert values["counts"] == {"win": 1, "tie": 0, "loss": 0}
    assert values["tasks"][0]["mcnemar"]["only_second"] == 19
    assert "replicates" not in values["tasks"][0]


@pytest.mark.parametrize(("changes", "message"), [({"alpha": 0}, "alpha"), ({"flips": -1}, "flips")])
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=f"{message}: got"):
        CompareSettings(**changes)
