from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from dataset_builders.captions.bank import load_bank
from dataset_builders.datasets import Entry, build_dataset, load_entry, shipped_entries
from dataset_builders.datasets.check import check_folder

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
FOLDER = {
    "name": "tiny",
    "title": "Tiny",
    "modality": "xray",
    "layout": {"kind": "folder_per_class"},
    "tasks": {"finding": {"classes": {"a": "an a", "b": "a b"}}},
}
TABLE = {
    **FOLDER,
    "layout": {"kind": "csv", "file": "t.csv", "image_column": "image", "label_columns": {"finding": "label"}},
}


@pytest.mark.parametrize("name", shipped_entries())
def test_every_shipped_entry_is_valid_and_its_bank_words_it(name: str) -> None:
    entry = load_entry(name)
    assert entry.name == name
    bank = load_bank(entry.bank)
    modalities = {entry.modality} if entry.modality else set()
    modalities |= set(entry.layout.modality_values.values())
    modalities |= {value for task in entry.tasks.values() for value in task.class_modality.values()}
    assert modalities or entry.layout.modality_column
    for modality in modalities:
        assert bank.modality_words(modality)
    assert entry.citation or name.startswith("phantom")


def test_task_names_are_unique_over_the_real_sets() -> None:
    tasks = Counter(task for name in REAL_SETS for task in load_entry(name).tasks)
    assert max(tasks.values()) == 1


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_SETS)
def test_the_real_folder_is_as_its_entry_says(name: str, real_data: Path) -> None:
    root = real_data / "images" / name
    report = check_folder(load_entry(name), root)
    assert report.complete, report.problems
    stated = json.loads((root / "dataset.json").read_text())
    assert {count.class_id: count.found for count in report.counts} == stated["classes"]
    assert report.items == stated["images"]


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_SETS)
def test_a_real_folder_builds_to_the_last_image(name: str, real_data: Path, tmp_path: Path) -> None:
    root = real_data / "images" / name
    entry = load_entry(name)
    summary = build_dataset(entry, root, tmp_path / "spool", JobsConfig(executor="inline"))
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
    entry = load_entry("modality_medmnist6")
    assert entry.modality is None
    assert set(entry.tasks["examination"].class_modality.values()) == {"ct", "mri", "xray"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": None}, r"modality is missing; give modality, layout\.modality_column"),
        ({"modality": "xrays"}, r"modality: got 'xrays'; did you mean 'xray'"),
        ({"name": "Tiny.1"}, r"name: got 'Tiny\.1'; allowed: lower-case"),
        ({"tasks": {}}, r"tasks: got none"),
        ({"tasks": {"finding": {"classes": {}}}}, r"classes: got none"),
        ({"tasks": {"finding": {"classes": {"a": " "}}}}, r"class 'a' with the name ' '"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "clases": {}}}},
         r"unknown key 'tasks\.finding\.clases'; did you mean 'classes'"),
        ({"tasks": {"modality": {"classes": {"a": "a"}}}}, r"'modality' is a fact of every image"),
        ({"tasks": {"one": {"classes": {"a": "a"}}, "two": {"classes": {"a": "a"}}}},
         r"got 2; a folder_per_class layout"),
        ({"tasks": {"finding": {"classes": {"a": "a"}, "class_modality": {"x": "ct"}}}},
         r"class_modality: unknown class 'x'"),
        ({"layout": {"kind": "folder"}}, r"got 'folder'; allowed: 'folder_per_class', 'csv'; did you mean"),
        ({"layout": {"kind": "folder_per_class", "file": "t.csv"}}, r"layout\.file does not belong to layout\.kind"),
        ({"layout": {"kind": "csv", "file": "t.csv"}}, r"layout\.image_column is missing"),
        ({"layout": {**TABLE["layout"], "split_folders": True}}, r"layout\.split_folders does not belong"),
        ({"layout": {**TABLE["layout"], "label_columns": {"other": "label"}}},
         r"label_columns name the tasks \['other'\]"),
        ({"layout": {**TABLE["layout"], "delimiter": "tab"}}, r"layout\.delimiter: got 'tab'; allowed: one character"),
        ({"layout": {**FOLDER["layout"], "split_values": {"x": "trian"}}},
         r"split_values: got 'trian'; did you mean 'train'"),
        ({"layout": {**FOLDER["layout"], "label_values": {"A": "c"}}}, r"layout\.label_values: got 'c'"),
        ({"group_from": "("}, r"group_from: '\(' is no regular expression"),
        ({"group_from": "abc"}, r"group_from: 'abc' captures nothing"),
        ({"group_from": "(a)", "layout": {**TABLE["layout"], "group_column": "g"}}, r"are both given"),
        ({"expected_counts": {"c": 1}}, r"0 classes are called 'c'"),
        ({"num_units": 0}, r"num_units=0"),
        ({"licence": "MIT"}, r"unknown key 'licence'; did you mean 'license'"),
    ],
)  # fmt: skip
def test_a_faulty_entry_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Entry, {**FOLDER, **changes}, "tiny.yaml")


def test_an_unknown_entry_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no catalogue entry 'cxr_pneumona'; did you mean 'cxr_pneumonia'"):
        load_entry("cxr_pneumona")
