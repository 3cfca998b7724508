from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from clipmed.configuration import from_dict, to_dict
from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from dataset_builders.captions.bank import bank_dict, load_bank
from dataset_builders.datasets import Entry, build_dataset
from dataset_builders.datasets.check import check_folder

INLINE = JobsConfig(executor="inline")
FOLDERS = {"files": ["{label}/**/*"], "labels": {"finding": {"column": "label"}}}
REPOSITORY = Path(__file__).parent.parent.parent


def entry_of(**changes: Any) -> Entry:
    content = {
        "name": "tiny",
        "title": "Tiny",
        "modality": "xray",
        "body_part": "chest",
        "layout": FOLDERS,
        "tasks": {"finding": {"classes": {"normal": "no abnormality", "mass": "a mass"}}},
        "license": "CC BY",
        "num_units": 3,
        **changes,
    }
    return from_dict(Entry, content, "tiny.yaml")


def table_entry(**layout: Any) -> Entry:
    columns = {"tables": [{"file": "t.csv"}], "image": "{image}", "labels": {"finding": {"column": "label"}}}
    return entry_of(layout={**columns, **layout})


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)).save(path)
    return path


def write_table(root: Path, rows: Sequence[str], header: str = "image,label") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "t.csv").write_text("\n".join([header, *rows]) + "\n")


