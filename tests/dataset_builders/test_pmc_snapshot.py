"""The pinned list: what is listed, which version stands, units, inventories, and what changed between two."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmed.errors import ConfigError, DataError
from clipmed.records import unit_of_group
from dataset_builders.__main__ import main
from dataset_builders.pmc.config import Layout
from dataset_builders.pmc.delta import compare, write_delta
from dataset_builders.pmc.metadata import md5_hex
from dataset_builders.pmc.snapshot import (
    Snapshot,
    list_folder,
    read_snapshot,
    read_unit,
    read_units_digest,
    take_snapshot,
    write_snapshot,
    write_units,
)
from dataset_builders.pmc.sources import ArticleRef
from tests.dataset_builders.bucket_articles import DATES
from tests.dataset_builders.bucket_server import bucket_server

ROOT = "inventory-reports/pmc-oa-opendata/metadata"
DATE = "2026-09-14T01-00Z"


def package(path: Path, first_member: str = "PMC1/a.nxml") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(first_member))


def refs(root: Path, layout: Layout = "auto") -> list[ArticleRef]:
    snapshot = take_snapshot(str(root), layout)
    write_units(snapshot, root / "listing.parquet", 1)
    return read_unit(root / "listing.parquet", 0)


def inventory(root: Path, lines: list[str], date: str = DATE, **manifest: object) -> None:
    """Write an inventory in the bucket's layout, in one file."""
    data = gzip.compress("\n".join(lines).encode(), mtime=0)
    key = f"{ROOT}/data/{date}.csv.gz"
    (root / key).parent.mkdir(parents=True, exist_ok=True)
    (root / key).write_bytes(data)
    content = {
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": [{"key": key, "MD5checksum": md5_hex(data)}],
    }
    (root / ROOT / date).mkdir(parents=True, exist_ok=True)
    (root / ROOT / date / "manifest.json").write_text(json.dumps(content | manifest))


def line(key: str, etag: str = "e") -> str:
    return f'"pmc-oa-opendata","{key}","2026-09-01T00:00:00.000Z","{etag}"'


def test_articles_are_listed_by_number_newest_version_first(tmp_path: Path):
    for name in ("PMC12.1", "PMC12.10", "PMC12.2", "PMC3.1", "metadata", "PMC5", "other.1"):
        (tmp_path / name).mkdir()
    listed = [(ref.path, ref.version, ref.superseded_by) for ref in refs(tmp_path)]
    assert listed == [
        ("PMC3.1", 1, ""),
        ("PMC12.10", 10, ""),
        ("PMC12.2", 2, "PMC12.10"),
        ("PMC12.1", 1, "PMC12.10"),
    ]


def test_packages_are_listed_in_any_folder_and_give_way_to_versions(tmp_path: Path):
    (tmp_path / "PMC9.1").mkdir()
    package(tmp_path / "a" / "PMC9.tar.gz")
    package(tmp_path / "a" / "b" / "PMC8.tar.gz")
    package(tmp_path / "a" / "PMC8.tar.gz")
    package(tmp_path / "c" / "article.tar.gz", "./PMC7/x.nxml")
    package(tmp_path / "c" / "unnamed.tar.gz", "x.nxml")
    package(tmp_path / "c" / "unnamed2.tar.gz", "x.nxml")
    listed = {ref.path: (ref.number, ref.version, ref.superseded_by) for ref in refs(tmp_path)}
    assert listed == {
        "PMC9.1": (9, 1, ""),
        "a/PMC9.tar.gz": (9, None, "PMC9.1"),
        "a/PMC8.tar.gz": (8, None, ""),
        "a/b/PMC8.tar.gz": (8, None, "a/PMC8.tar.gz"),
        "c/article.tar.gz": (7, None, ""),
        "c/unnamed.tar.gz": (0, None, ""),
        "c/unnamed2.tar.gz": (0, None, ""),
    }
    assert {ref.layout for ref in refs(tmp_path, "packages")} == {"packages"}
    assert [ref.path for ref in refs(tmp_path, "bucket")] == ["PMC9.1"]


def test_tars_inside_an_articles_folder_are_supplements(tmp_path: Path):
    package(tmp_path / "PMC9.1" / "supplement.tar.gz")
    package(tmp_path / "metadata" / "PMC8.tar.gz")
    assert [ref.path for ref in refs(tmp_path)] == ["metadata/PMC8.tar.gz", "PMC9.1"]


def test_folders_without_articles_are_refused(tmp_path: Path):
    (tmp_path / "text").mkdir()
    with pytest.raises(ConfigError, match="holds no article in the layout 'bucket'"):
        list_folder(tmp_path, "bucket")
    with pytest.raises(ConfigError, match="no such folder"):
        list_folder(tmp_path / "absent", "auto")


