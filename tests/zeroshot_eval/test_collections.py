"""Images wherever they lie: what is known of them, what identifies them, and what is refused."""

import io
import os
import pickle
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmed.errors import DataError
from zeroshot_eval import file_digests
from zeroshot_eval.auto_suite import own_suite
from zeroshot_eval.collections import open_collection
from zeroshot_eval.selection import Pool, Skipped, select_classification, select_retrieval
from zeroshot_eval.suite import ClassificationTask, RetrievalTask


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "Skin Photos"
    for number, name in enumerate(["mole/a.png", "mole/b.png", "cancer_in_situ/c.png", "loose.png", ".cache/x/d.png"]):
        put(root / name, png(number))
    return root


def test_a_folder_of_classes(folder: Path):
    found = open_collection(folder)
    items = found.items("test", 3)
    assert [(item.key, item.labels) for item in items] == [
        ("skin_photos/cancer_in_situ/c.png", {"skin_photos": ["cancer_in_situ"]}),
        ("skin_photos/mole/a.png", {"skin_photos": ["mole"]}),
        ("skin_photos/mole/b.png", {"skin_photos": ["mole"]}),
    ]
    assert [found.image_bytes(item.row) for item in items] == [png(2), png(0), png(1)]
    assert found.tasks["skin_photos"].classes == {"cancer_in_situ": "cancer in situ", "mole": "mole"}
    assert {item.set_index for item in items} == {3}
    assert {row["reason"]: row["count"] for row in found.attrition} == {
        "items_seen": 4,
        "no_class_folder": 1,
        "test": 3,
    }


def test_a_folder_with_splits(tmp_path: Path):
    for number, name in enumerate(["train/yes/a.png", "validation/yes/a.png", "Test/no/a.png"]):
        put(tmp_path / "data" / name, png(number))
    found = open_collection(tmp_path / "data")
    assert {split: len(found.items(split, 0)) for split in ("train", "val", "test")} == dict.fromkeys(
        ["train", "val", "test"], 1
    )


def test_the_digest_follows_names_and_bytes_and_the_cache_reads_a_file_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[Path] = []
    honest = file_digests.sha256_file
    monkeypatch.setattr(file_digests, "sha256_file", lambda path: read.append(path) or honest(path))
    first = open_collection(folder, tmp_path / "cache")
    assert len(read) == 3
    again = open_collection(folder, tmp_path / "cache")
    assert len(read) == 3
    assert (first.digest, first.image_digest) == (again.digest, again.image_digest)
    put(folder / "mole" / "a.png", png(77))
    os.utime(folder / "mole" / "a.png", ns=(1, 1))
    changed = open_collection(folder, tmp_path / "cache")
    assert len(read) == 4
    assert changed.image_digest != first.image_digest
    (folder / "mole" / "b.png").rename(folder / "cancer_in_situ" / "b.png")
    assert open_collection(folder).image_digest != changed.image_digest
    for record in (tmp_path / "cache").glob("files-*.json"):
        record.write_text("{")
    assert open_collection(folder, tmp_path / "cache").tasks == changed.tasks


def test_other_labels_are_other_data_of_the_same_images(tmp_path: Path):
    put(tmp_path / "a.png", png(1))
    put(tmp_path / "b.png", png(2))
    table = tmp_path / "list.csv"
    table.write_text("path,label\na.png,x\nb.png,y\n")
    first = open_collection(table)
    table.write_text("path,label\na.png,y\nb.png,x\n")
    second = open_collection(table)
    assert first.image_digest == second.image_digest
    assert first.digest != second.digest


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table(tmp_path: Path, kind: str):
    put(tmp_path / "images" / "a.png", png(1))
    put(tmp_path / "images" / "b.png", png(2))
    rows = [
        {"path": "images/a.png", "label": "benign", "label:view": "ap", "split": "test", "group": "p1"}
        | {"caption": "a mole", "caption_2": "brown", "modality": "dermatology", "sex": "f"},
        {"path": "images/b.png", "label": "malignant", "label:view": "", "split": "train", "group": "p2"}
        | {"caption": "", "caption_2": "", "modality": "", "sex": ""},
    ]
    path = tmp_path / f"lesions.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text("\n".join(mark.join(cells) for cells in ([*rows[0]], *(row.values() for row in rows))))
    found = open_collection(path)
    [first], [second] = found.items("test", 0), found.items("train", 0)
    assert first.labels == {"lesions": ["benign"], "view": ["ap"]}
    assert second.labels == {"lesions": ["malignant"]}
    assert (first.captions, second.captions) == (("a mole", "brown"), ())
    assert (first.group, first.modality, first.facts) == ("lesions/p1", "dermatology", {"sex": "f"})
    assert (second.modality, second.facts) == ("other", {})