def built(spool: Path) -> dict[str, dict[str, Any]]:
    files = sorted(spool.glob("unit-*/samples.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {json.loads(row["provenance"])["path"]: row for row in rows}


def rejected(spool: Path) -> dict[str, str]:
    files = sorted(spool.glob("unit-*/rejects.parquet"))
    return {row["item"]: f"{row['stage']}/{row['reason']}" for file in files for row in pq.read_table(file).to_pylist()}


def digests(folder: Path) -> Mapping[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def folder_set(root: Path, number: int = 6) -> Path:
    for label in ("normal", "mass"):
        for index in range(number):
            draw(root / label / f"p{index // 2}_{index}.png", seed=index + (100 if label == "mass" else 0))
    return root


def test_a_folder_becomes_samples_with_labels_facts_and_captions(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data")
    summary = build_dataset(entry_of(), root, tmp_path / "spool", INLINE)
    assert (summary["seen"], summary["samples"], summary["rejects"]) == (12, 12, 0)
    row = built(tmp_path / "spool")["mass/p0_1.png"]
    assert row["labels"] == [{"task": "finding", "classes": ["mass"]}]
    assert json.loads(row["facts"]) == {"modality": "xray", "body_part": "chest", "finding": "mass"}
    assert (row["modality"], row["split"], row["license"]) == ("xray", None, "CC-BY-4.0")
    assert row["group"] == "tiny/mass/p0_1.png"
    assert len({caption["text"] for caption in row["captions"]}) == 5
    assert all("mass" in caption["text"].lower() for caption in row["captions"])
    spool = json.loads((tmp_path / "spool" / "spool.json").read_text())
    assert spool["tasks"]["finding"]["classes"] == {"normal": "no abnormality", "mass": "a mass"}
    assert spool["tasks"]["finding"]["modality"] == "xray"
    assert spool["config"]["entry"]["name"] == "tiny"
    assert spool["config"]["bank"] == bank_dict(load_bank("general"))


def test_files_of_one_group_go_to_one_unit(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data", number=20)
    layout = {**FOLDERS, "group": {"column": "stem", "pattern": r"^(p\d+)_"}}
    build_dataset(entry_of(layout=layout), root, tmp_path / "spool", INLINE)
    unit_of: dict[str, set[str]] = {}
    for file in (tmp_path / "spool").glob("unit-*/samples.parquet"):
        for row in pq.read_table(file).to_pylist():
            unit_of.setdefault(row["group"], set()).add(file.parent.name)
    assert set(unit_of) == {f"tiny/p{number}" for number in range(10)}
    assert all(len(units) == 1 for units in unit_of.values())
    assert len(set.union(*unit_of.values())) > 1


def test_split_folders_give_the_official_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("Training", "valid", "test", "extra"):
        draw(root / folder / "normal" / "1.png")
    layout = {**FOLDERS, "files": ["{fold}/{label}/**/*"], "split": {"column": "fold"}}
    entry = entry_of(layout=layout)
    build_dataset(entry, root, tmp_path / "spool", INLINE)
    splits = {path: row["split"] for path, row in built(tmp_path / "spool").items()}
    assert splits == {"Training/normal/1.png": "train", "valid/normal/1.png": "val", "test/normal/1.png": "test"}
    assert rejected(tmp_path / "spool") == {"extra/normal/1.png": "parse/row_invalid"}


def test_every_faulty_file_of_a_folder_is_rejected_with_its_reason(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data", number=1)
    secret = draw(tmp_path / "elsewhere" / "secret.png")
    good = (root / "normal" / "p0_0.png").read_bytes()
    (root / "normal" / "cut.png").write_bytes(good[: len(good) // 2])
    (root / "normal" / "empty.png").write_bytes(b"")
    (root / "normal" / "notes.txt").write_text("not an image")
    (root / "normal" / "link.png").symlink_to(secret)
    (root / "mass" / "linked").symlink_to(secret.parent)
    draw(root / "typo" / "1.png")
    Path(os.fsdecode(os.fsencode(root / "normal") + b"/\xff.png")).write_bytes(good)
    (root / "dataset.json").write_text("{}")
    summary = build_dataset(entry_of(), root, tmp_path / "spool", INLINE)
    assert rejected(tmp_path / "spool") == {
        "normal/cut.png": "image/image_corrupt",
        "normal/empty.png": "image/image_empty",
        "normal/notes.txt": "image/image_unsupported",
        "normal/link.png": "source/path_unsafe",
        "mass/linked": "source/path_unsafe",
        "typo/1.png": "parse/label_unknown",
        "normal/\\udcff.png": "parse/path_unsafe",
    }
    assert (summary["seen"], summary["samples"], summary["rejects"]) == (9, 2, 7)
    assert summary["rejects_by_reason"]["path_unsafe"] == 3


def test_a_pattern_leaves_other_files_alone(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data", number=1)
    draw(root / "mass" / "p0_0_mask.jpg")
    labels = {"finding": {"column": "label", "values": {"Mass": "mass"}}}
    entry = entry_of(layout={"files": ["{label}/*.png"], "labels": labels})
    (root / "mass").rename(root / "Mass")
    assert build_dataset(entry, root, tmp_path / "spool", INLINE)["seen"] == 2
    assert built(tmp_path / "spool")["Mass/p0_0.png"]["labels"][0]["classes"] == ["mass"]


def test_a_table_gives_label_group_split_modality_and_licence(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(root / "img" / "1.png", 1)
    draw(root / "img" / "sub" / "2.png", 2)
    write_table(
        root,
        ["1;Mass;edema|cyst;anna;training;MR;CC0", "sub/2;;;bert;T;XR;"],
        header="image;label;signs;patient;fold;kind;rights",
    )
    tasks = {
        "finding": {"classes": {"normal": "no abnormality", "mass": "a mass"}},
        "signs": {"classes": {"edema": "edema", "cyst": "a cyst"}, "multi_label": True},
    }
    layout = {
        "tables": [{"file": "t.csv", "delimiter": ";"}],
        "image": "img/{image}.png",
        "labels": {"finding": {"column": "label", "values": {"Mass": "mass"}}, "signs": {"column": "signs"}},
        "group": {"column": "patient"},
        "split": {"column": "fold", "values": {"T": "test"}},
        "modality": {"column": "kind", "values": {"MR": "mri", "XR": "xray"}},
        "license": {"column": "rights"},
    }
    entry = entry_of(tasks=tasks, layout=layout, modality=None, body_part=None)
    build_dataset(entry, root, tmp_path / "spool", INLINE)
    rows = built(tmp_path / "spool")
    first = rows["img/1.png"]
    assert first["labels"] == [
        {"task": "finding", "classes": ["mass"]},
        {"task": "signs", "classes": ["edema", "cyst"]},
    ]
    assert json.loads(first["facts"]) == {"modality": "mri", "finding": "mass", "signs": "edema|cyst"}
    assert (first["group"], first["split"], first["modality"]) == ("tiny/anna", "train", "mri")
    assert (first["license"], first["license_group"]) == ("CC0-1.0", "commercial")
    for caption in first["captions"]:
        assert all(word in caption["text"].lower() for word in ("mass", "edema", "cyst"))
    second = rows["img/sub/2.png"]
    assert second["labels"] == [{"task": "signs", "classes": []}]
    assert (second["split"], second["modality"], second["license"]) == ("test", "xray", "CC-BY-4.0")
    assert not any("mass" in caption["text"].lower() for caption in second["captions"])


def test_every_faulty_row_is_rejected_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("1", "2", "3", "4"):
        draw(root / f"{name}.png", int(name))
    draw(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    rows = [
        "1.png,normal",  # line 2: good
        "./1.png,normal",  # the same image again
        "2.png,normal",  # this one and the next contradict each other
        "2.png,mass",
        "3.png,mas",
        "4.png,",
        "gone.png,mass",
        "../outside.png,mass",
        f"{tmp_path}/outside.png,mass",
        "link.png,mass",
        ",mass",
        "1.png",
        "1.png,mass,more",
    ]
    write_table(root, rows)
    summary = build_dataset(table_entry(), root, tmp_path / "spool", INLINE)
    assert set(built(tmp_path / "spool")) == {"1.png"}
    assert rejected(tmp_path / "spool") == {
        "1.png (t.csv:3)": "parse/duplicate_exact",
        "2.png (t.csv:4)": "parse/row_invalid",
        "2.png (t.csv:5)": "parse/row_invalid",
        "3.png (t.csv:6)": "parse/label_unknown",
        "4.png (t.csv:7)": "parse/label_unknown",
        "gone.png (t.csv:8)": "source/media_missing",
        "../outside.png (t.csv:9)": "source/path_unsafe",
        f"{tmp_path}/outside.png (t.csv:10)": "source/path_unsafe",
        "link.png (t.csv:11)": "source/path_unsafe",
        "t.csv:12": "parse/row_invalid",
        "t.csv:13": "parse/row_invalid",
        "t.csv:14": "parse/row_invalid",
    }
    assert (summary["seen"], summary["samples"], summary["rejects"]) == (13, 1, 12)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,labels", r"has no column 'label'; did you mean 'labels'\? Columns: table, image, labels"),
        ("picture,label", r"has no column 'image'"),
        (" , ", r"t\.csv names no column in its first line; give the names as tables\.header"),
    ],
)
def test_a_table_without_a_column_stops_before_any_work(tmp_path: Path, header: str, message: str) -> None:
    write_table(tmp_path / "data", ["1.png,normal"], header)
    with pytest.raises(DataError, match=message):
        build_dataset(table_entry(), tmp_path / "data", tmp_path / "spool", INLINE)
    assert not (tmp_path / "spool").exists()


def test_a_column_that_comes_twice_must_say_the_same(tmp_path: Path) -> None:
    for name in ("1", "2"):
        draw(tmp_path / "data" / f"{name}.png", int(name))
    write_table(tmp_path / "data", ["1.png,normal,normal", "2.png,normal,mass"], "image,label,label")
    build_dataset(table_entry(), tmp_path / "data", tmp_path / "spool", INLINE)
    assert set(built(tmp_path / "spool")) == {"1.png"}
    assert rejected(tmp_path / "spool") == {"t.csv:3": "parse/row_invalid"}


def test_a_missing_folder_table_or_wording_stops_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        build_dataset(entry_of(), tmp_path / "none", tmp_path / "spool", INLINE)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="holds nothing in the layout that was named"):
        build_dataset(entry_of(), tmp_path / "data", tmp_path / "spool", INLINE)
    with pytest.raises(DataError, match=r"cannot read .*t\.csv"):
        build_dataset(table_entry(), tmp_path / "data", tmp_path / "spool", INLINE)
    bank = {
        "name": "b",
        "version": 1,
        "modality_phrases": {"ct": ["CT"]},
        "templates": {"default": ["{modality} {finding}"]},
    }
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(bank))
    folder_set(tmp_path / "data", 1)
    with pytest.raises(ConfigError, match=r"bank b has no modality_phrases for 'xray'"):
        build_dataset(entry_of(bank=str(tmp_path / "b.yaml")), tmp_path / "data", tmp_path / "spool", INLINE)
    assert not (tmp_path / "spool").exists()


def test_bytes_do_not_depend_on_workers_or_on_where_the_folder_lies(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data")
    build_dataset(entry_of(), root, tmp_path / "one", INLINE)
    root.rename(tmp_path / "moved")
    jobs = JobsConfig(executor="processes", workers=2)
    build_dataset(entry_of(), tmp_path / "moved", tmp_path / "two", jobs)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_spool_is_not_resumed_from_another_listing_or_entry(tmp_path: Path) -> None:
    root = folder_set(tmp_path / "data")
    build_dataset(entry_of(), root, tmp_path / "spool", INLINE)
    with pytest.raises(DataError, match="made with other settings"):
        build_dataset(entry_of(captions_per_image=2), root, tmp_path / "spool", INLINE)
    draw(root / "mass" / "new.png")
    with pytest.raises(DataError, match="made with other settings"):
        build_dataset(entry_of(), root, tmp_path / "spool", INLINE)


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    folder_set(tmp_path / "data", number=250)
    entry = entry_of(num_units=10)
    (tmp_path / "entry.yaml").write_text(yaml.safe_dump(to_dict(entry)))
    sources = {"sources": [{"kind": "dataset", "entry": "entry.yaml", "root": "data"}]}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    command = [
        sys.executable,
        "-m",
        "dataset_builders",
        "build",
        str(tmp_path / "sources.yaml"),
        "--jobs.executor",
        "inline",
    ]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], cwd=REPOSITORY, check=True, capture_output=True)

    spool = tmp_path / "killed" / "tiny"
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed")], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not any(spool.glob("unit-*")):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(list(spool.glob("unit-*")))
    assert 1 <= done < 10
    first = {path.name: path.stat().st_mtime_ns for path in spool.glob("unit-*")}

    subprocess.run([*command, "--out", str(tmp_path / "killed")], cwd=REPOSITORY, check=True, capture_output=True)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert all((spool / name).stat().st_mtime_ns == at for name, at in first.items())


def test_check_says_what_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(root / "1.png")
    write_table(root, ["1.png,normal", "2.png,normal", "1.png,other"])
    entry = from_dict(Entry, {**to_dict(table_entry()), "expected_counts": {"normal": 2, "mass": 1}}, "tiny.yaml")
    report = check_folder(entry, root)
    assert not report.complete
    assert [(count.what, count.found, count.expected, count.fits) for count in report.counts] == [
        ("finding/normal", 1, 2, False),
        ("finding/mass", 0, 1, False),
    ]
    assert report.items == 3
    assert report.problems == (
        "2.png (t.csv:3): media_missing: no file 2.png",
        "1.png (t.csv:4): label_unknown: 'other' is no class of finding.",
    )