def test_units_are_those_of_the_articles_names_and_hold_every_version_once(tmp_path: Path):
    for number in range(1, 60):
        (tmp_path / "in" / f"PMC{number}.1").mkdir(parents=True)
    package(tmp_path / "in" / "odd\udcff.tar.gz", "x.nxml")
    snapshot = take_snapshot(str(tmp_path / "in"), "auto")
    write_units(snapshot, tmp_path / "units.parquet", 100)  # some units are empty
    seen = []
    for unit in range(100):
        for ref in read_unit(tmp_path / "units.parquet", unit):
            name = ref.pmcid if ref.number else "odd?.tar.gz"
            assert unit_of_group(name, 100) == unit
            seen.append(ref.path)
    assert len(seen) == len(set(seen)) == 60
    assert "odd\udcff.tar.gz" in seen
    assert read_units_digest(tmp_path / "units.parquet") == snapshot.digest
    write_units(snapshot, tmp_path / "again.parquet", 100)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "units.parquet").read_bytes()


def test_snapshots_survive_the_disk_and_damage_is_seen(tmp_path: Path):
    (tmp_path / "in" / "PMC1.1").mkdir(parents=True)
    snapshot = take_snapshot(str(tmp_path / "in"), "auto")
    path = tmp_path / "s.parquet"
    write_snapshot(snapshot, path)
    again = read_snapshot(path)
    assert (again.address, again.taken, again.digest) == (snapshot.address, "", snapshot.digest)
    whole = path.read_bytes()
    table = pq.read_table(path)
    other = table.set_column(0, table.schema.field(0), [[2]])
    pq.write_table(other, path)
    with pytest.raises(DataError, match="damaged"):
        read_snapshot(path)
    path.write_bytes(whole[:40] + b"\xff" * 40 + whole[80:])
    with pytest.raises(DataError, match="damaged"):
        read_snapshot(path)
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="is not a snapshot"):
        read_snapshot(path)
    with pytest.raises(DataError, match="no such snapshot"):
        read_snapshot(tmp_path / "absent.parquet")


def test_the_latest_whole_inventory_is_taken(tmp_path: Path):
    rows = [line("metadata/PMC1.1.json", "aa"), line("metadata/PMC1.2.json", "bb"), line("PMC2.1/PMC2.1.xml", "cc")]
    inventory(tmp_path, [*rows, line("README.txt"), line("PMC1.2/x.jpg", "dd")], "2026-09-13T01-00Z")
    (tmp_path / ROOT / "2026-09-14T01-00Z").mkdir()  # its manifest has not come yet
    (tmp_path / ROOT / "hive").mkdir()
    with bucket_server(folder=tmp_path) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        snapshot = take_snapshot(server.s3_url, "auto")
        with pytest.raises(DataError, match="no inventory of '2026-08'"):
            take_snapshot(server.s3_url, "auto", "2026-08")
    assert snapshot.taken == "2026-09-13T01-00Z"
    rows_of = snapshot.table.select(["path", "version", "etag", "superseded_by"]).to_pylist()
    assert rows_of == [
        {"path": b"PMC1.2", "version": 2, "etag": "bb", "superseded_by": b""},
        {"path": b"PMC1.1", "version": 1, "etag": "aa", "superseded_by": b"PMC1.2"},
        {"path": b"PMC2.1", "version": 1, "etag": "", "superseded_by": b""},
    ]


@pytest.mark.parametrize(
    ("lines", "manifest", "said"),
    [
        ([line("metadata/PMC1.1.json")], {"files": [{"key": f"{ROOT}/data/absent.csv.gz"}]}, "is not whole"),
        ([line("metadata/PMC1.1.json")], {"files": []}, "lists no files"),
        ([line("metadata/PMC1.1.json")], {"fileSchema": "Bucket, Size"}, "allowed: one with a Key"),
        ([line("metadata/PMC1.1.json"), *[line(f"dogs/{n}.jpg") for n in range(9)]], {}, "'dogs/0.jpg'"),
        ([line("README.txt")], {}, "name no article"),
        (["a,b"], {}, "cannot be read as gzipped CSV"),
    ],
)
def test_inventories_that_are_not_whole_are_refused(
    tmp_path: Path, lines: list[str], manifest: dict[str, object], said: str
):
    inventory(tmp_path, lines, **manifest)
    with bucket_server(folder=tmp_path) as server, pytest.raises(DataError, match=said):
        take_snapshot(server.url, "auto", DATE)


def test_an_inventory_file_with_another_checksum_is_refused(tmp_path: Path):
    inventory(tmp_path, [line("metadata/PMC1.1.json")])
    (tmp_path / ROOT / "data" / f"{DATE}.csv.gz").write_bytes(gzip.compress(line("metadata/PMC2.1.json").encode()))
    with bucket_server(folder=tmp_path) as server, pytest.raises(DataError, match="not what the inventory's manifest"):
        take_snapshot(server.url, "auto", DATE)


