"""Numbers of CLIP_benchmark 1.6.2 on frozen embeddings, where that folder lies beside the checkout."""

import json
from pathlib import Path

import numpy as np
import pytest

from zeroshot_eval.classification import classification_metrics
from zeroshot_eval.retrieval import Pairs, rank_pairs, retrieval_statistic

BENCH = Path(__file__).parents[3] / "shared" / "bench_clipbench"
pytestmark = pytest.mark.skipif(not (BENCH / "embeddings").is_dir(), reason="bench_clipbench is not at hand")


def golden() -> dict[tuple[str, str, str], dict]:
    results = json.loads((BENCH / "golden" / "golden.json").read_text())["results"]
    return {(row["dataset"], row["weights"], row["metric"]): row for row in results}


@pytest.mark.parametrize("weights", ["random", "trained"])
@pytest.mark.parametrize("dataset", ["finding4", "modality6"])
def test_classification(dataset: str, weights: str):
    stored = np.load(BENCH / "embeddings" / f"{dataset}_{weights}.npz")
    cosines = stored["image"] @ stored["classifier"].T
    extra = json.loads((BENCH / "golden" / "reference_extra.json").read_text())["extra"][f"{dataset}/{weights}"]
    found = classification_metrics(stored["target"], cosines, np.ones((1, len(cosines))), extra["logit_scale"])
    expected = golden()
    assert found["accuracy"][0] == pytest.approx(expected[dataset, weights, "acc1"]["value"], abs=1e-6)
    balanced = expected[dataset, weights, "mean_per_class_recall"]["value"]
    assert found["balanced_accuracy"][0] == pytest.approx(balanced, abs=1e-6)
    assert found["auroc"][0] == pytest.approx(extra["auroc_ovr_macro_prob"], abs=1e-6)
    assert found["auroc_cosine"][0] == pytest.approx(extra["auroc_ovr_macro_cosine_medmnist"], abs=1e-6)


@pytest.mark.parametrize("weights", ["random", "trained"])
def test_retrieval_of_one_caption_an_image(weights: str):
    stored = np.load(BENCH / "embeddings" / f"retrieval48_1to1_{weights}.npz")
    ranks = rank_pairs(Pairs(stored["image"], stored["text"], stored["text_image_index"]))
    ones, expected = np.ones((1, 48)), golden()
    to_text, to_image = (retrieval_statistic(ranks[way])(ones) for way in ("image_to_text", "text_to_image"))
    for k in (1, 5, 10):
        key = ("retrieval48_1to1", weights)
        assert to_text[f"recall@{k}"][0] == pytest.approx(
            expected[*key, f"text_retrieval_recall@{k}"]["value"], abs=1e-6
        )
        assert to_image[f"recall@{k}"][0] == pytest.approx(
            expected[*key, f"image_retrieval_recall@{k}"]["value"], abs=1e-6
        )
