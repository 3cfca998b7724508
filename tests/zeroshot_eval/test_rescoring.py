"""Metrics of stored answers: by hand for each kind, and equal to those that scoring gave."""

from pathlib import Path

import numpy as np
import pytest

from tests.zeroshot_eval.stored_answers import (
    answered,
    chosen_options,
    classified,
    make_header,
    make_items,
    multi_labelled,
    ranked,
)
from zeroshot_eval.evaluation import EvalConfig, evaluate
from zeroshot_eval.predictions import list_predictions, read_predictions
from zeroshot_eval.rescoring import asked_rows, is_right, metric_values, statistic_of
from zeroshot_eval.score_files import write_scores


def test_classes_by_hand():
    found = answered(make_header("lesions"), [0, 0, 0, 1], [0, 0, 1, 1])
    values = metric_values(found)
    assert values["accuracy"] == 0.75
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["recall/benign"] == pytest.approx(2 / 3)
    assert is_right(found).tolist() == [True, True, False, True]
    weights = np.array([[1.0, 1, 1, 1], [0, 0, 3, 1]])
    only = statistic_of(found, {"accuracy", "recall/benign", "no_such"})(weights)
    assert {name: values.tolist() for name, values in only.items()} == {
        "accuracy": [0.75, 0.25],
        "recall/benign": [pytest.approx(2 / 3), 0.0],
    }


def test_several_labels_leave_unknown_ones_out():
    header = make_header("findings", kind="multi_label", classes=("mass", "fluid"), main_metric="auroc")
    found = multi_labelled(header, [[1, 0], [0, 1], [-1, 1]], [[0.9, 0.8], [0.1, 0.5], [0.2, 0.7]])
    values = metric_values(found)
    assert values["auroc/mass"] == 1.0
    assert values["auroc/fluid"] == 0.0
    assert values["auroc"] == 0.5
    assert is_right(found) is None


def test_questions_in_sets_where_a_tie_is_no_answer():
    header = make_header("pairs", kind="choice", classes=(), main_metric="set_accuracy")
    scores = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]]
    found = chosen_options(header, [0, 1, 0, 1, 0], scores, ["a", "a", "b", "b", "alone"])
    values = metric_values(found)
    assert values == {"accuracy": 0.6, "tied": 0.2, "set_accuracy": 0.5, "pair_matching": 1.0}
    halves = statistic_of(found)(np.array([[1.0, 1, 0, 0, 1], [0, 0, 1, 1, 1]]))
    assert halves["set_accuracy"].tolist() == [1.0, 0.0]
    assert is_right(found).tolist() == [True, True, True, False, False]


def test_retrieval_takes_each_direction_by_itself():
    header = make_header("search", kind="retrieval", classes=(), main_metric="image_to_text/recall@5")
    rows = [("image_to_text", 1, 1), ("image_to_text", 5, 6), *[("text_to_image", 2, 2)] * 8]
    found = ranked(header, rows, make_items(10))
    values = metric_values(found)
    assert values["image_to_text/recall@1"] == 0.5
    assert values["image_to_text/recall@5"] == 0.75  # ranks 5 and 6 are equally likely
    assert values["text_to_image/mrr"] == 0.5
    assert len(asked_rows(found, "image_to_text/recall@5").table) == 2
    without = statistic_of(found)(np.array([[0.0, 0, *[1] * 8]]))
    assert np.isnan(without["image_to_text/mrr"]).all()
    assert without["text_to_image/mrr"] == 0.5


def test_decision_values_of_a_probe_are_ranked_as_they_are():
    found = classified(
        make_header("probe", kind="probe", logit_scale=1.0), [0, 0, 1, 1], [[3, 0], [0, 1], [1, 2.5], [0, 4]]
    )
    assert metric_values(found)["auroc"] == 1.0


def test_every_metric_equals_that_of_the_evaluation(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, embeddings: Path
):
    config = EvalConfig(
        checkpoints=(str(checkpoint),), suite=(str(suite_file),), sets=(shard_set,), out=tmp_path,
        bootstrap_samples=0, batch_size=16, cache=embeddings,
    )  # fmt: skip
    evaluation = evaluate(config)
    write_scores(evaluation)
    (paths,) = list_predictions(tmp_path).values()
    assert len(paths) == 5
    for path in paths:
        stored = read_predictions(path)
        scored = {name: one.value for name, one in evaluation.runs[0].result(stored.header.task).measures.items()}
        other_rule = {name for name in scored if "/own_" in name}
        found = metric_values(stored)
        assert found.keys() == scored.keys() - other_rule
        assert found == pytest.approx({name: scored[name] for name in found}, abs=1e-12)