def test_several_classes_in_a_cell_make_a_multi_label_task(tmp_path: Path):
    for name in "abc":
        put(tmp_path / f"{name}.png", png(ord(name)))
    table = tmp_path / "chest.csv"
    table.write_text("path,label,chest:absent\na.png,mass|fluid,\nb.png,|,mass\nc.png,fluid,\n")
    found = open_collection(table)
    assert found.tasks["chest"].multi_label
    task = ClassificationTask(
        name="chest",
        task="chest",
        modality="xray",
        kind="multi_label",
        classes={"mass": ("a mass",), "fluid": ("fluid",)},
        templates=("{}",),
    )
    selection = select_classification(task, Pool([found]))
    assert not isinstance(selection, Skipped)
    # The source says of b what it has not; of what it says nothing, nothing is known.
    assert selection.targets.tolist() == [[1, 1], [0, -1], [-1, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x\n", "has no column 'path'; got: file, label"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,x\na.png,y\n", "'a.png' stands in two rows"),
        ("path,label\nb.png,x\n", "has no file 'b.png'"),
        ("path,label\n../a.png,x\n", "leads out of"),
        ("path,label\n/etc/hostname,x\n", "leads out of"),
        ("path,label\nlink.png,x\n", "'link.png' leads out of"),
        ("path,label,split\na.png,x,holdout\n", "row 2: split 'holdout'; allowed: train, val, test"),
        ("path,label,modality\na.png,x,x-ray\n", "row 2: modality 'x-ray'; allowed: xray"),
        ("path,label\na.png,x,y\n", "row 2: not as many cells"),
        ("path,label\na.png\n", "row 2: not as many cells"),
    ],
)
def test_an_unsound_table_is_refused(tmp_path: Path, text: str, message: str):
    root = tmp_path / "data"
    put(root / "a.png", png(1))
    (root / "link.png").symlink_to(put(tmp_path / "outside.png", png(2)))
    (root / "list.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        open_collection(root / "list.csv")


def test_nothing_that_can_be_read_is_named_with_what_can(tmp_path: Path):
    with pytest.raises(DataError, match=r"no images at .*allowed: a shard set .* CLIP_benchmark's layout"):
        open_collection(tmp_path / "missing")
    with pytest.raises(DataError, match="holds no images in folders of classes"):
        open_collection(tmp_path)


@pytest.fixture
def wds(tmp_path: Path) -> Path:
    root = tmp_path / "wds_tissue"
    for number in range(2):
        members = {}
        for sample in range(3):
            key = f"s{number}{sample}"
            members |= {f"{key}.png": png(10 * number + sample), f"{key}.cls": str((number + sample) % 2).encode()}
        write_tar(root / "test" / f"{number}.tar", members)
    put(root / "test" / "nshards.txt", b"2\n")
    put(root / "classnames.txt", b"normal tissue\ntumour\n")
    put(root / "zeroshot_classification_templates.txt", b"a slide of {c}.\n{c}\n")
    return root


def test_a_webdataset_of_clip_benchmark_brings_its_own_task(wds: Path, tmp_path: Path):
    found = open_collection(wds, tmp_path / "cache")
    items = found.items("test", 0)
    assert [item.key for item in items] == [
        f"tissue/test/s{number}{sample}" for number in range(2) for sample in range(3)
    ]
    assert [found.image_bytes(item.row) for item in items] == [png(shade) for shade in (0, 1, 2, 10, 11, 12)]
    [task] = own_suite([found]).tasks
    assert task.all_prompts() == {
        "normal tissue": ["a slide of normal tissue.", "normal tissue"],
        "tumour": ["a slide of tumour.", "tumour"],
    }
    selection = select_classification(task, Pool([found]))
    assert not isinstance(selection, Skipped)
    assert selection.targets.tolist() == [0, 1, 0, 1, 0, 1]
    again = open_collection(wds, tmp_path / "cache")
    assert again.digest == found.digest
    assert [item.sha256 for item in again.items("test", 0)] == [item.sha256 for item in items]


def test_captions_come_one_a_line(tmp_path: Path):
    write_tar(
        tmp_path / "wds_x" / "test" / "0.tar",
        {"a.jpg": png(1), "a.txt": b"one\n\ntwo \n", "b.jpg": png(2), "b.txt": b"three"},
    )
    put(tmp_path / "wds_x" / "dataset_type.txt", b"retrieval")
    found = open_collection(tmp_path / "wds_x")
    selection = select_retrieval(RetrievalTask(name="x"), Pool([found]))
    assert not isinstance(selection, Skipped)
    assert [item.captions for item in selection.items] == [("one", "two"), ("three",)]


class Touch:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_targets_are_never_unpickled(tmp_path: Path):
    root, trap = tmp_path / "wds_trap", tmp_path / "trap"
    array = np.empty(1, dtype=object)
    array[0] = Touch(trap)
    for data in (npy(array), pickle.dumps(Touch(trap))):
        write_tar(root / "test" / "0.tar", {"a.png": png(1), "a.npy": data})
        put(root / "classnames.txt", b"x\n")
        with pytest.raises(DataError, match=r"sample 'a': its \.npy is not readable"):
            open_collection(root)
        assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("test/nshards.txt", b"3\n", "nshards.txt says 3 shards, 2 are there, 2.tar is missing"),
        ("test/nshards.txt", b"1\n", "nshards.txt says 1 shards, 2 are there"),
        ("classnames.txt", b"same\nsame\n", "'same' stands for two classes"),
        ("classnames.txt", b"only\n", "sample 's01': class '1'; allowed: 0 to 0, the lines of classnames.txt"),
        ("test/1.tar", b"no tar" * 1000, "1.tar is damaged"),
    ],
)
def test_a_webdataset_that_is_not_whole_is_refused(wds: Path, name: str, data: bytes, message: str):
    put(wds / name, data)
    with pytest.raises(DataError, match=re.escape(message)):
        open_collection(wds)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": png(1)}, "sample 'a': no .cls and no .npy"),
        ({"a.cls": b"0"}, "sample 'a' has no image"),
        ({"a.png": png(1), "a.npy": npy(np.array([1, 0, 1]))}, "has not one 0 or 1 for each of 2 classes"),
        ({"a.png": png(1), "a.npy": npy(np.array([2, 0]))}, "has not one 0 or 1 for each of 2 classes"),
    ],
)
def test_a_sample_without_a_sound_target_is_refused(wds: Path, members: dict[str, bytes], message: str):
    write_tar(wds / "test" / "1.tar", members)
    with pytest.raises(DataError, match=re.escape(message)):
        open_collection(wds)


def test_a_shard_that_was_cut_short_after_it_was_listed_is_refused(wds: Path):
    found = open_collection(wds)
    last = found.items("test", 0)[-1].row
    tar = wds / "test" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:2100])
    with pytest.raises(DataError, match="cut short"):
        found.image_bytes(last)


def test_two_folders_of_one_name_with_other_images_are_refused(tmp_path: Path):
    for number, place in enumerate(["one", "two"]):
        put(tmp_path / place / "data" / "x" / "a.png", png(number))
    pool = Pool([open_collection(tmp_path / place / "data") for place in ("one", "two")])
    with pytest.raises(DataError, match=r"two different images are called 'data/x/a\.png'"):
        pool.items("test")


def test_a_packed_set_says_what_its_index_says(shard_set: Path):
    found = open_collection(shard_set)
    items = found.items("test", 0)
    assert Counter(item.source for item in items) == {"squares": 32, "tiles": 32}
    assert items[0].captions
    assert items[0].group.startswith("squares/")
    assert found.key(items[5].row) == items[5].key
    assert found.tasks["tiles_colour"].modality == "mri"
    assert found.attrition
