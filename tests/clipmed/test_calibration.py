"""A fitted temperature: found where it is known, measured on unseen images, kept beside its weights, and used."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import clipmed
from clipmed.__main__ import main
from clipmed.calibration import Answers, calibrate, read_calibration
from clipmed.checkpoints import checkpoint_digest
from clipmed.errors import CheckpointError, ClipmedError
from clipmed.labels import label_prompts
from clipmed.probabilities import expected_calibration_error, negative_log_likelihoods, softmax
from tests.clipmed.test_probabilities import drawn
from tests.clipmed.tiny import tiny_checkpoint

LABELS = ("a", "b", "c", "d")
PROMPTS = {label: [f"an image of {label}", label] for label in LABELS}


def answers(count: int = 4000, scale: float = 8.0, per_group: int = 1) -> Answers:
    targets, cosines = drawn(scale, count)
    return Answers(cosines=cosines, targets=targets, groups=[str(number // per_group) for number in range(count)])


def test_a_known_temperature_is_found_and_mends_unseen_images():
    found = calibrate(answers(), PROMPTS, 80.0, "digest")
    assert found.temperature == pytest.approx(10, rel=0.2)
    assert found.logit_scale * found.temperature == pytest.approx(80)
    assert found.ece_after < 0.03 < 0.2 < found.ece_before
    assert found.nll_after < found.nll_before
    assert found.helps
    assert (found.num_images, found.labels, found.checkpoint, found.at_bound) == (4000, LABELS, "digest", False)


def test_figures_before_are_those_of_the_learned_scale():
    given = answers(300)
    found = calibrate(given, PROMPTS, 80.0, "digest")
    probabilities = softmax(given.cosines * 80)
    correct = probabilities.argmax(axis=1) == given.targets
    assert found.ece_before == pytest.approx(expected_calibration_error(probabilities.max(axis=1), correct))
    assert found.nll_before == pytest.approx(negative_log_likelihoods(given.targets, given.cosines * 80).mean())


def test_figures_after_are_of_images_that_the_fit_has_not_seen():
    targets = np.zeros(40, dtype=np.int64)
    cosines = np.tile([0.4, 0.1], (40, 1))
    # Two groups, one right and one wrong nearly always: each is measured at the other's scale, and so is worse.
    cosines[:20:10], cosines[20:] = [0.1, 0.4], [0.1, 0.4]
    cosines[20::10] = [0.4, 0.1]
    given = Answers(cosines=cosines, targets=targets, groups=["right"] * 20 + ["wrong"] * 20)
    found = calibrate(given, label_prompts(["a", "b"]), 5.0, "digest")
    assert found.nll_after > found.nll_before
    assert not found.helps


def test_a_group_that_is_most_of_the_images_leaves_two_halves():
    given = replace(answers(200), groups=["many"] * 190 + ["few"] * 10)
    assert calibrate(given, PROMPTS, 80.0, "digest").num_images == 200
    for wrong in (replace(given, groups=["all"] * 200), answers(19)):
        with pytest.raises(ClipmedError, match="20 images or more, of two groups or more"):
            calibrate(wrong, PROMPTS, 80.0, "digest")


@pytest.mark.parametrize("large", range(6))
def test_one_large_group_leaves_two_halves_whichever_is_drawn_last(large):
    groups = np.repeat([f"group {number}" for number in range(6)], np.where(np.arange(6) == large, 3000, 200)).tolist()
    found = calibrate(replace(answers(4000), groups=groups), PROMPTS, 80.0, "digest")
    assert found.nll_after == pytest.approx(calibrate(answers(4000), PROMPTS, 80.0, "digest").nll_after, rel=0.05)


def test_a_gain_within_chance_does_not_help():
    found = calibrate(answers(4000), PROMPTS, 80.0, "digest")
    gain = found.nll_before - found.nll_after
    assert gain > 1.64 * found.nll_gain_error > 0
    assert not replace(found, nll_gain_error=gain / 1.6).helps
    near = calibrate(answers(60), PROMPTS, 8.6, "digest")  # all but the true scale: what is left to gain is noise
    assert not near.helps
    assert near.objection is not None
    assert "standard error" in near.objection


def test_the_standard_error_counts_images_of_one_group_as_one():
    single, double = answers(200), answers(200)
    double = Answers(
        cosines=np.concatenate([double.cosines] * 2),
        targets=np.concatenate([double.targets] * 2),
        groups=[*double.groups, *double.groups],
    )
    one, two = (calibrate(given, PROMPTS, 80.0, "digest") for given in (single, double))
    losses = [negative_log_likelihoods(single.targets, single.cosines * scale) for scale in (80.0, one.logit_scale)]
    # the halves' scales are near that of all images, so that the error is near the textbook's
    assert one.nll_gain_error == pytest.approx(np.std(losses[0] - losses[1], ddof=1) / np.sqrt(200), rel=0.15)
    assert two.nll_gain_error == pytest.approx(one.nll_gain_error, rel=0.15)


def test_it_is_for_the_prompts_that_it_was_fitted_on():
    found = calibrate(answers(100), PROMPTS, 80.0, "digest")
    assert found.is_for(PROMPTS)
    assert found.is_for({f"{name}!": PROMPTS[name][::-1] for name in reversed(LABELS)})  # names and orders do nothing
    assert not found.is_for(PROMPTS | {"a": ["a"]})
    assert not found.is_for({name: PROMPTS[name] for name in LABELS[:3]})
    assert not found.is_for(
        {"a": ["an image of a", "b"], "b": ["an image of b", "a"], "c": PROMPTS["c"], "d": PROMPTS["d"]}
    )


def test_a_likelihood_without_a_peak_is_not_kept(tmp_path):
    sure = Answers(cosines=np.eye(2)[[0, 1] * 20], targets=np.array([0, 1] * 20), groups=[str(n) for n in range(40)])
    found = calibrate(sure, label_prompts(["a", "b"]), 10.0, "digest")
    assert found.at_bound
    with pytest.raises(ClipmedError, match="of 40 images has no peak"):
        found.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_saved_is_read(tmp_path):
    found = calibrate(answers(100), PROMPTS, 80.0, "digest")
    path = found.save(tmp_path)
    assert read_calibration(tmp_path) == found
    path.unlink()
    assert read_calibration(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"logit_scale": "8"},
        {"logit_scale": 0.0},
        {"logit_scale": -3.0},
        {"temperature": 1e400},
        {"labels": "ab"},
        {"labels": [1, 2]},
        {"at_bound": 1},
        {"num_images": None},
        {"extra": 1},
        {"schema": 1},
        {"schema": "2"},
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, change):
    path = calibrate(answers(100), PROMPTS, 80.0, "digest").save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"calibration.json is not a calibration.*remove it, fit it anew"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000, "\xff"])
def test_other_content_is_an_error(tmp_path, text):
    (tmp_path / "calibration.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="not a calibration"):
        read_calibration(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint that is far too sure, and pictures whose truth is drawn from its own answers at scale 10."""
    folder = tmp_path_factory.mktemp("calibrated")
    checkpoint = tiny_checkpoint(folder, logit_scale=90.0)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) * rng.integers(0, 2, 3).astype(np.uint8) for _ in range(120)
    ]
    model = clipmed.load(checkpoint, "cpu")
    names = ["one", "two"]
    cosines = [list(result.cosines.values()) for result in model.classify(pictures, names)]
    centred = np.array(cosines) - np.mean(cosines, axis=0)
    truths = [names[int(rng.random() > share)] for share in softmax(centred * 10)[:, 0]]
    for number, (values, truth) in enumerate(zip(pictures, truths, strict=True)):
        (folder / "images" / truth).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / "images" / truth / f"{number:03d}.png")
    return checkpoint, folder / "images", pictures, truths