def test_an_inventory_file_is_as_long_as_stated_and_whole(tmp_path: Path):
    inventory(tmp_path, [line(f"metadata/PMC{n}.1.json") for n in range(1, 2000)])
    path = tmp_path / ROOT / "data" / f"{DATE}.csv.gz"
    key, whole = str(path.relative_to(tmp_path)), path.read_bytes()
    manifest = tmp_path / ROOT / DATE / "manifest.json"
    broken = bytearray(whole)
    broken[len(broken) // 2 :] = b"\xff" * (len(broken) - len(broken) // 2)
    for data, size, said in (
        (whole, 5, "size 5, got"),
        (whole[:-20], None, "cannot be read as gzipped CSV"),
        (bytes(broken), None, "cannot be read as gzipped CSV"),
    ):
        path.write_bytes(data)
        manifest.write_text(json.dumps({"files": [{"key": key} | ({"size": size} if size else {})]}))
        with bucket_server(folder=tmp_path) as server, pytest.raises(DataError, match=said):
            take_snapshot(server.url, "auto", DATE)
    manifest.write_text("[1]")
    with bucket_server(folder=tmp_path) as server, pytest.raises(DataError, match="lists no files"):
        take_snapshot(server.url, "auto", DATE)


def test_an_inventory_of_every_object_gives_each_version_once(tmp_path: Path):
    names = [f"PMC{n}.1/{name}" for n in range(1, 4) for name in (f"PMC{n}.1.xml", "a.jpg", "b.jpg")]
    inventory(tmp_path, [*map(line, names), line("metadata/PMC2.1.json", "two"), line("metadata/PMC4.1.json", "four")])
    with bucket_server(folder=tmp_path) as server:
        table = take_snapshot(server.url, "auto", DATE).table
    found = {row["path"]: row["etag"] for row in table.to_pylist()}
    assert found == {b"PMC1.1": "", b"PMC2.1": "two", b"PMC3.1": "", b"PMC4.1": "four"}


def test_a_server_that_cannot_list_wants_a_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with bucket_server(10) as server:
        assert main(["pmc", "snapshot", server.url, "--out", str(tmp_path / "s.parquet")]) == 1
        assert "give the whole name of one with --date" in capsys.readouterr().err
        assert main(["pmc", "snapshot", server.url, "--out", str(tmp_path / "s.parquet"), "--date", DATES[1]]) == 0
    assert "10 articles" in capsys.readouterr().out


def test_a_delta_names_what_is_new_changed_and_gone(tmp_path: Path):
    def snapshot(*versions: tuple[int, int, str]) -> Snapshot:
        folder = tmp_path / "bucket"
        inventory(folder, [line(f"metadata/PMC{n}.{v}.json", etag) for n, v, etag in versions])
        with bucket_server(folder=folder) as server:
            return take_snapshot(server.url, "auto", DATE)

    old = snapshot((1, 1, "a"), (2, 1, "a"), (3, 1, "a"), (4, 1, "a"))
    new = snapshot((1, 1, "a"), (2, 1, "b"), (3, 1, "a"), (3, 2, "c"), (5, 1, "a"))
    delta = compare(old, new)
    found = {name: getattr(delta, name).tolist() for name in ("added", "changed", "removed")}
    assert found == {"added": [5], "changed": [2, 3], "removed": [4]}
    assert delta.unchanged == 1
    write_delta(delta, tmp_path / "delta")
    assert (tmp_path / "delta" / "changed.txt").read_text() == "PMC2\nPMC3\n"
    summary = json.loads((tmp_path / "delta" / "delta.json").read_text())
    assert summary["articles"] == {"added": 1, "changed": 2, "removed": 1, "unchanged": 1}
    assert summary["new"]["digest"] == new.digest


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path):
    (tmp_path / "a" / "PMC1.1").mkdir(parents=True)
    first = take_snapshot(str(tmp_path / "a"), "auto").digest
    os.rename(tmp_path / "a", tmp_path / "b")  # noqa: PTH104
    assert take_snapshot(str(tmp_path / "b"), "auto").digest == first
    (tmp_path / "b" / "PMC1.2").mkdir()
    assert take_snapshot(str(tmp_path / "b"), "auto").digest != first


def test_the_digest_is_of_every_value_however_the_rows_are_held(tmp_path: Path):
    for name in ("PMC1.1", "PMC1.2", "PMC30.1"):
        (tmp_path / name).mkdir()
    snapshot = take_snapshot(str(tmp_path), "auto")
    table = snapshot.table
    in_pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert dataclasses.replace(snapshot, table=in_pieces).digest == snapshot.digest
    others = {
        "number": pa.array([1, 1, 31]),
        "version": pa.array([2, 1, 3], pa.int32()),
        "path": pa.array([b"PMC1.2", b"PMC1.1", b"QMC30.1"], pa.binary()),
        "layout": pa.array(["bucket", "bucket", "packages"]),
        "etag": pa.array(["", "", "e"]),
        "superseded_by": pa.array([b"", b"PMC1.3", b""], pa.binary()),
    }
    digests = {snapshot.digest}
    for name, values in others.items():
        other = table.set_column(table.column_names.index(name), name, values)
        digests.add(dataclasses.replace(snapshot, table=other).digest)
    assert len(digests) == 1 + len(others)
