"""Every number of CLIP_benchmark 1.6.2 on a frozen bench, where that folder lies beside the checkout.

From its embeddings to 1e-6, and from its images through our command line within one sample. Where the order of equal
scores decides what CLIP_benchmark reports, our value must lie between the best and the worst order.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from zeroshot_eval.__main__ import main
from zeroshot_eval.classification import classification_metrics
from zeroshot_eval.multi_label import clip_benchmark_average_precision
from zeroshot_eval.predictions import predictions_path, read_predictions
from zeroshot_eval.retrieval import Pairs, rank_pairs, retrieval_statistic

BENCH = Path(__file__).parents[3] / "shared" / "bench_clipbench"
WEIGHTS = ("random", "trained")
OURS = {"acc1": "accuracy", "acc5": "top5_accuracy", "mean_per_class_recall": "balanced_accuracy"}
DIRECTIONS = {"image_retrieval": "text_to_image", "text_retrieval": "image_to_text"}

pytestmark = pytest.mark.skipif(not (BENCH / "embeddings").is_dir(), reason="bench_clipbench is not at hand")


class Golden(NamedTuple):
    """One number of CLIP_benchmark's, or the bounds that the order of ties leaves it."""

    dataset: str
    weights: str
    metric: str
    low: float
    high: float
    one_sample: float


def golden() -> list[Golden]:
    if not BENCH.is_dir():
        return []
    rows = json.loads((BENCH / "golden" / "golden.json").read_text())["results"]
    return [
        Golden(
            row["dataset"],
            row["weights"],
            row["metric"],
            *row.get("tie_bounds", (row["value"], row["value"])),
            row["e2e_tol"],
        )
        for row in rows
        if row["value"] is not None
    ]


def retrieval_values(stored: dict[str, np.ndarray]) -> dict[str, float]:
    """Recalls by CLIP_benchmark's rule: only an image's own captions are right."""
    _, same = np.unique(stored["captions"], return_inverse=True)
    ranks = rank_pairs(Pairs(stored["image"], stored["text"], stored["text_image_index"], same))
    return {
        f"{theirs}_{metric}": float(value[0])
        for theirs, ours in DIRECTIONS.items()
        for metric, value in retrieval_statistic(ranks[ours])(np.ones((1, len(ranks[ours].best)))).items()
    }


def values_from_embeddings(dataset: str, weights: str) -> dict[str, float]:
    stored = dict(np.load(BENCH / "embeddings" / f"{dataset}_{weights}.npz"))
    if dataset.startswith("retrieval"):
        return retrieval_values(stored)
    cosines = stored["image"] @ stored["classifier"].T
    if dataset.startswith("multilabel"):
        return {"mean_average_precision": clip_benchmark_average_precision(stored["target"].astype(np.int8), cosines)}
    found = classification_metrics(stored["target"], cosines, np.ones((1, len(cosines))), 100.0)
    return {theirs: float(found[ours][0]) for theirs, ours in OURS.items() if ours in found}


@pytest.fixture(scope="module")
def from_embeddings() -> dict[tuple[str, str], dict[str, float]]:
    return {pair: values_from_embeddings(*pair) for pair in {(row.dataset, row.weights) for row in golden()}}


@pytest.fixture(scope="module")
def from_images(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, float]]:
    """The values of one run of our command line over both checkpoints and all five datasets."""
    root = tmp_path_factory.mktemp("bench")
    checkpoints = []
    for weights in WEIGHTS:
        folder = root / weights
        folder.mkdir()
        config = {"model_cfg": json.loads((BENCH / "tinymed-ViT.json").read_text()), "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        shutil.copy(BENCH / f"{weights}.safetensors", folder / "open_clip_model.safetensors")
        checkpoints.append(str(folder))
    sets = [str(path) for path in sorted((BENCH / "data").glob("wds_*"))]
    words = ["score", *checkpoints, "--suite", "auto", "--sets", *sets, "--out", str(root / "out")]
    assert main([*words, "--bootstrap-samples", "0", "--no-report"]) == 0
    scores = json.loads((root / "out" / "scores.json").read_text())
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in scores["rows"]:
        if row["level"] == "task":
            task = row["task"].removeprefix("captions_")
            found.setdefault((task, row["checkpoint"]), {})[row["metric"]] = row["value"]
    return {key: named_as_theirs(root / "out", *key, values) for key, values in found.items()}


def named_as_theirs(out: Path, dataset: str, weights: str, values: dict[str, float]) -> dict[str, float]:
    if dataset.startswith("retrieval"):
        rule = "own_" if any("/own_" in name for name in values) else ""
        return {
            f"{theirs}_recall@{k}": values[f"{ours}/{rule}recall@{k}"]
            for theirs, ours in DIRECTIONS.items()
            for k in (1, 5, 10)
        }
    if dataset.startswith("multilabel"):
        kept = read_predictions(predictions_path(out, weights, dataset))
        return {"mean_average_precision": clip_benchmark_average_precision(kept.targets, kept.scores)}
    return {theirs: values[ours] for theirs, ours in OURS.items() if ours in values}


@pytest.mark.parametrize("row", golden(), ids=lambda row: f"{row.dataset}-{row.weights}-{row.metric}")
def test_value_from_embeddings(row: Golden, from_embeddings: dict[tuple[str, str], dict[str, float]]):
    value = from_embeddings[row.dataset, row.weights][row.metric]
    assert row.low - 1e-6 <= value <= row.high + 1e-6


@pytest.mark.parametrize("row", golden(), ids=lambda row: f"{row.dataset}-{row.weights}-{row.metric}")
def test_value_from_images(row: Golden, from_images: dict[tuple[str, str], dict[str, float]]):
    value = from_images[row.dataset, row.weights][row.metric]
    assert row.low - row.one_sample <= value <= row.high + row.one_sample


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dataset", ["finding4", "modality6"])
def test_areas_and_calibration_of_an_independent_implementation(dataset: str, weights: str):
    stored = np.load(BENCH / "embeddings" / f"{dataset}_{weights}.npz")
    cosines = stored["image"] @ stored["classifier"].T
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"{dataset}/{weights}"]
    found = classification_metrics(stored["target"], cosines, np.ones((1, len(cosines))), extra["logit_scale"])
    assert found["auroc"][0] == pytest.approx(extra["auroc_ovr_macro_prob"], abs=1e-6)
    assert found["auroc_cosine"][0] == pytest.approx(extra["auroc_ovr_macro_cosine_medmnist"], abs=1e-6)
    assert found["ece"][0] == pytest.approx(extra["ece15_model_scale"], abs=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_recall_where_equal_texts_are_right_of_an_independent_implementation(weights: str):
    stored = np.load(BENCH / "embeddings" / f"retrieval90_{weights}.npz")
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"retrieval90/{weights}"]
    _, same = np.unique(stored["captions"], return_inverse=True)
    ranks = rank_pairs(Pairs(stored["image"], stored["text"], stored["text_image_index"], same), same_text=True)
    for theirs, ours in DIRECTIONS.items():
        found = retrieval_statistic(ranks[ours])(np.ones((1, len(ranks[ours].best))))
        for k in (1, 5):
            expected = extra[f"{theirs}_recall@{k}_identical_text_positive"]
            assert found[f"recall@{k}"][0] == pytest.approx(expected, abs=1e-6)
