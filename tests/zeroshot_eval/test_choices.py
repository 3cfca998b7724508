"""Scores of choices against hand-computed ones: sets, pairs, calibration, thresholds, ties; bad pairs are counted."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipmed.errors import ConfigError, DataError
from tests.zeroshot_eval.choice_files import embedded, png, reasons, values, write_image, write_json
from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap
from zeroshot_eval.choices import (
    MAIN_METRICS,
    image_bytes,
    image_refs,
    load_questions,
    score_questions,
    text_style,
    texts,
)
from zeroshot_eval.choices.arithmetic import best_threshold, chosen, judged, pairs_matched, same_choice
from zeroshot_eval.choices.negation import negation_gap

# MediConfusion


def pair(**changes: object) -> dict[str, object]:
    fields = {
        "im_1": "train/radiology/images/ROCO_1.jpg",
        "im_2": "train/radiology/images/ROCO_2.jpg",
        "im_1_local": 20001,
        "im_2_local": 20002,
        "cap_1": "a caption",
        "cap_2": "another",
        "category_1": ["Cerebral"],
        "category_2": ["Cerebral", "Vascular"],
        "BiomedCLIP_sim": 0.92,
        "DINO_sim": 0.5,
        "question": "What is seen?",
        "option_A": "a mass",
        "option_B": "a cyst",
        "im_1_correct": "A",
        "im_2_correct": "B",
    }
    return fields | changes


@pytest.fixture
def mediconfusion(tmp_path: Path) -> Path:
    for number in (20001, 20002, 20003, 20004):
        write_image(tmp_path / "data" / "images" / f"{number}.jpg")
    write_image(tmp_path / "data" / "train" / "radiology" / "images" / "ROCO_5.jpg")
    pairs = {
        "1": pair(),
        "2": pair(im_1="x/ROCO_3.jpg", im_1_local=20003, im_2="x/ROCO_4.jpg", im_2_local=20004)
        | {"option_A": "a nodule", "option_B": "a fracture", "im_1_correct": "B", "im_2_correct": "A"},
        "3": pair(im_2="train/radiology/images/ROCO_5.jpg", im_2_local=None, option_A="a stone", option_B="a stent"),
    }
    write_json(tmp_path / "data" / "dataset.json", pairs)
    return tmp_path


def test_mediconfusion_sets_confusion_and_matching_by_hand(mediconfusion: Path):
    found = load_questions("mediconfusion", mediconfusion)
    assert (found.num_items, found.num_used, len(found.questions)) == (3, 3, 6)
    assert [unit.answer for unit in found.questions] == [0, 1, 1, 0, 0, 1]
    # Pairs 1 and 3 share ROCO_1, so they are one group.
    assert [unit.group for unit in found.questions] == ["1", "1", "2", "2", "1", "1"]
    assert image_bytes(found, "train/radiology/images/ROCO_5.jpg") == png()
    cosines = {
        # pair 1: both right
        ("images/20001.jpg", "a mass"): 0.6, ("images/20001.jpg", "a cyst"): 0.1,
        ("images/20002.jpg", "a mass"): 0.2, ("images/20002.jpg", "a cyst"): 0.5,
        # pair 2 (answers B, A): the same option for both, yet matched: .3 + .6 > .5 + .2 is 0.9 > 0.7
        ("images/20003.jpg", "a nodule"): 0.5, ("images/20003.jpg", "a fracture"): 0.3,
        ("images/20004.jpg", "a nodule"): 0.6, ("images/20004.jpg", "a fracture"): 0.2,
        # pair 3: a tie for image 1, wrong for image 2, not matched
        ("images/20001.jpg", "a stone"): 0.2, ("images/20001.jpg", "a stent"): 0.2,
        ("train/radiology/images/ROCO_5.jpg", "a stone"): 0.3,
    }  # fmt: skip
    scored = score_questions(found, *embedded(found, cosines))
    got = values(scored)
    assert got["accuracy"] == pytest.approx(3 / 6)
    assert got["set_accuracy"] == pytest.approx(1 / 3)
    assert got["confusion"] == pytest.approx(1 / 2)  # pair 3 ties: no choice, so it does not count
    assert got["pair_matching"] == pytest.approx(2 / 3)
    assert got["tied"] == pytest.approx(1 / 6)
    assert got["set_accuracy/category=Vascular"] == pytest.approx(1 / 3)
    assert MAIN_METRICS["mediconfusion"] in got
    chance = scored.chance
    assert (chance["accuracy"], chance["set_accuracy"], chance["confusion"]) == (0.5, 0.25, 0.5)
    # Weights of groups, as the bootstrap draws them: group 1 twice, group 2 not at all.
    weights = np.array([[2.0 if group == "1" else 0.0 for group in scored.groups]])
    assert values(scored, weights)["set_accuracy"] == pytest.approx(1 / 2)
    replicates = bootstrap(scored.statistic, scored.groups, BootstrapConfig(samples=100))
    assert replicates["set_accuracy"].shape == (100,)


def test_an_option_that_all_images_like_gains_nothing_once_calibrated(mediconfusion: Path):
    found = load_questions("mediconfusion", mediconfusion)
    cosines = {
        (ref, text): 0.5 + (0.1 if (ref, text) == ("images/20001.jpg", "a mass") else 0.0)
        for ref in ("images/20001.jpg", "images/20002.jpg")
        for text in ("a mass",)
    } | {("images/20002.jpg", "a cyst"): 0.4}
    scored = score_questions(found, *embedded(found, cosines))
    # Mean over the five images of "a mass": (.6 + .5) / 5 = .22, of "a cyst": .4 / 5 = .08.
    np.testing.assert_allclose(scored.rows[0].calibrated, [0.6 - 0.22, -0.08], atol=1e-6)
    np.testing.assert_allclose(scored.rows[1].scores, [0.5, 0.4], atol=1e-6)
    np.testing.assert_allclose(scored.rows[1].calibrated, [0.28, 0.32], atol=1e-6)
    got = values(scored)
    assert got["accuracy_calibrated"] == pytest.approx(got["accuracy"] + 1 / 6)


def test_three_forms_of_text(mediconfusion: Path):
    found = load_questions("mediconfusion", mediconfusion / "data" / "dataset.json")
    assert "a cyst" in texts(found, text_style())
    assert "What is seen? a cyst" in texts(found, text_style("question_option"))
    assert "Question: What is seen? Answer: a cyst" in texts(found, text_style("question_answer"))
    assert "an image of a cyst." in texts(found, text_style("an image of {option}."))
    assert len(texts(found, text_style("question_answer"))) == 6
    with pytest.raises(ConfigError, match="prompt of options"):
        text_style("an image")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"im_1": "../../secret.jpg", "im_1_local": None}, "path_unsafe"),
        ({"im_1": "/etc/passwd", "im_1_local": None}, "path_unsafe"),
        ({"im_1": "C:\\secret.jpg", "im_1_local": None}, "path_unsafe"),
        ({"im_1": "..\\secret.jpg", "im_1_local": None}, "path_unsafe"),
        ({"im_1": "link.jpg", "im_1_local": None}, "path_unsafe"),
        ({"im_1": "nothing.jpg", "im_1_local": None}, "image_missing"),
        ({"im_1": None, "im_1_local": None}, "image_missing"),
        ({"im_1": "text.jpg", "im_1_local": None}, "image_unsupported"),
        ({"im_1": "train", "im_1_local": None}, "image_missing"),
        ({"question": float("nan")}, "row_invalid"),
        ({"option_B": " "}, "options_invalid"),
        ({"option_B": "A MASS"}, "options_invalid"),
        ({"im_1_correct": "C"}, "answer_invalid"),
        ({"im_1_correct": None}, "answer_invalid"),
        ({"im_1_correct": "B"}, "answer_invalid"),
    ],
)
def test_bad_pairs_are_skipped_with_their_reason(
    mediconfusion: Path, tmp_path_factory: pytest.TempPathFactory, changes: dict, reason: str
):
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    write_image(outside)
    (mediconfusion / "data" / "link.jpg").symlink_to(outside)
    (mediconfusion / "data" / "text.jpg").write_text("no image")
    write_image(mediconfusion.parent / "secret.jpg")
    write_json(mediconfusion / "data" / "dataset.json", {"good": pair(), "bad": pair() | changes})
    found = load_questions("mediconfusion", mediconfusion)
    assert reasons(found) == {"bad": reason}
    assert (found.num_items, found.num_used, found.skip_counts) == (2, 1, {reason: 1})


def test_an_id_that_comes_twice_is_skipped_the_second_time(mediconfusion: Path):
    first, second = json.dumps(pair()), json.dumps(pair(option_A="a third"))
    (mediconfusion / "data" / "dataset.json").write_text(f'{{"1": {first}, "1": {second}}}')
    found = load_questions("mediconfusion", mediconfusion)
    assert reasons(found) == {"1": "duplicate_id"}
    assert found.questions[0].options[0] == "a mass"
    assert found.num_items == 2


def test_what_needs_an_image_that_does_not_decode_is_skipped_whole(mediconfusion: Path):
    found = load_questions("mediconfusion", mediconfusion).without_images({"images/20001.jpg": "cut short"})
    assert [unit.set_id for unit in found.questions] == ["2", "2"]
    assert reasons(found) == {"1": "image_corrupt", "3": "image_corrupt"}
    assert found.num_items == 3


def test_embeddings_must_be_there_finite_and_of_unit_length(mediconfusion: Path):
    found = load_questions("mediconfusion", mediconfusion)
    image_vectors, text_vectors = embedded(found, {})
    ref = image_refs(found)[0]
    with pytest.raises(DataError, match="1 of 5 images have no embedding"):
        score_questions(found, {key: row for key, row in image_vectors.items() if key != ref}, text_vectors)
    for factor in (np.nan, 2.0):
        with pytest.raises(DataError, match="finite ones of length 1"):
            score_questions(found, image_vectors | {ref: image_vectors[ref] * np.float32(factor)}, text_vectors)


def test_thresholds_come_from_the_other_half():
    # Half 0 is told apart at .35, half 1 at .65: judged by each other's threshold, each half gets half of it right.
    scores = np.array([0.3, 0.4, 0.6, 0.7])
    truths = np.array([False, True, False, True])
    half = np.array([0, 0, 1, 1])
    assert best_threshold(scores[:2], truths[:2]) == pytest.approx(0.35)
    assert judged(scores, truths, ["a"] * 4, half).tolist() == [1.0, 0.0, 0.0, 1.0]
    # A half without both kinds cannot give a threshold.
    assert np.isnan(judged(scores, np.array([False, True, True, True]), ["a"] * 4, half)).tolist() == [1, 1, 0, 0]


def test_thresholds_agree_with_trying_all_of_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, truths = np.round(rng.normal(size=12), 1), rng.random(12) < 0.4
        truths[:2] = [True, False]

        def balanced(threshold: float, scores=scores, truths=truths) -> float:
            return (scores[truths] > threshold).mean() + (scores[~truths] <= threshold).mean()

        tried = [-np.inf, *((np.unique(scores)[1:] + np.unique(scores)[:-1]) / 2), np.inf]
        assert balanced(best_threshold(scores, truths)) == pytest.approx(max(balanced(t) for t in tried))


def test_ties_choose_nothing():
    scores = np.array([[0.2, 0.5, np.nan], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3]])
    assert chosen(scores).tolist() == [1, -1, 2]
    np.testing.assert_array_equal(
        same_choice(np.array([1, 1, 0, 1, -1, 0]), np.array([0, 0, 1, 1, 2, 2])), [1.0, 0.0, np.nan]
    )
    constant = np.full((2, 2), 0.4)
    assert pairs_matched(constant, np.array([0, 1]), np.array([0, 0])).tolist() == [0.0]


def test_negation_gap_is_half_where_negation_is_ignored():
    rng = np.random.default_rng(0)
    targets = np.tile([[1, 0], [1, 1], [0, 0], [0, -1]], (3, 1))
    affirmed = np.select([targets == 1, targets == 0], [0.5, 0.1], 0.9) + rng.random(targets.shape) * 0.01
    ones = np.ones((1, len(targets)))
    ignored = negation_gap(targets, affirmed, affirmed, ones)
    # The negated prompt scores as the affirmed one does, so it ranks the wrong way round: 1 - 0.
    assert ignored["auroc_affirmed"][0] == 1.0
    assert ignored["auroc_negated"][0] == 0.0
    assert ignored["negation_gap"][0] == 1.0
    understood = negation_gap(targets, affirmed, -affirmed, ones)
    assert understood["negation_gap"][0] == 0.0
    assert understood["auroc_contrast"][0] == 1.0
