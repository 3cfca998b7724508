"""Curves over interpolations and over a run's steps, and soups: the same figures as scoring each by itself."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from clipmed.checkpoints import CONFIG_FILE, checkpoint_digest, load_checkpoint, save_checkpoint
from clipmed.errors import CheckpointError, ConfigError
from clipmed.merging import interpolate, soup
from clipmed.towers import ModelConfig, build_two_tower
from train.checkpoints import CheckpointStore
from train.config import CheckpointConfig
from train.snapshot import TrainState
from zeroshot_eval.evaluation import EvalConfig, evaluate
from zeroshot_eval.run_checkpoints import checkpoints_of_run
from zeroshot_eval.sweeps import (
    RunCurveConfig,
    SoupConfig,
    SweepConfig,
    choose_greedily,
    make_soup,
    run_curve,
    sweep,
)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Two more models of the fixture's architecture."""
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp(f"other-{seed}") / "model")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_checkpoint(folders[-1], build_two_tower(ModelConfig()), "# other")
    return folders


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture
def options(shard_set, suite_file, tmp_path, cache):
    return {
        "suite": (str(suite_file),),
        "sets": (str(shard_set),),
        "out": tmp_path / "out",
        "cache": cache,
        "bootstrap_samples": 0,
        "report": False,
    }


def values(rows, key):
    """Scores by (place or checkpoint, level, task, modality, metric)."""
    return {(row[key], row["level"], row["task"], row["modality"], row["metric"]): row["value"] for row in rows}


def alone(location, options):
    evaluation = evaluate(EvalConfig(checkpoints=(str(location),), **options))
    return {(row.level, row.task, row.modality, row.metric): row.value for row in evaluation.rows}


def test_a_sweep_scores_every_interpolation_as_scoring_it_alone_does(checkpoint, others, options, tmp_path):
    pair = (str(checkpoint), str(others[0]))
    curve = sweep(SweepConfig(checkpoints=pair, alphas=(0.0, 0.5, 1.0), **options))
    interpolate(*pair, 0.5, tmp_path / "half")
    found = values(curve.rows(), "alpha")
    for alpha, location in ((0.0, pair[0]), (0.5, tmp_path / "half"), (1.0, pair[1])):
        expected = alone(location, options)
        assert {key[1:]: value for key, value in found.items() if key[0] == alpha} == expected
    written = json.loads((options["out"] / "curve.json").read_text())
    assert written["axis"] == "alpha"
    assert written["of"] == list(pair)
    assert [point["alpha"] for point in written["points"]] == [0.0, 0.5, 1.0]
    assert written["points"][0]["digest"] == checkpoint_digest(checkpoint)
    assert values(written["rows"], "alpha") == found
    assert json.loads((options["out"] / "scores.json").read_text())["rows"]
    assert not (options["out"] / "curve_checkpoints").exists()


def test_the_lines_of_a_curve_are_averages_by_modality_in_the_axis_order(checkpoint, others, options):
    pair = (str(checkpoint), str(others[0]))
    curve = sweep(SweepConfig(checkpoints=pair, alphas=(1.0, 0.0), keep=True, **options))
    lines = curve.lines("balanced_accuracy")
    assert set(lines) == {"overall", "ct", "mri"}
    assert [alpha for alpha, _ in lines["ct"]] == [0.0, 1.0]
    assert lines["overall"][0][1] == alone(pair[0], options)["overall", None, None, "balanced_accuracy"]


def test_a_second_sweep_embeds_nothing_anew(checkpoint, others, options, cache, capsys):
    config = SweepConfig(checkpoints=(str(checkpoint), str(others[1])), alphas=(0.0, 0.3, 1.0), keep=True, **options)
    first = sweep(config)
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert (options["out"] / "curve_checkpoints" / "alpha_0.3" / CONFIG_FILE).is_file()
    assert sweep(config).rows() == first.rows()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == stamps


