"""From a packed set and a checkpoint to scores.json and the report."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipmed.errors import ClipmedError, ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.zeroshot import class_embeddings, embed_images, eval_pixels
from shards.reader import ShardSet
from tests.shards.servers import http_server
from zeroshot_eval import embedding
from zeroshot_eval.__main__ import main
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate, write_scores
from zeroshot_eval.report import render_report, write_report
from zeroshot_eval.suite_files import SUITES_FOLDER

NUM_TEST = 8  # of each colour and source


def config_of(checkpoint: Path, suite: Path, shard_set: Path, out: Path, **changes) -> EvalConfig:
    values = {"sets": (shard_set,), "out": out, "bootstrap_samples": 100, "batch_size": 16} | changes
    return EvalConfig(checkpoint=str(checkpoint), suite=str(suite), **values)


@pytest.fixture
def evaluation(checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path) -> Evaluation:
    return evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out"))


def rows_of(evaluation: Evaluation, **values) -> list:
    return [row for row in evaluation.rows if all(getattr(row, name) == value for name, value in values.items())]


def test_accuracy_is_that_of_the_library_image_by_image(evaluation: Evaluation, checkpoint: Path, shard_set: Path):
    from clipmed.checkpoints import load_checkpoint

    two_tower, opened = load_checkpoint(checkpoint), ShardSet(shard_set)
    task = evaluation.suite.tasks[1]
    classifier = class_embeddings(two_tower, task.all_prompts()).numpy()
    names, hits = list(task.classes), []
    for row in opened.rows("test"):
        labels = opened.labels(row)
        if "tiles_colour" in labels:
            pixels = eval_pixels(opened.image_bytes(row), two_tower.image_size, two_tower.mean, two_tower.std)
            cosines = embed_images(two_tower, pixels[None]).numpy() @ classifier.T
            hits.append(names[int(cosines.argmax())] == labels["tiles_colour"][0])
    [row] = rows_of(evaluation, task="tiles", metric="accuracy")
    assert row.value == pytest.approx(np.mean(hits))
    assert row.n == len(hits) == 4 * NUM_TEST
    assert row.groups == 4 * NUM_TEST // 2


def test_scores_file_has_every_figure_with_n_interval_and_chance(evaluation: Evaluation):
    scores = json.loads(write_scores(evaluation).read_text())
    for row in scores["rows"]:
        assert row["n"] > 0
        assert row["groups"] > 1
        assert row["low"] <= row["high"]
        if row["metric"] in {"accuracy", "balanced_accuracy", "auroc", "image_to_text/recall@5"}:
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
        assert row["chance"] > 0
        assert row["checkpoint_digest"] == evaluation.digest
        assert row["dataset_digest"] == evaluation.sets[0].digest
    assert {row["task"] for row in scores["rows"] if row["task"]} == {
        "squares",
        "tiles",
        "squares_grey",
        "captions",
        "ct_captions",
    }
    assert scores["phantom"] is True
    assert np.sum(scores["confusion"]["tiles"]["counts"]) == 4 * NUM_TEST
    saved = yaml.safe_load((evaluation.config.out / "config.yaml").read_text())
    assert saved["bootstrap_samples"] == 100


def test_averages_leave_out_held_out_tasks_and_weigh_modalities_alike(evaluation: Evaluation):
    by_task = {row.task: row.value for row in rows_of(evaluation, metric="accuracy", level="task")}
    modality = {row.modality: row.value for row in rows_of(evaluation, metric="accuracy", level="modality")}
    assert modality == {"ct": by_task["squares"], "mri": by_task["tiles"]}
    [overall] = rows_of(evaluation, metric="accuracy", level="overall")
    assert overall.value == pytest.approx((by_task["squares"] + by_task["tiles"]) / 2)
    assert overall.n == 7 * NUM_TEST  # three colours of squares, four of tiles
    [held_out] = rows_of(evaluation, metric="accuracy", held_out=True)
    assert (held_out.task, held_out.n) == ("squares_grey", NUM_TEST)


def test_retrieval_counts_shared_captions_and_says_so(evaluation: Evaluation):
    result = evaluation.retrieval[1]
    assert (result.distinct, result.shared) == (4, 4 * NUM_TEST)
    [row] = rows_of(evaluation, task="ct_captions", metric="image_to_text/recall@1")
    assert row.chance == pytest.approx(NUM_TEST / (4 * NUM_TEST))
    assert "32 images share their caption with another image" in render_report(evaluation)


def test_a_warm_cache_gives_the_same_scores_without_the_model_or_the_images(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise AssertionError("touched the images or the model")

    monkeypatch.setattr(embedding, "load_checkpoint", fail)
    monkeypatch.setattr(embedding, "eval_pixels", fail)
    embedding._loaded.cache_clear()
    assert evaluate(evaluation.config).rows == evaluation.rows


def test_an_interrupted_pass_embeds_only_what_is_missing(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A second suite over train and test finds the test images embedded."""
    decoded = []
    monkeypatch.setattr(
        embedding, "eval_pixels", lambda image, *args: decoded.append(image) or eval_pixels(image, *args)
    )
    suite = tmp_path / "train.yaml"
    suite.write_text("name: train\ntitle: Train\nretrieval:\n- {name: a, split: train}\n- {name: b, split: test}\n")
    config = config_of(Path(evaluation.config.checkpoint), suite, evaluation.config.sets[0], evaluation.config.out)
    evaluate(config)
    assert len(decoded) == 2 * 4 * 4  # the training images alone: two sources, four colours, four each


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_cache_is_computed_anew_with_a_message(
    evaluation: Evaluation, damage: str, capsys: pytest.CaptureFixture[str]
):
    files = sorted(evaluation.config.cache_folder.rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        data = bytearray(file.read_bytes())
        data[-3] ^= 0xFF
        file.write_bytes(data if damage == "flip" else data[:50])
    assert evaluate(evaluation.config).rows == evaluation.rows
    assert capsys.readouterr().err.count("embedding cache is damaged and is computed anew") == 2


@pytest.mark.slow
def test_processes_give_the_scores_of_one(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(embedding, "BLOCK_ROWS", 40)  # three parts
    jobs = JobsConfig(executor="processes", workers=2)
    config = config_of(
        Path(evaluation.config.checkpoint),
        Path(evaluation.config.suite),
        evaluation.config.sets[0],
        tmp_path / "spread",
        jobs=jobs,
    )
    spread = evaluate(config)
    assert len(list((tmp_path / "spread").rglob("part-*.safetensors"))) == 3
    for one, other in zip(evaluation.classification, spread.classification, strict=True):
        np.testing.assert_allclose(one.cosines, other.cosines, atol=1e-5)


def test_the_same_set_twice_is_scored_once(evaluation: Evaluation):
    config = config_of(
        Path(evaluation.config.checkpoint),
        Path(evaluation.config.suite),
        evaluation.config.sets[0],
        evaluation.config.out,
        sets=evaluation.config.sets * 2,
    )
    twice = evaluate(config)
    assert twice.repeated == 2 * 4 * NUM_TEST
    assert [row.value for row in twice.rows] == [row.value for row in evaluation.rows]


class Page(HTMLParser):
    """Collects a page's text, ids and whatever would be fetched from elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.fetched, self.images = "", set(), [], 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.images += tag == "img"
        links = [values[name] for name in ("src", "href") if values.get(name)]
        self.fetched += [link for link in links if not link.startswith(("data:", "#"))]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_shows_all_and_fetches_nothing(evaluation: Evaluation):
    run = evaluation.checkpoint.parent / "metrics.jsonl"
    rows = [{"kind": "train", "step": step, "loss": 3 - step / 10} for step in range(10)]
    recall = {"image_to_text_r5": 0.4, "image_to_text_chance_r5": 0.1}
    rows.append({"kind": "validation", "step": 9, "loss": 2.5, **recall})
    run.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    html = write_report(evaluation).read_text()
    run.unlink()
    page = Page(html)
    assert page.fetched == []
    assert "url(" not in html
    assert {f"task-{name}" for name in ("squares", "tiles", "squares_grey")} <= page.ids
    for text in (
        "Phantoms: synthetic images, no medical meaning.",
        "Colours <of> squares",
        "Tiles are easy.",
        "Held-out combinations",
        "ct captions",
        "98 items seen, 2 dropped, 96 samples",
        "image: image corrupt",
        "The counts add up",
        "Validation retrieval, recall@5",
        evaluation.digest,
    ):
        assert text in page.text, text
    assert "</svg> chance </p>" in html
    assert page.images >= 12
    assert re.search(r"python -m zeroshot_eval .* --sets .* --bootstrap-samples 100", page.text)


def test_report_warns_where_the_counts_do_not_add_up(evaluation: Evaluation):
    row = next(row for row in evaluation.sets[0].manifest["attrition"] if row["reason"] == "items_seen")
    row["count"] += 1
    page = Page(render_report(evaluation))
    assert "The counts do not add up: squares: 50 seen, but 1 dropped + 48 kept" in page.text


def test_report_of_real_images_has_no_phantom_banner(evaluation: Evaluation, suite_data: dict, tmp_path: Path):
    suite_data["phantom"] = False
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(suite_data))
    config = config_of(Path(evaluation.config.checkpoint), path, evaluation.config.sets[0], evaluation.config.out)
    text = Page(render_report(evaluate(config))).text
    assert "Phantoms" not in text
    assert "not a medical device" in text


def changed(suite_file: Path, change: dict) -> Path:
    data = yaml.safe_load(suite_file.read_text())
    data["tasks"][1] |= change
    suite_file.write_text(yaml.safe_dump(data))
    return suite_file


def test_labels_that_are_no_candidates_are_counted(checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path):
    changed(suite_file, {"classes": {"red": ["red"], "blue": ["blue"], "green": ["green"]}})
    found = evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out"))
    assert found.classification[1].selection.excluded == {"label 'grey' is no candidate": NUM_TEST}
    assert "Not asked: 8 (label 'grey' is no candidate)" in Page(render_report(found)).text


def test_a_class_that_the_set_does_not_know_is_refused_before_embedding(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path
):
    changed(suite_file, {"classes": {"red": ["red"], "blu": ["blue"]}})
    with pytest.raises(ConfigError, match=r"class 'blu' is not in .*did you mean 'blue'"):
        evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "texture"}, "the sets have no label task 'texture'"),
        ({"split": "val"}, "split 'val' holds no sample for it"),
        ({"sources": ["elsewhere"]}, "split 'test' holds no sample for it of the sources elsewhere"),
    ],
)
def test_a_task_without_samples_is_marked_and_the_others_are_scored(
    evaluation: Evaluation, suite_file: Path, change: dict, reason: str
):
    changed(suite_file, change)
    found = evaluate(evaluation.config)
    assert [(skipped.task, skipped.reason) for skipped in found.skipped] == [("tiles", reason)]
    assert rows_of(found, task="squares") == rows_of(evaluation, task="squares")
    assert rows_of(found, task="tiles") == []
    assert f"Not scored: tiles ({reason})" in Page(render_report(found)).text


def test_a_suite_of_which_nothing_is_left_is_an_error(checkpoint: Path, shard_set: Path, tmp_path: Path):
    message = r"'real' has no task .*no label task 'polyp'.*; the sets' label tasks: squares_colour, tiles_colour;"
    suite = tmp_path / "real.yaml"
    data = yaml.safe_load((SUITES_FOLDER / "real.yaml").read_text()) | {"retrieval": []}
    suite.write_text(yaml.safe_dump(data))
    with pytest.raises(DataError, match=message):
        evaluate(config_of(checkpoint, suite, shard_set, tmp_path / "out"))


def test_a_checkpoint_that_gives_nan_is_refused(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedding, "embed_images", lambda *args: embed_images(*args) * float("nan"))
    with pytest.raises(DataError, match="embeddings that are not finite for 64 of 64 images"):
        evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("part-*"))


def test_command_line_ends_with_the_report(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "scores"
    main([str(checkpoint), str(suite_file), "--sets", str(shard_set), "--out", str(out), "--bootstrap-samples", "100"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "phantoms: synthetic images, no medical meaning" in printed
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "embeddings", "report.html", "scores.json"]


def test_command_line_fails_with_one_line(checkpoint: Path, shard_set: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match="zeroshot_eval: no suite is called 'reel'"):
        main([str(checkpoint), "reel", "--sets", str(shard_set), "--out", str(tmp_path)])
    with pytest.raises(ClipmedError, match="sets: got none"):
        config_of(checkpoint, tmp_path, shard_set, tmp_path, sets=())


def test_a_set_over_http_scores_as_the_folder(
    evaluation: Evaluation, checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("CLIPMED_CACHE", str(tmp_path / "cache"))
    with http_server(shard_set.parent) as server:
        config = config_of(checkpoint, suite_file, shard_set, tmp_path / "remote")
        remote = evaluate(replace(config, sets=(f"{server.url}/{shard_set.name}",)))
    assert remote.rows == evaluation.rows
