"""Labels and prompts: what is ambiguous or empty is an error before anything is computed."""

import json

import pytest

from clipmed.errors import ClipmedError, ConfigError
from clipmed.labels import label_prompts, read_prompts


def test_labels_go_into_every_template():
    found = label_prompts(["a mass", "no {} mass"], ["{}", "a scan of {}"])
    assert found == {"a mass": ["a mass", "a scan of a mass"], "no {} mass": ["no {} mass", "a scan of no {} mass"]}


def test_prompts_are_taken_as_they_are():
    given = {"b": ("one", "two"), "a": ["three"]}
    assert list(label_prompts(given).items()) == [("b", ["one", "two"]), ("a", ["three"])]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("lung", "must be a list of texts.*got 'lung'; write"),
        (3, "must be a list of texts"),
        ({"a", "b"}, "must be a list of texts"),
        (None, "must be a list of texts"),
        ([], "two or more different labels: got 0"),
        ({}, "two or more different labels: got 0"),
        (["lung"], "two or more different labels: got 1"),
        (["lung", "mass", "lung"], "got 'lung' twice"),
        (["lung", " Lung"], "'lung' and ' Lung', which are one to the model"),
        (["left  lung", "left lung"], "are one to the model"),
        (["lésion", "le\u0301sion"], "are one to the model"),
        (["lung", ""], "got an empty one, ''"),
        (["lung", " \t"], "got an empty one"),
        (["lung", True], "got True, a bool; allowed: texts; write it in quotes"),
        (["lung", None], "got None"),
        ({"a": "one", "b": ["two"]}, r"the prompts of 'a': got 'one'; allowed: a list.*write \['one'\]"),
        ({"a": ["one"], "b": []}, "got an empty list for 'b'"),
        ({"a": ["one"], "b": ["two", " "]}, "got ' ' for 'b'"),
        ({"a": ["one"], "b": [2]}, "got 2 for 'b'"),
        ({"a": ["one"], "b": None}, "the prompts of 'b': got None"),
        ({"a": ["one", "two"], "b": ["Two", "one"]}, "'a' and 'b' have the same prompts"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ClipmedError, match=message):
        label_prompts(labels)


@pytest.mark.parametrize("templates", ["{}", [], ["an image"], ["{} and {}"], [3]])
def test_wrong_templates(templates):
    with pytest.raises(ClipmedError, match="template"):
        label_prompts(["a", "b"], templates)


@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.json"])
def test_prompts_of_a_file(tmp_path, name):
    content = {"a mass": ["a mass", "a scan with a mass"], "normal": ["no finding"]}
    (tmp_path / name).write_text(json.dumps(content))
    assert read_prompts(tmp_path / name) == content


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.yaml", "a: [one]\nb: [two]\na: [three]\n", "'a' is there twice"),
        ("p.json", '{"a": ["one"], "a": ["two"]}', "'a' is there twice"),
        ("p.yaml", "a: one\nb: two\n", "with a list of prompts each"),
        ("p.yaml", "- a\n- b\n", "with a list of prompts each"),
        ("p.yaml", "a: [", "not readable"),
        ("p.yaml", "? [a]\n: [b]\n", "not readable"),
        ("p.json", "{", "not readable"),
        ("p.json", "[" * 100_000, "not readable"),
        ("p.yaml", "!!python/object/apply:os.system ['true']", "not readable"),
        ("p.yaml", "", "with a list of prompts each"),
    ],
)
def test_wrong_files_of_prompts(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / name)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: [\xe9]")
    for name in ("absent.yaml", "latin.yaml"):
        with pytest.raises(ConfigError, match="not readable as a YAML or JSON file of prompts"):
            read_prompts(tmp_path / name)