def test_a_folder_of_checkpoints_that_is_not_the_sweeps_is_left_alone(checkpoint, others, options):
    mine = options["out"] / "checkpoints" / "step_00000001"
    mine.mkdir(parents=True)
    sweep(SweepConfig(checkpoints=(str(checkpoint), str(others[0])), alphas=(0.5,), **options))
    assert mine.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoints": ("a",)}, "got 1; allowed: two, the base and the tuned one"),
        ({"alphas": (0.5, 0.5)}, "alphas: got .*each once, from 0 to 1"),
        ({"alphas": (1.5,)}, "alphas: got .*from 0 to 1"),
        ({"alphas": ()}, "alphas: got .*one or more"),
    ],
)
def test_unsound_sweeps_are_refused(options, change, message):
    with pytest.raises(ConfigError, match=message):
        SweepConfig(**options | {"checkpoints": ("a", "b")} | change)


@pytest.fixture
def run_folder(checkpoint, tmp_path):
    """What a run leaves: its model, and checkpoints at three steps with the weights moving, written by the trainer."""
    run = tmp_path / "run-7"
    shutil.copytree(checkpoint, run / "model")
    model = load_checkpoint(checkpoint).model
    store = CheckpointStore(run / "checkpoints", CheckpointConfig(keep=3, background=False))
    for step in (10, 20, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + step / 100)
        store.save(TrainState(model=model), step, {"config": {}})
    return run


def test_the_steps_of_a_run_are_exported_in_order_with_their_weights(run_folder, tmp_path):
    found = checkpoints_of_run(run_folder, tmp_path / "exported")
    assert [step for step, _ in found] == [10, 20, 30]
    state = load_checkpoint(run_folder / "model").model.state_dict()["text.positional_embedding"]
    for (_, folder), factor in zip(found, (1.1, 1.1 * 1.2, 1.1 * 1.2 * 1.3), strict=True):
        exported = load_checkpoint(folder).model.state_dict()["text.positional_embedding"]
        torch.testing.assert_close(exported, state * factor)
    again = checkpoints_of_run(run_folder, tmp_path / "again")
    assert [checkpoint_digest(folder) for _, folder in again] == [checkpoint_digest(folder) for _, folder in found]


@pytest.mark.parametrize("form", ["whole", "sharded"])
def test_running_means_are_what_is_exported_where_a_run_keeps_them(checkpoint, tmp_path, form):
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "best")
    model = load_checkpoint(checkpoint).model
    means = {"logit_scale": torch.tensor(1.25)}
    store = CheckpointStore(run / "checkpoints", CheckpointConfig(keep=1, background=False, format=form))
    store.save(TrainState(model=model, ema=means), 5, {})
    ((step, folder),) = checkpoints_of_run(run, tmp_path / "exported")
    exported, raw = load_checkpoint(folder).model.state_dict(), model.state_dict()
    assert step == 5
    assert exported["logit_scale"].item() == 1.25
    assert all(torch.equal(exported[name], raw[name]) for name in raw if name != "logit_scale")


def test_a_curve_over_a_run_has_a_point_a_step(run_folder, options):
    curve = run_curve(RunCurveConfig(checkpoints=(str(run_folder),), **options))
    written = json.loads((options["out"] / "curve.json").read_text())
    assert [point["step"] for point in written["points"]] == [10, 20, 30]
    assert len({point["digest"] for point in written["points"]}) == 3
    assert {row["step"] for row in curve.rows()} == {10, 20, 30}
    assert len(curve.lines("accuracy")["overall"]) == 3


def damage(run):
    with (run / "checkpoints" / "step_00000020" / "model.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\1\2\3")


