"""Packing: what the set holds, equal bytes from equal inputs, and a kill that costs nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from clipmed.errors import DataError
from clipmed.jobs import JobsConfig
from clipmed.records import canonical_json
from shards.config import PackConfig
from shards.pack import pack
from shards.schema import INDEX, REJECTS, SAMPLES

INLINE = JobsConfig(executor="inline")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_members_are_the_samples_and_the_index_points_at_them(packed):
    table = pq.read_table(packed / "samples.parquet")
    assert table.schema.equals(INDEX)
    by_shard = Counter()
    for row in table.to_pylist():
        with tarfile.open(packed / row["shard"]) as tar:
            members = {suffix: tar.getmember(f"{row['key']}.{suffix}") for suffix in ("jpg", "json", "txt")}
            found = {suffix: tar.extractfile(member).read() for suffix, member in members.items()}
        assert all(row[f"{s}_offset"] == m.offset_data and row[f"{s}_size"] == m.size for s, m in members.items())
        assert found["txt"].decode() == row["captions"][0]["text"]
        assert found["json"].decode() == canonical_json({name: row[name] for name in SAMPLES.names})
        by_shard[row["shard"]] += 3
    for shard, count in by_shard.items():
        with tarfile.open(packed / shard) as tar:
            assert len(tar.getmembers()) == count
    assert all(row["shard"].startswith(f"{row['split']}-") for row in table.to_pylist())


def test_counts_add_up_from_items_seen_to_samples(packed, spools):
    manifest = json.loads((packed / "manifest.json").read_text())
    table, rejects = pq.read_table(packed / "samples.parquet"), pq.read_table(packed / "rejects.parquet")
    assert rejects.schema.equals(REJECTS)
    assert len(table) + len(rejects) == spools.num_seen
    seen = {row["source"]: row["count"] for row in manifest["attrition"] if row["reason"] == "items_seen"}
    assert sum(seen.values()) == spools.num_seen
    for source, count in seen.items():
        rest = [row for row in manifest["attrition"] if row["source"] == source and row["reason"] != "items_seen"]
        assert sum(row["count"] for row in rest) == count
    assert Counter(rejects["reason"].to_pylist()) == {
        "image_corrupt": 3,
        "duplicate_exact": 1,
        "license_not_allowed": 1,
    }
    assert manifest["counts"]["split"] == dict(Counter(table["split"].to_pylist()))
    assert manifest["counts"]["samples"] == len(table) == sum(shard["samples"] for shard in manifest["shards"])
    assert manifest["license"]["group"] == "noncommercial"
    assert manifest["license"]["licenses"] == dict(Counter(table["license"].to_pylist()))
    assert manifest["counters"]["ct"] == {"articles": 6}
    assert manifest["tasks"]["web_finding"] == {
        "source": "web", "modality": "ct", "classes": {"mass": "a mass", "normal": "no finding"},
    }  # fmt: skip
    assert manifest["config"]["samples_per_shard"] == 10


def test_the_copy_in_a_test_split_is_kept(packed):
    rejects = [
        row for row in pq.read_table(packed / "rejects.parquet").to_pylist() if row["reason"] == "duplicate_exact"
    ]
    assert [row["source"] for row in rejects] == ["web"]
    kept = {row["key"]: row for row in pq.read_table(packed / "samples.parquet").to_pylist()}
    original = kept[rejects[0]["detail"].removeprefix("same bytes as ")]
    assert (original["source"], original["split"]) == ("exam", "test")


def test_same_inputs_same_bytes_in_any_order_place_and_executor(packed, spools, config, tmp_path):
    moved = [tmp_path / f"moved-{n}" for n in range(3)]
    for path, copy in zip(spools.paths, moved, strict=True):
        shutil.copytree(path, copy)
    pack(moved[::-1], tmp_path / "again", config, JobsConfig(executor="processes", workers=2), progress=False)
    assert contents(tmp_path / "again") == contents(packed)


def test_other_settings_give_other_sets_and_replace_the_old_one(own_set, spools, config):
    before = contents(own_set)
    manifest = pack(spools.paths, own_set, PackConfig(samples_per_shard=7, seed=5), INLINE, progress=False)
    after = contents(own_set)
    assert set(after) == {
        "README.md",
        "manifest.json",
        "removed.parquet",
        "samples.parquet",
        "rejects.parquet",
        *(s["name"] for s in manifest["shards"]),
    }
    assert after["train-000000.tar"] != before["train-000000.tar"]
    assert list(own_set.parent.iterdir()) == [own_set]


CHILD = """
import sys
from pathlib import Path
from clipmed.jobs import JobsConfig
from shards.config import PackConfig
from shards.pack import pack

