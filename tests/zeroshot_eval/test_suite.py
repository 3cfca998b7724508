"""Suites: what is refused, by message, and what the shipped ones hold."""

from pathlib import Path

import pytest
import yaml

from clipmed.errors import ConfigError
from zeroshot_eval.suite_files import load_suite, suite_names


def load_changed(tmp_path: Path, data: dict):
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_suite(str(path))


def test_every_shipped_suite_is_sound():
    assert "real" in suite_names()
    for name in suite_names():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.tasks


def test_prompts_are_every_phrase_in_every_template(suite_file: Path):
    task = load_suite(str(suite_file)).tasks[0]
    assert task.all_prompts()["red"] == [
        "a picture of red",
        "an image that is red",
        "a picture of something red",
        "an image that is something red",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "x-ray"}, "modality: got 'x-ray'; did you mean 'xray'"),
        ({"split": ""}, "split: got ''. Allowed: train, val, test"),
        ({"templates": []}, "no templates"),
        ({"templates": ["a picture"]}, "template 'a picture' has 0 places for the phrase; allowed: exactly one {}"),
        ({"templates": ["{} and {}"]}, "has 2 places"),
        ({"templates": "a {}"}, "templates: got 'a {}'; allowed: a list"),
        ({"classes": {"red": ["red"]}}, "got 1 classes; allowed: two or more"),
        ({"classes": {"red": ["red"], "blue": []}}, "class 'blue' has no prompts"),
        ({"classes": {"red": ["red"], "blue": [" "]}}, "class 'blue' has no prompts or an empty one"),
        ({"classes": {"red": ["red"], "blue": "blue"}}, "classes.blue: got 'blue'; allowed: a list"),
        ({"classes": {"red": ["red"], "blue": ["blue", "Red"]}}, "phrase 'red' stands for two classes"),
        ({"only_classes": ["gren"]}, "only_classes: got 'gren'; did you mean 'green'"),
        ({"clases": {}}, "unknown key 'tasks.clases'; did you mean 'classes'"),
        ({"prompts": {"mauve": []}}, "class 'mauve' has no prompts"),
        ({"prompts": {"red": ["A Picture of blue"]}}, "the prompt 'a picture of blue' stands for two classes"),
        ({"prompts": {"red": "x"}}, "prompts.red: got 'x'; allowed: a list"),
        ({"kind": "multilabel"}, "got 'multilabel'; allowed: 'single', 'multi_label'"),
        ({"kind": "multi_label"}, "only_classes: got some with kind 'multi_label'"),
        ({"kind": "multi_label", "only_classes": [], "ordinal": True}, "ordinal: got kind 'multi_label'"),
        ({"negative_prompts": {"red": ["not red"]}}, "negative_prompts: got some with kind 'single'"),
        (
            {"kind": "multi_label", "only_classes": [], "negative_prompts": {"red": ["not red"]}},
            "class 'blue' has no negative_prompts",
        ),
        (
            {"kind": "multi_label", "only_classes": [], "negative_prompts": {"mauve": ["not mauve"]}},
            "negative_prompts: got 'mauve'",
        ),
        (
            {"kind": "multi_label", "only_classes": [], "classes": {"red": ["red"]}, "templates": ["{}"]}
            | {"negative_prompts": {"red": ["red"]}},
            "class 'red': 'red' is a prompt and a negative prompt",
        ),
    ],
)
def test_unsound_tasks_are_refused(tmp_path: Path, suite_data: dict, change: dict, message: str):
    suite_data["tasks"][0] |= change
    with pytest.raises(ConfigError) as error:
        load_changed(tmp_path, suite_data)
    assert message in str(error.value)


def test_full_sentences_stand_beside_phrases_or_alone(tmp_path: Path, suite_data: dict):
    suite_data["tasks"] = [
        {"name": "grades", "task": "dr", "modality": "fundus", "ordinal": True}
        | {"classes": {"none": ["no disease"]}, "templates": ["a fundus with {}"]}
        | {"prompts": {"mild": ["microaneurysms alone", "mild retinopathy"], "none": ["a healthy retina"]}}
    ]
    [task] = load_changed(tmp_path, suite_data).tasks
    assert task.all_prompts() == {
        "none": ["a fundus with no disease", "a healthy retina"],
        "mild": ["microaneurysms alone", "mild retinopathy"],
    }
    assert (task.class_ids, task.main) == (("none", "mild"), "quadratic_kappa")


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        ("retrieval", {"captions": "some"}, "got 'some'; allowed: 'first', 'all'"),
        ("retrieval", {"modality": "ct", "gallery": "modality"}, "gallery 'modality' with one modality"),
        ("probes", {"task": "x", "modality": "ct", "test": "train"}, "test: got 'train', which is fitted or chosen on"),
        ("probes", {"task": "x", "modality": "ct", "shots": [0]}, "shots: got 0; allowed: 1 or more"),
        ("probes", {"task": "x", "modality": "ct", "shots": 4}, "shots: got 4; allowed: a list"),
        ("probes", {"task": "x", "modality": "ct", "classes": ["a", "a"]}, "classes: one comes twice"),
        ("choices", {"format": "", "location": "x"}, "choice 'new': format '' at"),
    ],
)
def test_unsound_searches_probes_and_questions_are_refused(
    tmp_path: Path, suite_data: dict, kind: str, task: dict, message: str
):
    suite_data[kind] = [{"name": "new"} | task]
    with pytest.raises(ConfigError) as error:
        load_changed(tmp_path, suite_data)
    assert message in str(error.value)


def test_questions_lie_where_the_suite_says(tmp_path: Path, suite_data: dict):
    suite_data["choices"] = [{"name": "new", "format": "mediconfusion", "location": "data"}]
    [task] = load_changed(tmp_path, suite_data).choices
    assert task.location == str(tmp_path / "data")


def test_a_class_that_comes_twice_is_refused(tmp_path: Path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\ntitle: t\ntasks:\n- classes:\n    red: [red]\n    red: [crimson]\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: key 'red' comes twice in one mapping, at line 5"):
        load_suite(str(path))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path, suite_data: dict):
    suite_data["retrieval"][0]["name"] = "tiles"
    with pytest.raises(ConfigError, match="two tasks are called 'tiles'"):
        load_changed(tmp_path, suite_data)


def test_a_suite_without_tasks_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="suite 'empty' has no tasks"):
        load_changed(tmp_path, {"name": "empty", "title": "Empty"})


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(ConfigError, match="no suite is called 'reel'; did you mean 'real'"):
        load_suite("reel")
    with pytest.raises(ConfigError, match=r"no such suite file: missing\.yaml"):
        load_suite("missing.yaml")
