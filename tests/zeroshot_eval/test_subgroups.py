"""Scores by what is known of the samples: which facts count, the worst group, the gap and its chance."""

import numpy as np
import pytest

from tests.zeroshot_eval.stored_answers import answered, make_header, make_items, ranked
from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.subgroups import age_band, fact_scores, subgroup_table

FAST = BootstrapConfig(samples=300)
HEADER = make_header("lesions", main_metric="accuracy")


def answers(facts, wrong, per_group=1, header=HEADER, **columns):
    """Answers of a balanced task that are wrong at the given rows."""
    targets = [at % 2 for at in range(len(facts))]
    given = [1 - target if at in wrong else target for at, target in enumerate(targets)]
    return answered(header, targets, given, make_items(len(facts), per_group, facts=facts, **columns))


def test_the_worst_group_is_named_with_its_gap():
    """60 women, 12 of them wrong; 40 men, 2 wrong."""
    facts = [{"sex": "female"}] * 60 + [{"sex": "male"}] * 40
    (found,) = fact_scores(answers(facts, {*range(12), 70, 71}), FAST)
    assert (found.fact, found.worst, found.best) == ("sex", "female", "male")
    assert {group.value: (group.n, group.score) for group in found.subgroups} == {
        "female": (60, 0.8), "male": (40, 0.95)
    }  # fmt: skip
    assert found.gap == pytest.approx(0.15)
    assert found.low < 0.15 < found.high
    assert all(group.low < group.score < group.high for group in found.subgroups)
    assert found.p_value < 0.1


def test_intervals_of_a_subgroup_draw_its_own_groups():
    """All images of a patient agree: the interval is that of 10 patients, not of 50 images."""
    facts = [{"site": "a"}] * 50 + [{"site": "b"}] * 50
    wrong = {*range(10), *range(50, 60)}
    (single,) = fact_scores(answers(facts, wrong), FAST)
    (grouped,) = fact_scores(answers(facts, wrong, per_group=5), FAST)
    widths = [found.subgroups[0].high - found.subgroups[0].low for found in (single, grouped)]
    assert widths[1] > 1.6 * widths[0]
    assert grouped.subgroups[0].groups == 10


def test_gaps_of_chance_are_seldom_called_gaps():
    """8 sites that do not differ, 100 times: the worst of 28 pairs is shown no more often than one in twenty."""
    shown = 0
    facts = [{"site": str(at // 2 % 8)} for at in range(240)]
    for study in range(100):
        wrong = set(np.flatnonzero(np.random.default_rng(study).random(240) < 0.3).tolist())
        (found,) = fact_scores(answers(facts, wrong), BootstrapConfig(samples=1500, seed=study))
        assert len(found.subgroups) == 8
        shown += found.p_value < 0.05
    assert shown <= 8


def test_rare_and_unknown_values_are_counted_and_other_names_of_classes_left_out():
    facts = [{"scanner": "x" if at < 50 else "y" if at < 75 else "z"} for at in range(80)] + [{} for _ in range(20)]
    for at, own in enumerate(facts):
        own["finding"] = "benign" if at % 2 == 0 else "malignant"
        own["image id"] = str(at)
    (found,) = fact_scores(answers(facts, set()), FAST)
    assert found.fact == "scanner"
    assert [group.value for group in found.subgroups] == ["x", "y"]
    assert found.left_out == {"not known": 20, "of values with fewer than 20 images or 2 groups": 5}


def test_a_value_that_leaves_the_metric_undefined_is_counted():
    header = make_header("lesions", main_metric="auroc")
    facts = [{"site": "abc"[at // 40]} for at in range(120)]
    targets = [at % 2 if at < 80 else 1 for at in range(120)]
    scored = answered(header, targets, targets, make_items(120, facts=facts))
    (found,) = fact_scores(scored, FAST)
    assert [group.value for group in found.subgroups] == ["a", "b"]
    assert found.left_out == {"auroc is not defined for c": 40}


def test_ages_are_taken_in_bands():
    assert [age_band(text) for text in ("0", "17.9", "18", "64", "65", "101", "-1", "old")] == [
        "under 18", "under 18", "18 to 39", "40 to 64", "65 and over", "65 and over", None, None
    ]  # fmt: skip
    facts = [{"patient_age": str(20 + at % 50), "stage": str(at % 2)} for at in range(100)]
    found = {
        one.fact: [group.value for group in one.subgroups] for one in fact_scores(answers(facts, {1, 2, 50}), FAST)
    }
    assert found == {"patient_age": ["18 to 39", "40 to 64"]}  # the stage is another name of the classes


def test_sources_and_modalities_are_facts_too():
    sources = ["north"] * 30 + ["south"] * 30
    (found,) = fact_scores(answers([{}] * 60, {1, 2, 3}, source=sources), FAST)
    assert (found.fact, found.worst) == ("source", "north")


def test_of_ranks_the_highest_is_the_worst():
    header = make_header("search", kind="retrieval", classes=(), main_metric="image_to_text/median_rank")
    items = make_items(60, facts=[{"site": "a" if at < 30 else "b"} for at in range(60)])
    rows = [
        ("image_to_text", rank, rank) for rank in [2 + at % 2 for at in range(30)] + [7 + at % 2 for at in range(30)]
    ]
    (found,) = fact_scores(ranked(header, rows, items), FAST)
    assert (found.worst, found.best, found.gap) == ("b", "a", 5)
    assert 4 <= found.low <= found.high <= 6


def test_the_table_names_the_worst_and_what_was_left_out():
    facts = [{"sex": "female"}] * 60 + [{"sex": "male"}] * 40 + [{}] * 3
    table = subgroup_table(fact_scores(answers(facts, {*range(12)}), FAST), "new")
    assert table.rows[0][:3] == ("sex", "female (worst)", "0.800")
    assert "gap 0.200" in table.notes[0]
    assert table.notes[0].endswith("left out: 3 not known")