if __name__ == "__main__":
    config = PackConfig(samples_per_shard=2, val_fraction=0.15, test_fraction=0.2)
    pack([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), config, JobsConfig(executor="inline"), progress=False)
"""


def test_kill_9_in_the_middle_then_resume_gives_the_same_bytes(spools, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    config = PackConfig(samples_per_shard=2, val_fraction=0.15, test_fraction=0.2)
    pack(spools.paths, tmp_path / "whole", config, INLINE, progress=False)
    out = tmp_path / "set"
    parts = tmp_path / ".set.partial" / "parts"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(out), *map(str, spools.paths)]
    child = subprocess.Popen(command, env=environment)
    while child.poll() is None and len(list(parts.glob("*.json"))) < 3:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in parts.parent.glob("*.tar")}
    assert finished
    names = [path.stem.removesuffix(".tar") for path in parts.glob("*.json")]
    (parts.parent / f"{names[0]}.tar").write_bytes(b"cut off")  # a finished shard that a crash of the disk cut off
    (parts.parent / ".train-000001.tar.99999").write_bytes(b"left behind")

    kept = {}
    original = parts.parent / f"{names[-1]}.tar"
    kept[original.name] = original.stat().st_ino
    subprocess.run(command, env=environment, check=True)
    assert {name: (out / name).stat().st_ino for name in kept} == kept  # not written again
    assert contents(out) == contents(tmp_path / "whole")
    assert not parts.parent.exists()


def test_a_partial_folder_of_another_plan_is_not_used(spools, config, packed, tmp_path):
    partial = tmp_path / ".set.partial"
    (partial / "parts").mkdir(parents=True)
    (partial / "digest").write_text("another plan")
    (partial / "train-000000.tar").write_bytes(b"old")
    pack(spools.paths, tmp_path / "set", config, INLINE, progress=False)
    assert contents(tmp_path / "set") == contents(packed)


def test_a_folder_that_is_not_a_set_is_never_replaced(spools, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="exists and is not a shard set; give another --out"):
        pack(spools.paths, tmp_path, PackConfig(), INLINE, progress=False)
    assert (tmp_path / "thesis.tex").exists()


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["samples.tar", "samples.parquet", "rejects.parquet"])
def test_damaged_spools_are_refused_by_name(name, spools, tmp_path):
    copy = shutil.copytree(spools.paths[0], tmp_path / "spool")
    flip(copy / "unit-00000" / name, 700)
    with pytest.raises(DataError, match=rf"unit-00000/{name} is not what its unit\.json says"):
        pack([copy], tmp_path / "set", PackConfig(), INLINE, progress=False)


def test_counts_that_do_not_add_up_are_refused(spools, tmp_path):
    copy = shutil.copytree(spools.paths[0], tmp_path / "spool")
    summary = json.loads((copy / "unit-00000/unit.json").read_text())
    (copy / "unit-00000/unit.json").write_text(json.dumps({**summary, "seen": summary["seen"] + 1}))
    with pytest.raises(DataError, match=r"items seen, but .* samples and .* rejects"):
        pack([copy], tmp_path / "set", PackConfig(), INLINE, progress=False)


def test_unfinished_and_missing_spools_are_refused(spools, tmp_path):
    copy = shutil.copytree(spools.paths[0], tmp_path / "spool")
    shutil.rmtree(copy / "unit-00001")
    with pytest.raises(DataError, match="1 of 2 units are missing"):
        pack([copy], tmp_path / "set", PackConfig(), INLINE, progress=False)
    with pytest.raises(DataError, match="is not a spool"):
        pack([tmp_path], tmp_path / "set", PackConfig(), INLINE, progress=False)
    with pytest.raises(DataError, match="no spools to pack"):
        pack([], tmp_path / "set", PackConfig(), INLINE, progress=False)
    with pytest.raises(DataError, match="keys come more than once over the spools"):
        pack([spools.paths[0]] * 2, tmp_path / "set", PackConfig(), INLINE, progress=False)


def test_vocabularies_that_contradict_each_other_are_refused(make_spool, tmp_path):
    first = make_spool("one", {"lung": {"modality": "ct", "source": "x", "classes": {"0": "normal", "1": "mass"}}})
    agrees = make_spool("two", {"lung": {"modality": "ct", "source": "x", "classes": {"1": "mass", "2": "cyst"}}})
    manifest = pack([first, agrees], tmp_path / "set", PackConfig(), INLINE, progress=False)
    assert manifest["tasks"]["lung"]["classes"] == {"0": "normal", "1": "mass", "2": "cyst"}
    other = make_spool("three", {"lung": {"modality": "ct", "source": "x", "classes": {"0": "mass"}}})
    with pytest.raises(DataError, match="task 'lung' is defined differently by x and three"):
        pack([first, other], tmp_path / "set", PackConfig(), INLINE, progress=False)
