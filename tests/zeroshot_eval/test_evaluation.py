"""From collections and checkpoints to scores, predictions and what is said of what was not scored."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clipmed.checkpoints import load_checkpoint, save_checkpoint
from clipmed.errors import ClipmedError, ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.pixels import eval_pixels
from clipmed.towers import ModelConfig, build_two_tower
from clipmed.zeroshot import class_embeddings, embed_images
from shards.reader import ShardSet
from tests.shards.servers import http_server
from tests.zeroshot_eval.conftest import coloured_square
from zeroshot_eval import embedding
from zeroshot_eval import evaluation as evaluation_module
from zeroshot_eval.__main__ import COMMANDS, main
from zeroshot_eval.encoder_protocol import LoadedEncoder
from zeroshot_eval.encoders import describe_encoder
from zeroshot_eval.evaluation import EvalConfig, Evaluation, evaluate
from zeroshot_eval.predictions import list_predictions, predictions_path, read_predictions, slug
from zeroshot_eval.score_files import write_scores
from zeroshot_eval.suite_files import SUITES_FOLDER

NUM_TEST = 8  # of each colour and source


def config_of(checkpoint: Path, suite: Path | str, shard_set: Path, out: Path, **changes) -> EvalConfig:
    values = {"sets": (shard_set,), "out": out, "bootstrap_samples": 100, "batch_size": 16} | changes
    return EvalConfig(checkpoints=(str(checkpoint),), suite=(str(suite),), **values)


@pytest.fixture
def evaluation(checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, embeddings: Path) -> Evaluation:
    return evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out", cache=embeddings))


@pytest.fixture(scope="session")
def second_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("second") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_checkpoint(folder, build_two_tower(ModelConfig()), "# tiny")
    return folder


def rows_of(evaluation: Evaluation, **values) -> list:
    return [row for row in evaluation.rows if all(getattr(row, name) == value for name, value in values.items())]


def test_accuracy_is_that_of_the_library_image_by_image(evaluation: Evaluation, checkpoint: Path, shard_set: Path):
    two_tower, opened = load_checkpoint(checkpoint), ShardSet(shard_set)
    task = evaluation.suites[0].tasks[1]
    classifier = class_embeddings(two_tower, task.all_prompts()).numpy()
    names, hits = list(task.classes), []
    for row in opened.rows("test"):
        labels = opened.labels(row)
        if "tiles_colour" in labels:
            pixels = eval_pixels(opened.image_bytes(row), two_tower.pixels)
            cosines = embed_images(two_tower, pixels[None]).numpy() @ classifier.T
            hits.append(names[int(cosines.argmax())] == labels["tiles_colour"][0])
    [row] = rows_of(evaluation, task="tiles", metric="accuracy")
    assert row.value == pytest.approx(np.mean(hits))
    assert row.n == len(hits) == 4 * NUM_TEST
    assert row.groups == 4 * NUM_TEST // 2


def test_scores_file_has_every_figure_with_n_interval_and_chance(evaluation: Evaluation):
    scores = json.loads(write_scores(evaluation).read_text(), parse_constant=pytest.fail)
    for row in scores["rows"]:
        assert row["n"] > 0
        assert row["groups"] > 1
        assert row["low"] <= row["high"]
        if row["metric"] in {"accuracy", "balanced_accuracy", "auroc", "image_to_text/recall@5"}:
            assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
        assert row["chance"] is not None
        assert row["checkpoint_digest"] == evaluation.runs[0].facts.digest
        assert row["dataset_digest"] == evaluation.collections[0].digest
    names = {"squares", "tiles", "squares_grey", "captions", "ct_captions"}
    assert {row["task"] for row in scores["rows"] if row["task"]} == names
    assert scores["phantom"] is True
    assert scores["tasks"]["tiles"]["main_metric"] == "balanced_accuracy"
    [name] = scores["confusion"]
    assert np.sum(scores["confusion"][name]["tiles"]["counts"]) == 4 * NUM_TEST
    prompts = scores["prompts"][name]["tiles"]
    assert set(prompts["templates"]) == {"a picture of {}", "an image that is {}"}
    whole = rows_of(evaluation, task="tiles", metric="balanced_accuracy")[0].value
    assert prompts["ensemble"] == pytest.approx(whole)
    assert list(prompts["prompts_a_class"]) == ["1", "2", "4"]
    assert prompts["prompts_a_class"]["4"]["median"] == pytest.approx(whole)
    saved = yaml.safe_load((evaluation.config.out / "config.yaml").read_text())
    assert saved["bootstrap_samples"] == 100
    table = pq.read_table(evaluation.config.out / "scores.parquet")
    assert table.to_pylist() == scores["rows"]


def test_predictions_give_the_scores_again(evaluation: Evaluation):
    write_scores(evaluation)
    run = evaluation.runs[0]
    found = read_predictions(predictions_path(evaluation.config.out, run.facts.name, "tiles"))
    accuracy = np.mean(found.scores.argmax(axis=1) == found.targets)
    assert accuracy == pytest.approx(rows_of(evaluation, task="tiles", metric="accuracy")[0].value)
    header = found.header
    assert (header.kind, header.modality, header.main_metric) == ("classification", "mri", "balanced_accuracy")
    assert header.classes == run.result("tiles").classes
    assert header.checkpoint_digest == run.facts.digest
    assert len(set(found.keys)) == len(found.keys) == 4 * NUM_TEST
    assert all(len(digest) == 64 for digest in found.column("sha256"))
    ranks = read_predictions(predictions_path(evaluation.config.out, run.facts.name, "ct_captions"))
    queries = ranks.table.filter([way == "image_to_text" for way in ranks.column("direction")])
    middle = [
        (best + worst) / 2
        for best, worst in zip(*(queries[name].to_pylist() for name in ("rank_best", "rank_worst")), strict=True)
    ]
    assert np.median(middle) == rows_of(evaluation, task="ct_captions", metric="image_to_text/median_rank")[0].value
    assert set(queries["num_correct"].to_pylist()) == {NUM_TEST}


def test_averages_leave_out_held_out_tasks_and_weigh_modalities_alike(evaluation: Evaluation):
    by_task = {row.task: row.value for row in rows_of(evaluation, metric="accuracy", level="task")}
    modality = {row.modality: row.value for row in rows_of(evaluation, metric="accuracy", level="modality")}
    assert modality == {"ct": by_task["squares"], "mri": by_task["tiles"]}
    [overall] = rows_of(evaluation, metric="accuracy", level="overall")
    assert overall.value == pytest.approx((by_task["squares"] + by_task["tiles"]) / 2)
    assert overall.n == 7 * NUM_TEST  # three colours of squares, four of tiles
    [held_out] = rows_of(evaluation, metric="accuracy", held_out=True)
    assert (held_out.task, held_out.n) == ("squares_grey", NUM_TEST)


def test_retrieval_counts_shared_captions_and_reports_both_rules(evaluation: Evaluation):
    result = evaluation.runs[0].result("ct_captions")
    assert (result.details["distinct"], result.details["shared"]) == (4, 4 * NUM_TEST)
    [same_text] = rows_of(evaluation, task="ct_captions", metric="image_to_text/recall@1")
    [own] = rows_of(evaluation, task="ct_captions", metric="image_to_text/own_recall@1")
    assert same_text.chance == pytest.approx(1 / 4)
    assert own.chance == pytest.approx(1 / (4 * NUM_TEST))
    # Eight copies of one caption tie: which of them is the image's own is a matter of chance, and is told as a bound.
    assert result.details["ties"]["image_to_text/own_recall@1"][0] == 0


def test_searches_within_a_modality_have_its_gallery(
    checkpoint: Path, shard_set: Path, tmp_path: Path, embeddings: Path
):
    suite = tmp_path / "within.yaml"
    tasks = [{"name": "all"}, {"name": "within", "gallery": "modality"}, {"name": "ct", "modality": "ct"}]
    suite.write_text(yaml.safe_dump({"name": "within", "title": "Within", "retrieval": tasks}))
    found = evaluate(config_of(checkpoint, suite, shard_set, tmp_path / "out", cache=embeddings))
    chance = {
        task: rows_of(found, task=task, metric="image_to_text/own_recall@5")[0].chance for task in ("all", "within")
    }
    assert chance == {"all": pytest.approx(5 / (8 * NUM_TEST)), "within": pytest.approx(5 / (4 * NUM_TEST))}
    ranks = {task: found.runs[0].result(task).columns["rank_worst"].to_pylist() for task in ("within", "ct")}
    items = found.runs[0].result("within").rows
    of_ct = [rank for rank, item in zip(ranks["within"], items, strict=True) if item.modality == "ct"]
    assert of_ct == ranks["ct"]


def test_a_warm_cache_gives_the_same_scores_without_the_model_or_the_images(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise AssertionError("touched the images or the model")

    monkeypatch.setattr(embedding, "open_encoder", fail)
    monkeypatch.setattr(LoadedEncoder, "pixels", fail)
    embedding._loaded.cache_clear()
    assert evaluate(evaluation.config).rows == evaluation.rows


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images that are decoded from now on."""
    seen: list[bytes] = []
    pixels = LoadedEncoder.pixels

    def counted(self: LoadedEncoder, data: bytes):
        seen.append(data)
        return pixels(self, data)

    monkeypatch.setattr(LoadedEncoder, "pixels", counted)
    return seen


