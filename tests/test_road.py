"""The whole road on few phantoms: archives to scores; every count adds up, every defect has a reason code."""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipmed
from dataset_builders.__main__ import main as dataset_builders
from shards.__main__ import main as shards
from shards.reader import ShardSet
from train.__main__ import main as train
from zeroshot_eval.__main__ import main as zeroshot_eval

FEW = ["--size", "48", "--train-per-class", "3", "--val-per-class", "1", "--test-per-class", "2", "--articles", "24"]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    assert dataset_builders(["phantoms", "--out", str(folder / "archives"), *FEW, "--jobs.executor", "inline"]) == 0
    options = ["--root", str(folder / "archives"), "--out", str(folder / "spools"), "--jobs.executor", "inline"]
    assert dataset_builders(["build", "phantoms", *options]) == 0
    spools = [str(path) for path in sorted((folder / "spools").iterdir())]
    assert shards(["pack", *spools, "--out", str(folder / "set"), "--jobs.executor", "inline"]) == 0
    run = ["--data.sets", str(folder / "set"), "--out", str(folder / "run"), "--data.workers", "0"]
    assert train(["demo_smoke", *run]) == 0
    scores = ["--sets", str(folder / "set"), "--out", str(folder / "scores"), "--jobs.executor", "inline"]
    words = ["score", str(folder / "run" / "model"), "--suite", "phantoms", *scores, "--bootstrap-samples", "100"]
    assert zeroshot_eval(words) == 0
    return folder


def test_the_set_is_whole(road):
    assert shards(["verify", str(road / "set")]) == 0


def test_every_count_adds_up_from_archive_to_samples(road):
    manifest = json.loads((road / "set" / "manifest.json").read_text())
    rows = manifest["attrition"]
    for source in {row["source"] for row in rows}:
        of_source = [row for row in rows if row["source"] == source]
        seen = sum(row["count"] for row in of_source if row["reason"] == "items_seen")
        kept = sum(row["count"] for row in of_source if row["stage"] == "samples")
        dropped = sum(abs(row["count"]) for row in of_source) - seen - kept
        assert seen == kept + dropped
        units = [json.loads(path.read_text()) for path in (road / "spools" / source).glob("unit-*/unit.json")]
        assert seen == sum(unit["seen"] for unit in units)
    assert sum(len(ShardSet(road / "set").rows(split)) for split in ("train", "val", "test")) == sum(
        row["count"] for row in rows if row["stage"] == "samples"
    )


def test_every_planted_defect_is_a_reject_row_with_its_reason(road):
    rejects = pq.read_table(road / "set" / "rejects.parquet").to_pylist()
    reasons = [(reject["source"], reject["reason"]) for reject in rejects]
    for source, reason, count in [
        ("phantom_xray", "image_corrupt", 1),
        ("phantom_xray", "duplicate_exact", 1),
        ("phantom_pmc_packages", "image_corrupt", 1),
        ("phantom_pmc_packages", "article_without_figures", 1),
        ("phantom_pmc_bucket", "article_malformed", 1),
        ("phantom_pmc_bucket", "article_retracted", 1),
        ("phantom_pmc_bucket", "superseded_version", 1),
    ]:
        assert reasons.count((source, reason)) == count, (source, reason)
    shared = [reject for reject in rejects if reject["reason"] == "duplicate_exact" and "pmc" in reject["source"]]
    assert len(shared) <= 1  # two articles share one image; the licence gate may have taken one of them already


def test_held_out_combinations_never_reach_training(road):
    train_rows = ShardSet(road / "set")
    for row in train_rows.rows("train"):
        assert "linear_defect" not in train_rows.labels(row).get("phantom_ct", [])
        assert "haemorrhage" not in train_rows.labels(row).get("phantom_dermatology", [])


def test_the_report_names_every_task_and_says_that_these_are_phantoms(road):
    scores = json.loads((road / "scores" / "scores.json").read_text())["rows"]
    tasks = {row["task"] for row in scores if row["level"] == "task"}
    assert {"phantom_xray", "phantom_ct", "phantom_ct_held_out", "phantom_images"} <= tasks
    assert all(row["n"] > 0 for row in scores)
    assert {row["held_out"] for row in scores if row["task"] == "phantom_ct_held_out"} == {True}
    report = (road / "scores" / "report.html").read_text()
    assert "synthetic images, no medical meaning" in report
    assert "items seen" in report.lower()
    assert not [line for line in report.splitlines() if 'src="http' in line]


def test_the_model_serves_a_stranger(road):
    model = clipmed.load(road / "run" / "model")
    (result,) = model.classify(Image.new("RGB", (64, 64), "gray"), ["a mass", "nothing abnormal"])
    assert sum(result.probabilities.values()) == pytest.approx(1)
    card = (road / "run" / "model" / "README.md").read_text()
    assert "phantom" in card.lower()
    assert "CC-BY" in card