def test_a_model_uses_the_scale_that_it_is_given(made):
    checkpoint, _, pictures, truths = made
    model = clipmed.load(checkpoint, "cpu")
    before = model.classify(pictures, ["one", "two"])
    assert not before[0].calibrated
    model.calibration = model.calibrate(pictures, truths, ["one", "two"])
    assert model.calibration.logit_scale < 90
    assert model.calibration.checkpoint == checkpoint_digest(checkpoint)
    after = model.classify(pictures, ["one", "two"])
    for old, new in zip(before, after, strict=True):
        assert new.calibrated
        assert new.label == old.label
        assert new.cosines == old.cosines
        scaled = torch.tensor(list(new.cosines.values())) * model.calibration.logit_scale
        assert list(new.probabilities.values()) == pytest.approx(scaled.softmax(0).tolist(), abs=1e-6)


def test_truths_are_labels_one_for_each_image(made):
    checkpoint, _, pictures, truths = made
    model = clipmed.load(checkpoint, "cpu")
    with pytest.raises(ClipmedError, match="got 120 images, 119 truths; allowed: one for each"):
        model.calibrate(pictures, truths[1:], ["one", "two"])
    with pytest.raises(ClipmedError, match="got the truth 'two'; allowed: 'one', 'three'"):
        model.calibrate(pictures, truths, ["one", "three"])


