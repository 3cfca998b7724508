"""The arithmetic of the benchmark beside CLIP_benchmark: names, bounds of ties, ratios. No timing."""

import json
from pathlib import Path

import pytest

from benchmarks.eval import Cost, costs_of, differing, our_values, peer_calls, peer_values, ratios


def cost(wall_s: float, cpu_s: float = 1.0, peak_mb: float = 1.0) -> Cost:
    return Cost(wall_s=wall_s, cpu_s=cpu_s, peak_mb=peak_mb)


def row(task: str, metric: str, value: float, level: str = "task") -> dict:
    return {"level": level, "task": task, "checkpoint": "trained", "metric": metric, "value": value}


SCORES = {
    "rows": [
        row("finding4", "accuracy", 0.7),
        row("finding4", "balanced_accuracy", 0.6),
        row("captions_retrieval90", "image_to_text/recall@1", 0.6),
        row("captions_retrieval90", "image_to_text/own_recall@1", 0.35),
        row("captions_retrieval48_1to1", "text_to_image/recall@5", 1.0),
        row("", "accuracy", 0.1, level="overall"),
    ],
    "details": {
        "trained": {
            "finding4": {},
            "captions_retrieval90": {"ties": {"image_to_text/own_recall@1": [0.3, 0.4]}},
            "captions_retrieval48_1to1": {"ties": {}},
        }
    },
}


def test_our_values_follow_clip_benchmarks_rule_where_captions_repeat():
    assert our_values(SCORES) == {
        ("finding4", "trained", "accuracy"): (0.7, 0.7),
        ("finding4", "trained", "balanced_accuracy"): (0.6, 0.6),
        ("retrieval90", "trained", "image_to_text/recall@1"): (0.3, 0.4),
        ("retrieval48_1to1", "trained", "text_to_image/recall@5"): (1.0, 1.0),
    }


def test_its_result_files_are_read_by_our_names(tmp_path: Path):
    results = [
        ("finding4", {"acc1": 0.7, "acc5": float("nan"), "mean_per_class_recall": 0.6}),
        ("retrieval90", {"text_retrieval_recall@1": 0.33, "image_retrieval_recall@5": 0.9}),
    ]
    for dataset, metrics in results:
        content = {"dataset": f"wds/{dataset}", "pretrained": "trained.safetensors", "metrics": metrics}
        (tmp_path / f"{dataset}.json").write_text(json.dumps(content))
    assert peer_values(tmp_path) == {
        ("finding4", "trained", "accuracy"): 0.7,
        ("finding4", "trained", "balanced_accuracy"): 0.6,
        ("retrieval90", "trained", "image_to_text/recall@1"): 0.33,
        ("retrieval90", "trained", "text_to_image/recall@5"): 0.9,
    }


def test_values_within_the_bounds_of_ties_agree_and_others_are_named():
    ours = our_values(SCORES)
    agreeing = {
        ("finding4", "trained", "accuracy"): 0.70009,
        ("retrieval90", "trained", "image_to_text/recall@1"): 0.33,
    }
    assert differing(agreeing, ours) == []
    wrong = {
        ("finding4", "trained", "accuracy"): 0.71,
        ("retrieval90", "trained", "image_to_text/recall@1"): 0.41,
        ("finding4", "trained", "average_precision"): 0.5,
    }
    lines = differing(wrong, ours)
    assert len(lines) == 3
    assert "0.710000, ours 0.700000" in lines[0]


def test_ratios_are_taken_round_by_round():
    theirs, ours = [cost(10, 8), cost(40, 9), cost(12, 8)], [cost(2, 2), cost(4, 3), cost(3, 4)]
    found = ratios("cold", theirs, ours)
    assert found["ratio_cold_vs_clip_benchmark"] == 5
    assert found["ratio_cold_vs_clip_benchmark_lowest"] == 4
    assert found["ratio_cold_vs_clip_benchmark_highest"] == 10
    assert found["ratio_cold_cpu_vs_clip_benchmark"] == 3


def test_costs_of_processes_add_up_and_memory_is_the_larger_one():
    assert cost(1, 2, 300) + cost(10, 20, 200) == cost(11, 22, 300)
    medians = costs_of({"cold": [cost(1, 5, 10), cost(9, 6, 30), cost(2, 7, 20)]})
    assert medians == {"cold_s": 2, "cold_cpu_s": 6, "cold_peak_mb": 30}


def test_both_of_its_evaluations_ask_every_dataset_with_both_weights(tmp_path: Path):
    (tmp_path / "tiny.json").write_text("{}")
    classes, searches, table = peer_calls(tmp_path, tmp_path / "out")
    asked = [word for call in (classes, searches) for word in call if word.startswith("wds/")]
    assert len(asked) == len(set(asked)) == 5
    for call in (classes, searches):
        assert {"random.safetensors", "trained.safetensors", "--no_amp", "tiny"} <= set(call)
    assert sum(word.endswith(".safetensors.json") for word in table) == 10


@pytest.mark.parametrize("metric", ["acc1", "image_retrieval_recall@10"])
def test_a_metric_that_we_lack_is_a_difference(metric: str, tmp_path: Path):
    content = {"dataset": "wds/other", "pretrained": "random.safetensors", "metrics": {metric: 0.5}}
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert len(differing(peer_values(tmp_path), our_values(SCORES))) == 1
