"""Verification: a whole set has no problems; each kind of damage is named by file, member and reason."""

import hashlib
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmed.errors import DataError
from shards.__main__ import main
from shards.manifest import checksum
from shards.schema import INDEX
from shards.verify import Problem, verify


def problems(path):
    return verify(path, progress=False)


def rows_of(path):
    return pq.read_table(path / "samples.parquet").to_pylist()


def edit_index(path, change, *, forge=False):
    """Change the rows of the index; with `forge` also write its new digest into the manifest."""
    rows = rows_of(path)
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, INDEX), path / "samples.parquet")
    if forge:
        manifest = json.loads((path / "manifest.json").read_text())
        data = (path / "samples.parquet").read_bytes()
        manifest["files"]["samples.parquet"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["checksum"] = checksum(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(bytes(data))


def test_a_packed_set_is_whole(packed):
    assert problems(packed) == []


@pytest.mark.parametrize(
    ("member", "delta", "reason"),
    [
        ("jpg", 100, "sha256 is not the one of its row"),
        ("json", 30, ""),
        ("txt", 3, "the text is not the first caption of its row"),
        ("jpg", -512 + 5, "the tar header before that is another"),
        ("txt", -512 + 130, "the tar header before that is another"),
    ],
)
def test_a_flipped_byte_names_its_member(own_set, member, delta, reason):
    row = rows_of(own_set)[7]
    flip(own_set / row["shard"], row[f"{member}_offset"] + delta)
    found = problems(own_set)
    assert Problem(row["shard"], "", "sha256 differs from the manifest's") in found
    named = [problem for problem in found if problem.member]
    assert [(problem.shard, problem.member) for problem in named] == [(row["shard"], f"{row['key']}.{member}")]
    assert reason in named[0].reason


def test_flipped_padding_and_tail_are_named(own_set):
    row = rows_of(own_set)[0]
    flip(own_set / row["shard"], row["txt_offset"] + row["txt_size"])
    assert f"{row['key']}.txt" in {problem.member for problem in problems(own_set)}
    flip(own_set / row["shard"], row["txt_offset"] + row["txt_size"])
    assert problems(own_set) == []
    flip(own_set / row["shard"], -1)
    assert any("after the tar's end mark" in problem.reason for problem in problems(own_set))


def test_every_single_byte_of_a_shard_counts(own_set):
    shard = own_set / rows_of(own_set)[0]["shard"]
    size = shard.stat().st_size
    for offset in range(0, size, size // 40):
        flip(shard, offset)
        named = [problem for problem in problems(own_set) if "sha256 differs" not in problem.reason]
        assert [problem.shard for problem in named] == [shard.name], offset
        flip(shard, offset)


def test_a_removed_shard_is_named(own_set):
    (own_set / "train-000001.tar").unlink()
    found = problems(own_set)
    assert found == [Problem("train-000001.tar", "", "missing: 10 samples of train are lost")]


def test_a_cut_shard_names_the_members_that_are_lost(own_set):
    row = rows_of(own_set)[-1]
    shard = own_set / row["shard"]
    shard.write_bytes(shard.read_bytes()[: row["json_offset"] + 10])
    found = [(problem.member, problem.reason) for problem in problems(own_set)]
    assert any(member == f"{row['key']}.json" and "outside the shard" in reason for member, reason in found)
    assert any("bytes; the manifest says" in reason for _, reason in found)


@pytest.mark.parametrize("forge", [False, True])
def test_an_edited_row_of_the_index_is_named(own_set, forge):
    row = rows_of(own_set)[11]
    edit_index(own_set, lambda rows: rows[11].update(width=999, modality="oct"), forge=forge)
    found = problems(own_set)
    assert any(
        problem.member == f"{row['key']}.json" and "differs from its row in: modality, width" in problem.reason
        for problem in found
    )
    assert (Problem("samples.parquet", "", "sha256 differs from the manifest's") in found) is not forge
    assert any(problem.member == "counts.modality" for problem in found)


def test_edited_places_and_captions_are_named(own_set):
    keys = [row["key"] for row in rows_of(own_set)]

    def change(rows):
        rows[0]["jpg_offset"] += 512
        rows[1]["txt_size"] += 1
        rows[2]["captions"][0]["text"] += "!"
        rows[3]["shard"] = "train-000099.tar"

    edit_index(own_set, change)
    found = {(problem.member, problem.reason.split(";")[0].split(",")[0]) for problem in problems(own_set)}
    members = {member for member, _ in found}
    assert {f"{keys[0]}.jpg", f"{keys[1]}.txt", f"{keys[2]}.txt", f"{keys[2]}.json", keys[3]} <= members
    assert (f"{keys[3]}.jpg", "no row of samples.parquet points at this member") in found


def test_removed_and_repeated_rows_are_named(own_set):
    keys = [row["key"] for row in rows_of(own_set)]

    def change(rows):
        rows[5] = rows[4]

    edit_index(own_set, change, forge=True)
    found = {(problem.member, problem.reason) for problem in problems(own_set)}
    assert (f"{keys[5]}.jpg", "no row of samples.parquet points at this member") in found
    assert (keys[4], "2 rows with this key") in found


def test_a_group_in_two_splits_is_named(own_set):
    rows = rows_of(own_set)
    first = next(row for row in rows if row["split"] == "train")
    number = next(n for n, row in enumerate(rows) if row["split"] == "test" and row["source"] == first["source"])
    edit_index(own_set, lambda rows: rows[number].update(group=first["group"]), forge=True)
    assert any(
        problem.member == rows[number]["key"] and "is in 'train' and 'test'" in problem.reason
        for problem in problems(own_set)
    )


def test_an_extra_member_and_an_extra_file_are_named(own_set):
    shard = own_set / "val-000000.tar"
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("stranger.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    (own_set / "train-000777.tar").write_bytes(b"")
    found = problems(own_set)
    assert Problem(shard.name, "stranger.jpg", "no row of samples.parquet points at this member") in found
    assert Problem("train-000777.tar", "", "not a file of this set") in found


def test_an_edited_manifest_is_named_even_where_its_counts_still_add_up(own_set):
    manifest = json.loads((own_set / "manifest.json").read_text())
    manifest["config"]["seed"] = 77
    (own_set / "manifest.json").write_text(json.dumps(manifest))
    assert [(p.shard, "checksum" in p.reason) for p in problems(own_set)] == [("manifest.json", True)]
    manifest["counts"]["split"]["train"] += 1
    manifest["attrition"][0]["count"] += 1
    manifest["checksum"] = checksum(manifest)
    (own_set / "manifest.json").write_text(json.dumps(manifest))
    found = {(problem.shard, problem.member) for problem in problems(own_set)}
    assert found == {("manifest.json", "counts.split"), ("manifest.json", "attrition"), ("README.md", "")}
    del manifest["shards"]
    (own_set / "manifest.json").write_text(json.dumps(manifest))
    assert problems(own_set) == [
        Problem("manifest.json", "", "without shards: it was edited, damaged or packed by an earlier version")
    ]


@pytest.mark.parametrize("name", ["samples.parquet", "rejects.parquet"])
def test_damaged_and_missing_tables_are_named(own_set, name):
    whole = (own_set / name).read_bytes()
    (own_set / name).write_bytes(whole[: len(whole) // 2])
    found = problems(own_set)
    assert {problem.shard for problem in found} == {name}
    assert any("not readable" in problem.reason for problem in found)
    (own_set / name).unlink()
    assert problems(own_set) == [Problem(name, "", "missing")]


def test_an_edited_reject_is_named(own_set):
    rejects = pq.read_table(own_set / "rejects.parquet").slice(1)
    pq.write_table(rejects, own_set / "rejects.parquet")
    found = problems(own_set)
    assert Problem("rejects.parquet", "", "sha256 differs from the manifest's") in found
    assert any(problem.member.startswith("attrition ct/image/image_corrupt") for problem in found)


def test_command_line_exits_with_1_and_prints_member_and_reason(own_set, capsys):
    assert main(["verify", str(own_set)]) == 0
    assert "whole" in capsys.readouterr().out
    row = rows_of(own_set)[3]
    flip(own_set / row["shard"], row["jpg_offset"] + 50)
    assert main(["verify", str(own_set)]) == 1
    printed = capsys.readouterr().out
    assert f"{row['key']}.jpg" in printed
    assert "sha256 is not the one of its row" in printed


def test_something_else_is_not_a_set(tmp_path):
    with pytest.raises(DataError, match=r"not a shard set: no manifest\.json"):
        problems(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="schema version 99; allowed: 1; pack the set again"):
        problems(tmp_path)