def test_an_interrupted_pass_embeds_only_what_is_missing(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, decoded: list[bytes]
):
    """A second suite over train and test finds the test images embedded."""
    config = config_of(checkpoint, suite_file, shard_set, tmp_path / "out")
    evaluate(config)
    assert len(decoded) == 2 * 4 * NUM_TEST
    decoded.clear()
    suite = tmp_path / "train.yaml"
    suite.write_text("name: train\ntitle: Train\nretrieval:\n- {name: a, split: train}\n- {name: b, split: test}\n")
    evaluate(replace(config, suite=(str(suite),)))
    assert len(decoded) == 2 * 4 * 4  # the training images alone: two sources, four colours, four each


def test_checkpoints_share_the_decoded_images_and_keep_their_scores(
    evaluation: Evaluation, checkpoint: Path, second_checkpoint: Path, tmp_path: Path, decoded: list[bytes]
):
    both = (str(checkpoint), str(second_checkpoint))
    together = evaluate(replace(evaluation.config, checkpoints=both, cache=tmp_path / "together"))
    assert len(decoded) == 2 * 4 * NUM_TEST
    assert len({run.facts.name for run in together.runs}) == 2
    first = [
        replace(row, checkpoint="") for row in rows_of(together, checkpoint_digest=evaluation.runs[0].facts.digest)
    ]
    assert first == [replace(row, checkpoint="") for row in evaluation.rows]
    write_scores(together)
    assert [len(paths) for paths in list_predictions(together.config.out).values()] == [5, 5]
    write_scores(evaluation)  # into the same folder: nothing of the other checkpoint may stay
    assert [len(paths) for paths in list_predictions(evaluation.config.out).values()] == [5]


