"""The catalogue as a whole: entries are valid, worded and cited, suites are whole, real folders are as entries say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from dataset_builders.captions.bank import load_bank
from dataset_builders.datasets import Entry, build_dataset, load_entry, shipped_entries
from dataset_builders.datasets.check import check_folder

ENTRIES = {name: load_entry(name) for name in shipped_entries()}
REAL_SETS = (
    "blood_bccd_crops",
    "ct_head_hemorrhage",
    "cxr_pneumonia",
    "derm_isic_cc0",
    "endo_polyp_kvasir",
    "fundus_eye4",
    "histo_lung_lc25000",
    "modality_medmnist6",
    "mri_brain_tumor4",
    "us_breast_busi_even",
)
# Published collections, with the number of their sets.
SUITES = {"unimed_eval": 21, "medpmc_clip_eval": 26, "medmnist": 18}
FOLDERS = {"files": ["{label}/*"], "labels": {"finding": {"column": "label"}}}
TABLE = {"tables": [{"file": "t.csv"}], "image": "{image}", "labels": {"finding": {"column": "label"}}}
TINY = {
    "name": "tiny",
    "title": "Tiny",
    "modality": "xray",
    "layout": FOLDERS,
    "tasks": {"finding": {"classes": {"a": "an a", "b": "a b"}}},
}


def modalities_of(entry: Entry) -> set[str]:
    by_class = {value for task in entry.tasks.values() for value in task.class_modality.values()}
    by_column = set(entry.layout.modality.values.values()) if entry.layout.modality else set()
    return by_class | by_column | ({entry.modality} if entry.modality else set())


@pytest.mark.parametrize("name", ENTRIES)
def test_every_shipped_entry_is_valid_and_its_bank_words_it(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.name == name
    bank = load_bank(entry.bank)
    assert modalities_of(entry) or entry.layout.modality
    for modality in modalities_of(entry):
        assert bank.modality_words(modality)
    for task in entry.tasks.values():
        names = [*task.classes.values(), *(name for names in task.synonyms.values() for name in names)]
        assert len(names) == len(set(names)), "two classes of a task share a name"


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.terms != "drawn"])
def test_every_entry_says_what_to_cite_and_how_to_get_it(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.citation
    assert entry.access
    assert entry.url or entry.terms in {"request", "unavailable"}
    assert all(download.url.startswith("https://") for download in entry.downloads if download.url)
    assert all(len(download.md5) in {0, 32} and len(download.sha256) in {0, 64} for download in entry.downloads)


def test_task_names_are_unique() -> None:
    tasks = Counter(task for entry in ENTRIES.values() for task in entry.tasks)
    assert [task for task, number in tasks.items() if number > 1] == []


def test_overlaps_name_other_entries_from_both_sides() -> None:
    one_sided = {
        (name, other)
        for name, entry in ENTRIES.items()
        for other in entry.overlaps
        if other == name or other not in ENTRIES or name not in ENTRIES[other].overlaps
    }
    assert one_sided == set()


@pytest.mark.parametrize("suite", SUITES)
def test_a_published_suite_is_whole_and_every_task_has_prompts(suite: str) -> None:
    entries = [entry for entry in ENTRIES.values() if suite in entry.suites]
    assert len(entries) == SUITES[suite]
    for entry in entries:
        assert entry.tasks, entry.name
        for task, content in entry.tasks.items():
            assert content.prompts is not None, task
            counts = [len(words) for words in content.prompts.classes.values()]
            assert max(counts) <= 2 * min(counts), f"{task}: some classes have far more words than others"


def test_prompts_are_worded_apart_from_the_captions_that_train() -> None:
    """A template of the banks would make a score one of memory, and words that two classes share none at all."""
    templates = {
        template
        for bank in {entry.bank for entry in ENTRIES.values()}
        for found in yaml.safe_load(bank_path(bank).read_text())["templates"].values()
        for template in found
    }
    for entry in ENTRIES.values():
        for task in entry.tasks.values():
            if task.prompts is not None:
                assert not templates & set(task.prompts.templates), entry.name
                words = [word for words in task.prompts.classes.values() for word in words]
                assert len(words) == len(set(words)), entry.name


def bank_path(name: str) -> Path:
    from dataset_builders.captions import bank

    return Path(bank.__file__).parent / "banks" / f"{name}.yaml"


def test_train_and_test_sets_of_unimed_that_share_images_say_so() -> None:
    assert ENTRIES["radimagenet"].suites == ("unimed_train",)
    for held_out, trained in (("chexpert_5x200", "chexpert"), ("odir200x3", "odir5k")):
        assert "unimed_eval" in ENTRIES[held_out].suites
        assert "unimed_train" in ENTRIES[trained].suites
        assert trained in ENTRIES[held_out].overlaps


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_SETS)
def test_the_real_folder_is_as_its_entry_says(name: str, real_data: Path) -> None:
    root = real_data / "images" / name
    report = check_folder(ENTRIES[name], root)
    assert report.complete, report.problems
    stated = json.loads((root / "dataset.json").read_text())
    (task,) = ENTRIES[name].tasks
    found = {count.what.partition("/")[2]: count.found for count in report.counts if count.what.startswith(f"{task}/")}
    assert found == stated["classes"]
    assert report.items == stated["images"]


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_SETS)
def test_a_real_folder_builds_to_the_last_image(name: str, real_data: Path, tmp_path: Path) -> None:
    root = real_data / "images" / name
    summary = build_dataset(ENTRIES[name], root, tmp_path / "spool", JobsConfig(executor="inline"))
    stated = json.loads((root / "dataset.json").read_text())
    assert summary["seen"] == stated["images"]
    # One head CT of the thumbnails is entirely black.
    blank = {"image_blank": 1} if name == "modality_medmnist6" else {}
    assert summary["rejects_by_reason"] == blank
    rows = [
        row for file in sorted(tmp_path.glob("spool/unit-*/samples.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    built = Counter(row["labels"][0]["classes"][0] for row in rows)
    assert built == {**stated["classes"], **({"head_ct": 199} if blank else {})}
    assert all(len({caption["text"] for caption in row["captions"]}) == 5 for row in rows)
    group_of = {json.loads(row["provenance"])["path"]: row["group"] for row in rows}
    if name == "blood_bccd_crops":
        assert len(set(group_of.values())) == len({path.split("BloodImage_")[1].split("_")[0] for path in group_of})
    if name == "fundus_eye4":
        eyes = {path: path.split("_")[-2] for path in group_of if path.endswith(("_left.jpg", "_right.jpg"))}
        assert eyes
        assert all(group_of[path] == f"{name}/{patient}" for path, patient in eyes.items())


def test_class_and_column_decide_the_modality_of_a_mixed_set() -> None:
    entry = ENTRIES["modality_medmnist6"]
    assert entry.modality is None
    assert set(entry.tasks["examination"].class_modality.values()) == {"ct", "mri", "xray"}
    assert modalities_of(ENTRIES["radimagenet"]) == {"ct", "mri", "ultrasound"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": None}, r"modality is missing; give modality, layout\.modality, or a task's class_modality"),
        ({"modality": "xrays"}, r"modality: got 'xrays'; did you mean 'xray'"),
        ({"name": "Tiny.1"}, r"name: got 'Tiny\.1'; allowed: lower-case"),
        ({"tasks": {}}, r"layout\.labels name the tasks \['finding'\], tasks are \[\]"),
        ({"tasks": {"finding": {"classes": {}}}}, r"classes: got none"),
        ({"tasks": {"finding": {"classes": {"a": " "}}}}, r"class 'a' with the name ' '"),
        ({"tasks": {"finding": {"classes": {"a|b": "x"}}}}, r"class 'a\|b' .*an id without '\|'"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "clases": {}}}},
         r"unknown key 'tasks\.finding\.clases'; did you mean 'classes'"),
        ({"tasks": {"modality": {"classes": {"a": "a"}}},
          "layout": {"files": ["{label}/*"], "labels": {"modality": {"column": "label"}}}},
         r"tasks: got 'modality'; allowed: .* none of modality"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "class_modality": {"x": "ct"}}}},
         r"class_modality: unknown class 'x'"),
        ({"tasks": {"finding": {"classes": {"mass": "a"}, "synonyms": {"mas": ["b"]}}}},
         r"synonyms: unknown class 'mas'; did you mean 'mass'"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "prompts": {"templates": ["x"], "classes": {"a": ["a"]}}}}},
         r"prompts\.templates: 'x' must hold \{\} once"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "prompts": {"templates": ["{}"], "classes": {"b": ["b"]}}}}},
         r"prompts\.classes: allowed: each of a, and no other"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "prompts": {"templates": ["{}"], "classes": {"a": []}}}}},
         r"every class needs words"),
        ({"layout": {**FOLDERS, "kind": "csv"}}, r"unknown key 'layout\.kind'"),
        ({"layout": {**FOLDERS, **TABLE}}, r"got files and tables; give one of files, tables, arrays"),
        ({"layout": {"labels": FOLDERS["labels"]}}, r"got no source of rows; give one of"),
        ({"layout": {key: TABLE[key] for key in ("tables", "labels")}}, r"tables need image or image_bytes"),
        ({"layout": {**FOLDERS, "image": "{image}"}}, r"files and arrays need neither"),
        ({"layout": {"files": ["*"]}}, r"neither labels nor texts"),
        ({"layout": {**TABLE, "labels": {"other": {"column": "label"}}}},
         r"layout\.labels name the tasks \['other'\], tasks are \['finding'\]"),
        ({"layout": {**TABLE, "labels": {"finding": {}}}}, r"give either column or columns"),
        ({"layout": {**TABLE, "labels": {"finding": {"columns": {"c": "C"}}}}}, r"labels of finding: got 'c'"),
        ({"layout": {**TABLE, "labels": {"finding": {"column": "x", "absent": ["1"]}}}},
         r"'1' is in present and in absent"),
        ({"layout": {**TABLE, "labels": {"finding": {"column": "x", "values": {"A": "c"}}}}},
         r"labels\.values: got 'c'.* Allowed: a, b"),
        ({"layout": {**TABLE, "tables": [{"file": "t.csv", "delimiter": "tab"}]}},
         r"tables\.delimiter: got 'tab'; allowed: one character"),
        ({"layout": {**TABLE, "tables": [{"file": ""}]}}, r"tables\.file is missing"),
        ({"layout": {**TABLE, "tables": [{"file": "t.xml", "format": "xml", "rows": ".//row"}]}},
         r"rows and tables\.columns belong together"),
        ({"layout": {**TABLE, "join": [{"table": {"file": "u.csv"}, "on": {}}]}}, r"join\.on: got nothing"),
        ({"layout": {**FOLDERS, "split": {"column": "label", "values": {"x": "trian"}}}},
         r"layout\.split\.values: got 'trian'; did you mean 'train'"),
        ({"layout": {**FOLDERS, "group": {"column": "stem", "pattern": "("}}}, r"'\(' is no regular expression"),
        ({"layout": {**FOLDERS, "group": {"column": "stem", "pattern": "abc"}}}, r"'abc' captures nothing"),
        ({"terms": "free"}, r"'free'; allowed: 'open', 'registration'"),
        ({"expected_counts": {"c": 1}}, r"0 classes are called 'c'"),
        ({"num_units": 0}, r"num_units=0"),
        ({"licence": "MIT"}, r"unknown key 'licence'; did you mean 'license'"),
    ],
)  # fmt: skip
def test_a_faulty_entry_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Entry, {**TINY, **changes}, "tiny.yaml")


def test_an_unknown_entry_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no catalogue entry 'cxr_pneumona'; did you mean 'cxr_pneumonia'"):
        load_entry("cxr_pneumona")