def test_the_command_keeps_it_and_load_and_classify_use_it(made, tmp_path, capsys):
    _, images, _, _ = made
    checkpoint = tiny_checkpoint(tmp_path, logit_scale=90.0)
    main(["calibrate", str(checkpoint), "--images", str(images), "--json", "--device", "cpu", "--dry-run"])
    assert json.loads(capsys.readouterr().out)["kept"] is None
    assert read_calibration(checkpoint) is None
    main(["calibrate", str(checkpoint), "--images", str(images), "--json", "--device", "cpu"])
    said = json.loads(capsys.readouterr().out)
    assert said["kept"] == str(checkpoint / "calibration.json")
    assert said["nll_after"] < said["nll_before"]
    kept = read_calibration(checkpoint)
    assert kept is not None
    assert kept.labels == ("one", "two")
    model = clipmed.load(checkpoint, "cpu")
    assert model.calibration == kept
    assert clipmed.load(checkpoint, "cpu", calibrated=False).calibration is None
    picture = next(images.rglob("*.png"))
    main(["classify", str(picture), "--labels", "one", "two", "--checkpoint", str(checkpoint), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["calibrated"]
    assert record["probabilities"] == model.classify(picture, ["one", "two"])[0].probabilities


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_does_not_help_is_not_kept_and_the_earlier_one_is_named(made, tmp_path, capsys, form):
    checkpoint, images, pictures, truths = made
    fitted = clipmed.load(checkpoint, "cpu").calibrate(pictures, truths, ["one", "two"]).logit_scale
    right = tiny_checkpoint(tmp_path, logit_scale=fitted)  # nothing is left to mend
    command = ["calibrate", str(right), "--images", str(images), "--device", "cpu", *form]
    with pytest.raises(SystemExit, match=r"clipmed: the temperature does not help, and is not kept$"):
        main(command)
    said = capsys.readouterr().out
    assert "log loss falls by" in said
    assert json.loads(said)["kept"] is None if form else " kept in  nothing\n" in said
    assert read_calibration(right) is None
    clipmed.load(right, "cpu").calibrate(pictures, truths, ["one", "two"]).save(right)
    before = (right / "calibration.json").read_bytes()
    with pytest.raises(SystemExit, match=r"not kept; the earlier .*/calibration\.json stays in use: remove it"):
        main(command)
    assert (right / "calibration.json").read_bytes() == before
    main([*command, "--dry-run"])
    assert "log loss falls by" in capsys.readouterr().out


def test_answers_no_better_than_chance_have_no_temperature(made, tmp_path, capsys):
    checkpoint, images, _, _ = made
    paths = sorted(images.rglob("*.png"))
    cosines = [result.cosines for result in clipmed.load(checkpoint, "cpu").classify(paths, ["one", "two"])]
    least_one = np.argsort([found["one"] - found["two"] for found in cosines])
    rows = [f"{paths[place]},{'one' if rank < 60 else 'two'}" for rank, place in enumerate(least_one)]
    (tmp_path / "wrong.csv").write_text("\n".join(["path,label", *rows]))
    own = tiny_checkpoint(tmp_path, logit_scale=90.0)
    with pytest.raises(SystemExit, match="is not kept"):
        main(["calibrate", str(own), "--images", str(tmp_path / "wrong.csv"), "--device", "cpu"])
    assert "the likelihood of 120 images has no peak" in capsys.readouterr().out
    assert read_calibration(own) is None


def test_other_labels_or_prompts_are_not_called_calibrated(made, tmp_path, capsys):
    _, images, pictures, truths = made
    own = tiny_checkpoint(tmp_path, logit_scale=90.0)
    clipmed.load(own, "cpu").calibrate(pictures, truths, ["one", "two"]).save(own)
    model = clipmed.load(own, "cpu")
    (same,) = model.classify(pictures[0], ["two", "one"])
    assert (same.calibrated, same.temperature) == (True, "fitted")
    for labels, templates in ((["one", "three"], ["{}"]), (["one", "two"], ["a drawing of {}"])):
        (other,) = model.classify(pictures[0], labels, templates)
        assert (other.calibrated, other.temperature) == (False, "fitted on other labels")
        cosines = torch.tensor(list(other.cosines.values())) * model.calibration.logit_scale
        assert list(other.probabilities.values()) == pytest.approx(cosines.softmax(0).tolist(), abs=1e-6)
    picture = str(next(images.rglob("*.png")))
    shown = []
    for labels in (["one", "two"], ["one", "three"]):
        main(["classify", picture, "--labels", *labels, "--checkpoint", str(own), "--json"])
        record = json.loads(capsys.readouterr().out)
        main(["classify", picture, "--labels", *labels, "--checkpoint", str(own)])
        shown.append((record["calibrated"], record["temperature"], " ".join(capsys.readouterr().out.split())))
    assert shown[0][:2] == (True, "fitted")
    assert "Calibrated probabilities over these labels." in shown[0][2]
    assert shown[1][:2] == (False, "fitted on other labels")
    assert "at a temperature fitted on other labels or prompts: not calibrated." in shown[1][2]


def test_a_calibration_of_other_weights_is_an_error(made, tmp_path):
    _, images, _, _ = made
    checkpoint = tiny_checkpoint(tmp_path, logit_scale=90.0)
    main(["calibrate", str(checkpoint), "--images", str(images), "--device", "cpu"])
    other = tiny_checkpoint(tmp_path / "other", logit_scale=80.0)
    (other / "calibration.json").write_bytes((checkpoint / "calibration.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"was fitted on other weights.*calibrated=False"):
        clipmed.load(other, "cpu")
    assert clipmed.load(other, "cpu", calibrated=False).calibration is None


def test_a_table_may_say_groups_and_labels_be_chosen(made, tmp_path, capsys):
    checkpoint, images, _, _ = made
    paths = sorted(images.rglob("*.png"))
    rows = [f"{path},{path.parent.name},patient {number // 2}" for number, path in enumerate(paths)]
    table = tmp_path / "images.csv"
    table.write_text("\n".join(["path,label,group", *rows, f"{paths[0]},a third,x"]))
    options = ["--labels", "two", "one", "--json", "--dry-run", "--device", "cpu"]
    main(["calibrate", str(checkpoint), "--images", str(table), *options])
    said = json.loads(capsys.readouterr().out)
    assert said["labels"] == ["two", "one"]
    assert (said["num_images"], said["left_out"]) == (120, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na,b\n", "allowed: path and label"),
        ("path,label\n", "0 rows"),
        ("path,label\na.png,\n", "line 2: path or label is empty"),
        ('path,label\n"a', "not readable as a folder or a CSV table"),
    ],
)
def test_wrong_tables(made, tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SystemExit, match=message):
        main(["calibrate", str(made[0]), "--images", str(tmp_path / "t.csv")])


def test_wrong_folders_and_locations(made, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0 subfolders; allowed: two or more"):
        main(["calibrate", str(made[0]), "--images", str(tmp_path)])
    with pytest.raises(SystemExit, match="no image of 'three'; there are: one, two"):
        main(["calibrate", str(made[0]), "--images", str(made[1]), "--labels", "one", "three"])
    with pytest.raises(SystemExit):
        main(["calibrate", "hf-hub:org/name", "--images", str(made[1])])
    assert "clipmed pull hf-hub:org/name" in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_the_error_of_a_wrong_scale_is_ours():
    with pytest.raises(ClipmedError, match="finite numbers above 0"):
        replace(calibrate(answers(100), PROMPTS, 80.0, "digest"), logit_scale=float("nan"))