def other_model(run):
    path = run / "model" / CONFIG_FILE
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["context_length"] += 1
    path.write_text(json.dumps(config))
    shutil.rmtree(run / "model")
    torch.manual_seed(0)
    (run / "tiny.json").write_text(json.dumps(config["model_cfg"]))
    save_checkpoint(run / "model", build_two_tower(ModelConfig(config=str(run / "tiny.json"))), "# x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, r"step_00000020: model.safetensors is not what was written; remove it"),
        (lambda run: (run / "checkpoints" / "step_00000010" / "state.json").unlink(), "step_00000010 is not whole"),
        (lambda run: shutil.rmtree(run / "model"), "has no model folder yet"),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            "has no checkpoints/step_…; give the folder of a training run",
        ),
        (other_model, r"does not fit the run's model folder: text.* has the shape"),
    ],
)
def test_runs_that_cannot_be_read_say_why(run_folder, tmp_path, spoil, message):
    spoil(run_folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoints_of_run(run_folder, tmp_path / "exported")


@pytest.fixture
def on_validation(options, suite_data, tmp_path):
    """The suite on another split than test."""
    tasks = [task | {"split": "train"} for task in suite_data["tasks"] if not task.get("held_out")]
    path = tmp_path / "validation.yaml"
    path.write_text(yaml.safe_dump(suite_data | {"tasks": tasks, "retrieval": []}))
    return options | {"suite": (str(path),)}


@pytest.mark.parametrize(
    ("sign", "lower_is_better"),
    [(1, False), (-1, True)],
)
def test_greedy_choices_by_hand(sign, lower_is_better):
    alone = {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.4}
    soups = {"bc": 0.8, "bca": 0.75, "bcd": 0.8}  # c helps; a is better than b alone, but hurts; d is a tie
    found = choose_greedily(
        {name: sign * value for name, value in alone.items()},
        lambda names: sign * soups["".join(names)],
        lower_is_better=lower_is_better,
    )
    assert [(trial.added, sign * trial.value, trial.kept) for trial in found] == [
        ("b", 0.7, True),
        ("c", 0.8, True),
        ("a", 0.75, False),
        ("d", 0.8, True),
    ]


def test_a_greedy_soup_goes_from_the_best_on_and_keeps_what_does_not_hurt(checkpoint, others, on_validation):
    locations = tuple(map(str, (checkpoint, *others)))
    made = make_soup(SoupConfig(checkpoints=locations, **on_validation))
    scores = {place: alone(place, on_validation)["overall", None, None, "balanced_accuracy"] for place in locations}
    order = sorted(locations, key=lambda place: -scores[place])
    assert [trial.added for trial in made.trials] == order
    assert made.trials[0].value == max(scores.values())
    assert made.trials[0].kept
    second = soup(order[:2], on_validation["out"] / "by_hand")
    value = alone(second, on_validation)["overall", None, None, "balanced_accuracy"]
    assert (made.trials[1].value, made.trials[1].kept) == (value, value >= made.trials[0].value)
    kept = [trial.added for trial in made.trials if trial.kept]
    assert made.ingredients == tuple(kept)
    record = json.loads((on_validation["out"] / "soup.json").read_text())
    assert record["chosen_on"] == ["train"]
    assert [trial["added"] for trial in record["trials"]] == order
    if len(kept) > 1:
        assert checkpoint_digest(Path(made.model)) == checkpoint_digest(soup(kept, on_validation["out"] / "by_hand"))
    else:
        assert made.model == order[0]


def test_a_checkpoint_twice_over_is_a_tie_and_is_kept(checkpoint, on_validation, tmp_path):
    twin = shutil.copytree(checkpoint, tmp_path / "twin" / "model")
    made = make_soup(SoupConfig(checkpoints=(str(checkpoint), str(twin)), **on_validation))
    assert made.ingredients == (str(checkpoint), str(twin))
    assert made.trials[1].value == made.trials[0].value
    assert checkpoint_digest(Path(made.model)) == checkpoint_digest(checkpoint)  # the mean of equals is bit for bit


def test_a_uniform_soup_is_of_all(checkpoint, others, options):
    locations = tuple(map(str, (checkpoint, *others)))
    made = make_soup(SoupConfig(checkpoints=locations, method="uniform", **options))
    assert made.ingredients == locations
    assert len(json.loads((Path(made.model) / "merge.json").read_text())["parents"]) == 3


def test_soups_are_not_chosen_on_test_splits_or_by_unknown_metrics(checkpoint, others, options, on_validation):
    locations = (str(checkpoint), str(others[0]))
    with pytest.raises(ConfigError, match="chosen on a test split has no honest score"):
        make_soup(SoupConfig(checkpoints=locations, **options))
    judged = make_soup(SoupConfig(checkpoints=locations, on_test=True, judge="tiles", metric="accuracy", **options))
    assert judged.splits == ("test",)
    assert judged.trials[0].value == max(
        alone(place, options)["task", "tiles", "mri", "accuracy"] for place in locations
    )
    with pytest.raises(ConfigError, match=r"no 'acuracy' of all modalities; did you mean 'accuracy'"):
        make_soup(SoupConfig(checkpoints=locations, metric="acuracy", **on_validation))
    with pytest.raises(ConfigError, match="got 1; allowed: two or more"):
        SoupConfig(checkpoints=locations[:1], **options)