@pytest.mark.parametrize("names", [("a/model", "a/model"), ("a/model", "a model")])
def test_checkpoints_of_one_name_keep_folders_of_their_own(checkpoint: Path, names: tuple[str, str]):
    facts = [replace(describe_encoder(checkpoint), name=name) for name in names]
    for locations in (("runs/1", "runs/2"), ("runs/1", "runs-1")):
        named = [slug(one.name) for one in evaluation_module._named_apart(facts, locations)]
        assert len(set(named)) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_cache_is_computed_anew_with_a_message(
    evaluation: Evaluation, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    config = replace(evaluation.config, cache=tmp_path / "damaged")
    evaluate(config)
    files = sorted(config.cache_folder.rglob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        data = bytearray(file.read_bytes())
        data[-3] ^= 0xFF
        file.write_bytes(data if damage == "flip" else data[:50])
    assert evaluate(config).rows == evaluation.rows
    assert capsys.readouterr().err.count("embedding cache is damaged and is computed anew") == 2


@pytest.mark.slow
def test_processes_give_the_scores_of_one(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(embedding, "BLOCK_ROWS", 40)  # three parts
    jobs = JobsConfig(executor="processes", workers=2)
    spread = evaluate(replace(evaluation.config, cache=tmp_path / "spread", jobs=jobs))
    assert len(list((tmp_path / "spread").rglob("part-*.safetensors"))) == 3
    for one, other in zip(evaluation.runs[0].results, spread.runs[0].results, strict=True):
        if one.scores is not None:
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_the_same_set_twice_is_scored_once(evaluation: Evaluation):
    twice = evaluate(replace(evaluation.config, sets=evaluation.config.sets * 2))
    assert twice.repeated == 2 * 4 * NUM_TEST
    assert [row.value for row in twice.rows] == [row.value for row in evaluation.rows]


def changed(suite_file: Path, change: dict) -> Path:
    data = yaml.safe_load(suite_file.read_text())
    data["tasks"][1] |= change
    suite_file.write_text(yaml.safe_dump(data))
    return suite_file


def test_labels_that_are_no_candidates_are_counted(evaluation: Evaluation, suite_file: Path):
    changed(suite_file, {"classes": {"red": ["red"], "blue": ["blue"], "green": ["green"]}})
    found = evaluate(evaluation.config)
    assert found.runs[0].result("tiles").selection.excluded == {"label 'grey' is no candidate": NUM_TEST}
    scores = json.loads(write_scores(found).read_text())
    assert scores["excluded"] == {"tiles": {"label 'grey' is no candidate": NUM_TEST}}


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
        (
            {"sources": ["elsewhere"], "classes": {"a": ["a"], "b": ["b"]}},  # another source's classes of that name
            "split 'test' holds no sample for it of the sources elsewhere",
        ),
    ],
)
def test_a_task_without_samples_is_marked_and_the_others_are_scored(
    evaluation: Evaluation, suite_file: Path, change: dict, reason: str
):
    changed(suite_file, change)
    found = evaluate(evaluation.config)
    assert [(skipped.suite, skipped.task, skipped.reason) for skipped in found.skipped] == [
        ("colours", "tiles", reason)
    ]
    assert rows_of(found, task="squares") == rows_of(evaluation, task="squares")
    assert rows_of(found, task="tiles") == []
    assert json.loads(write_scores(found).read_text())["skipped"][0]["reason"] == reason


def test_a_main_metric_that_the_task_does_not_have_is_refused(evaluation: Evaluation, suite_file: Path):
    changed(suite_file, {"main_metric": "auroc_macro"})
    with pytest.raises(ConfigError, match=r"task 'tiles': main_metric: got 'auroc_macro'; did you mean 'auroc"):
        evaluate(evaluation.config)


def test_tasks_are_chosen_by_name_and_tag(evaluation: Evaluation, suite_file: Path):
    changed(suite_file, {"tags": ["easy"]})
    for only in ("tiles", "easy"):
        found = evaluate(replace(evaluation.config, tasks=(only,)))
        assert {row.task for row in rows_of(found, level="task")} == {"tiles"}
    with pytest.raises(ConfigError, match="tasks: none is called or tagged tile; allowed: captions, ct_captions, easy"):
        evaluate(replace(evaluation.config, tasks=("tile",)))


def test_two_suites_may_not_share_a_task(evaluation: Evaluation, suite_file: Path):
    with pytest.raises(ConfigError, match="two of them have a task 'squares'"):
        evaluate(replace(evaluation.config, suite=(str(suite_file), str(suite_file))))


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
    honest = LoadedEncoder.embed_images
    monkeypatch.setattr(LoadedEncoder, "embed_images", lambda self, pixels: honest(self, pixels) * float("nan"))
    with pytest.raises(DataError, match=r"gives embeddings that are not finite for 64 of 64 images"):
        evaluate(config_of(checkpoint, suite_file, shard_set, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("part-*"))


def test_without_resamples_there_are_no_intervals(evaluation: Evaluation):
    found = evaluate(replace(evaluation.config, bootstrap_samples=0))
    assert [row.value for row in found.rows] == [row.value for row in evaluation.rows]
    assert {(row.low, row.high) for row in found.rows} == {(None, None)}


def test_probes_are_fitted_on_training_images_and_scored_on_the_test_split(
    checkpoint: Path, shard_set: Path, tmp_path: Path, embeddings: Path
):
    suite = tmp_path / "probes.yaml"
    probe = {"name": "colour_probe", "task": "squares_colour", "modality": "ct", "shots": [1, 50], "repeats": 2}
    suite.write_text(yaml.safe_dump({"name": "probes", "title": "Probes", "probes": [probe]}))
    found = evaluate(config_of(checkpoint, suite, shard_set, tmp_path / "out", cache=embeddings))
    [row] = rows_of(found, task="colour_probe", metric="accuracy")
    assert row.n == 4 * NUM_TEST
    assert row.value > 0.9  # colours are told apart by a linear map even of random features
    assert rows_of(found, task="colour_probe", metric="1_shot/accuracy")
    details = found.runs[0].result("colour_probe").details
    assert "skipped" in details["50_shot"]
    assert (details["val_from_train"], details["test_groups_fitted_on"]) == (True, 0)
    write_scores(found)
    kept = read_predictions(predictions_path(found.config.out, found.runs[0].facts.name, "colour_probe"))
    assert kept.header.kind == "probe"
    assert np.mean(kept.scores.argmax(axis=1) == kept.targets) == pytest.approx(row.value)


def test_questions_are_answered_from_the_same_pass(checkpoint: Path, shard_set: Path, tmp_path: Path, embeddings: Path):
    options = {"classification_0": {"options": ["a red tile", "a blue tile", "a green tile"], "answer_idx": 1}}
    shades = {
        f"tile {number}": coloured_square((30, 30, 100 + 9 * number), np.random.default_rng(number))
        for number in range(6)
    }
    rows = [
        {"image_id": name, "image": {"bytes": data, "path": f"{name}.jpg"}, "dataset": "tiles", "domain": "x"}
        | {"captions": options}
        for name, data in shades.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions.parquet")
    suite = tmp_path / "asked.yaml"
    choices = [
        {"name": "asked", "format": "microbench", "location": "questions.parquet"},
        {"name": "absent", "format": "probmed", "location": "elsewhere"},
    ]
    suite.write_text(
        yaml.safe_dump({"name": "asked", "title": "Asked", "choices": choices, "retrieval": [{"name": "c"}]})
    )
    found = evaluate(config_of(checkpoint, suite, shard_set, tmp_path / "out", cache=embeddings))
    [row] = rows_of(found, task="asked", metric="accuracy")
    assert (row.n, row.groups, row.chance) == (6, 6, pytest.approx(1 / 3))
    assert row.dataset_digest not in {"", found.collections[0].digest}
    [skipped] = found.skipped
    assert (skipped.task, "nothing is at" in skipped.reason) == ("absent", True)
    write_scores(found)
    kept = read_predictions(predictions_path(found.config.out, found.runs[0].facts.name, "asked"))
    assert kept.targets.tolist() == [1] * 6
    right = np.mean([scores.argmax() == 1 for scores in kept.option_scores])
    assert right == pytest.approx(row.value)


def test_auto_asks_what_the_set_brings_along(checkpoint: Path, shard_set: Path, tmp_path: Path, embeddings: Path):
    found = evaluate(config_of(checkpoint, "auto", shard_set, tmp_path / "out", cache=embeddings))
    assert {result.task.name for result in found.runs[0].results} == {
        "squares_colour",
        "tiles_colour",
        "captions_squares+tiles",
    }


def test_command_line_ends_with_the_report(
    checkpoint: Path, suite_file: Path, shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "scores"
    words = ["score", str(checkpoint), "--suite", str(suite_file), "--sets", str(shard_set), "--out", str(out)]
    assert main([*words, "--bootstrap-samples", "100"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "phantoms: synthetic images, no medical meaning" in printed
    names = {"config.yaml", "embeddings", "predictions", "report.html", "scores.json", "scores.parquet"}
    assert {path.name for path in out.iterdir()} >= names


def test_command_line_fails_with_one_line(
    checkpoint: Path, shard_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["score", str(checkpoint), "--suite", "reel", "--sets", str(shard_set), "--out", str(tmp_path)]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("zeroshot_eval: no suite is called 'reel'; did you mean 'real'")
    assert main([*words[:3], "real", *words[4:5], str(tmp_path / "nowhere"), *words[6:]]) == 1
    assert "no images at" in capsys.readouterr().err
    with pytest.raises(ClipmedError, match="sets: got none"):
        config_of(checkpoint, tmp_path, shard_set, tmp_path, sets=())


def test_help_names_every_command_and_teaches_by_example(capsys: pytest.CaptureFixture[str]):
    for words in (["--help"], ["score", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "python -m zeroshot_eval score build/run/model --suite phantoms" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["scor"])
    assert ended.value.code == 2
    refused = capsys.readouterr().err
    assert all(name in refused for name in COMMANDS)


def test_compare_and_gate_judge_what_score_left(
    evaluation: Evaluation, checkpoint: Path, second_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    both = evaluate(replace(evaluation.config, checkpoints=(str(checkpoint), str(second_checkpoint))))
    write_scores(both)
    out, (first, second) = str(both.config.out), (run.facts.name for run in both.runs)
    words = [out, out, "--first-checkpoint", first, "--second-checkpoint", second, "--samples", "200"]
    assert main(["compare", *words, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "tiles" in printed
    assert printed.splitlines()[-1] == f"comparison: {out}/comparison.md"
    value = rows_of(both, task="tiles", metric="accuracy", checkpoint=first)[0].value
    gate = ["gate", out, "--checkpoint", first]
    assert main([*gate, "--min", f"task.tiles.accuracy={value - 0.01}"]) == 0
    assert main([*gate, "--min", f"task.tiles.accuracy={value + 0.01}"]) == 1
    assert main([*gate, "--min", "task.tile.accuracy=0.5"]) == 2
    assert main([*gate, "--no-worse-than", out, "--baseline-checkpoint", first, "--samples", "200"]) == 0


def test_list_and_show_name_tasks_and_prompts(suite_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list", str(suite_file)]) == 0
    assert "squares_grey" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert "biomedclip" in capsys.readouterr().out
    assert main(["show", str(suite_file)]) == 0
    assert "    an image that is something red\n" in capsys.readouterr().out


def test_a_set_over_http_scores_as_the_folder(
    evaluation: Evaluation, shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLIPMED_CACHE", str(tmp_path / "cache"))
    with http_server(shard_set.parent) as server:
        sets = (f"{server.url}/{shard_set.name}",)
        remote = evaluate(replace(evaluation.config, sets=sets, cache=tmp_path / "remote"))
    assert remote.rows == evaluation.rows


def test_audit_finds_the_test_images_of_a_set_that_was_trained_on_whole(
    evaluation: Evaluation, shard_set: Path, capsys: pytest.CaptureFixture[str]
):
    write_scores(evaluation)
    words = ["audit", str(evaluation.config.out), "--train", str(shard_set), "--bootstrap-samples", "100"]
    assert main([*words, "--splits", "test"]) == 0
    assert "5 of 5 tasks have training data among their samples" in capsys.readouterr().out
    assert main([*words, "--splits", "val"]) == 0
    assert "0 of 5 tasks" in capsys.readouterr().out
