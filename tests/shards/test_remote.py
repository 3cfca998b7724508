"""Shard sets behind HTTP and S3 give what the folder gives, through faults, and name what is damaged."""

from __future__ import annotations

import gc
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmed.errors import DataError
from clipmed.files import sha256_file
from clipmed.rejects import RejectReason
from shards import storage
from shards.reader import ShardSet
from shards.storage import SampleError
from shards.tars import BLOCK
from tests.shards.servers import FileServer, http_server, s3_server

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_RETRY", timedelta(milliseconds=5))
    monkeypatch.setattr(storage, "LAST_RETRY", timedelta(milliseconds=20))


@pytest.fixture(scope="module")
def shard_set(packed: Path) -> ShardSet:
    return ShardSet(packed)


@pytest.fixture
def served(shard_set: ShardSet, tmp_path: Path) -> Iterator[FileServer]:
    """A copy of the set, served over HTTP."""
    shutil.copytree(shard_set.path, tmp_path / "served" / "set")
    with http_server(tmp_path / "served") as server:
        yield server


def all_rows(shard_set: ShardSet) -> list[int]:
    return list(range(len(shard_set)))


def assert_same(remote: ShardSet, local: ShardSet) -> None:
    assert remote.digest == local.digest
    assert remote.fetch(all_rows(local)) == local.fetch(all_rows(local))
    assert remote.column("key") == local.column("key")
    assert remote.image_bytes(3) == local.image_bytes(3)
    assert remote.captions(3) == local.captions(3)


def test_local_fetch_is_what_single_reads_give(shard_set: ShardSet) -> None:
    for row, found in enumerate(shard_set.fetch(all_rows(shard_set))):
        assert found == (shard_set.image_bytes(row), shard_set.record(row))


def test_a_set_over_http_is_the_set_in_the_folder(served: FileServer, shard_set: ShardSet) -> None:
    remote = ShardSet(f"{served.url}/set/")
    assert_same(remote, shard_set)
    assert remote.is_remote
    assert not shard_set.is_remote


def test_a_set_on_s3_is_the_set_in_the_folder(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore
    from obstore.store import S3Store

    with s3_server(tmp_path) as url:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        make_bucket(url)
        store = S3Store.from_url("s3://sets/mine", client_options={"allow_http": True})
        for path in sorted(shard_set.path.iterdir()):
            obstore.put(store, path.name, path.read_bytes())
        assert_same(ShardSet("s3://sets/mine"), shard_set)
        with pytest.raises(DataError, match=r"s3://sets/other is not a shard set: no manifest\.json"):
            ShardSet("s3://sets/other")
        shard = shard_of(shard_set, 0)
        rows = [row for row, name in enumerate(shard_set.column("shard")) if name == shard]
        obstore.put(store, shard, b"too short")  # one row begins inside, the others beyond the end
        assert set(reasons_of(ShardSet("s3://sets/mine"), rows)) == {RejectReason.SHARD_SHORT}


def shard_of(shard_set: ShardSet, row: int) -> str:
    return str(shard_set.column("shard")[row])


def reasons_of(shard_set: ShardSet, rows: list[int]) -> list[RejectReason | None]:
    return [found.reason if isinstance(found, SampleError) else None for found in shard_set.fetch(rows)]


def make_bucket(url: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="sets")


def test_faults_are_retried(served: FileServer, shard_set: ShardSet) -> None:
    remote = ShardSet(f"{served.url}/set")
    served.faults[:] = ["error", "hang_up", "cut"] * 4
    assert remote.fetch(all_rows(shard_set)) == shard_set.fetch(all_rows(shard_set))
    assert not served.faults


def test_a_server_that_never_answers_is_named(served: FileServer) -> None:
    remote = ShardSet(f"{served.url}/set")
    served.faults[:] = ["error"] * 100
    (found,) = remote.fetch([0])
    assert isinstance(found, SampleError)
    assert found.reason == RejectReason.SHARD_UNREACHABLE
    assert served.url in found.detail


@pytest.mark.parametrize("over_http", [False, True])
def test_lost_cut_and_wrong_shards_are_told_apart_row_by_row(served: FileServer, over_http: bool) -> None:
    folder = served.folder / "set"
    location = f"{served.url}/set" if over_http else str(folder)
    clean = ShardSet(location)
    table = clean.table.select(["shard", "jpg_offset"]).to_pylist()
    shards = sorted({row["shard"] for row in table})
    lost, cut, wrong = shards[:3]
    (folder / lost).unlink()
    with (folder / cut).open("r+b") as stream:
        stream.truncate(max(row["jpg_offset"] for row in table if row["shard"] == cut) + 1)
    first_wrong = min(row["jpg_offset"] for row in table if row["shard"] == wrong)
    with (folder / wrong).open("r+b") as stream:
        stream.seek(first_wrong - BLOCK)
        stream.write(b"other")
    damaged = ShardSet(location)
    for row, (place, found) in enumerate(zip(table, damaged.fetch(all_rows(damaged)), strict=True)):
        reason = found.reason if isinstance(found, SampleError) else None
        if place["shard"] == lost:
            assert reason == RejectReason.SHARD_MISSING, row
        elif place["shard"] == wrong and place["jpg_offset"] == first_wrong:
            assert reason == RejectReason.SHARD_CORRUPT, row
        elif place["shard"] == cut:
            assert reason in {None, RejectReason.SHARD_SHORT}, row
        else:
            assert reason is None, row
    reasons = [found.reason for found in damaged.fetch(all_rows(damaged)) if isinstance(found, SampleError)]
    assert reasons.count(RejectReason.SHARD_SHORT) == 1
    with pytest.raises(DataError, match=f"{lost} is missing"):
        damaged.image_bytes(next(row for row, place in enumerate(table) if place["shard"] == lost))


@pytest.mark.parametrize("size", [0, BLOCK])
@pytest.mark.parametrize("over_http", [False, True])
def test_rows_that_begin_beyond_the_end_are_short(served: FileServer, over_http: bool, size: int) -> None:
    shard_set = ShardSet(f"{served.url}/set" if over_http else served.folder / "set")
    shard = shard_of(shard_set, 0)
    with (served.folder / "set" / shard).open("r+b") as stream:
        stream.truncate(size)
    rows = [row for row, name in enumerate(shard_set.column("shard")) if name == shard]
    assert set(reasons_of(shard_set, rows)) == {RejectReason.SHARD_SHORT}


def test_a_set_that_is_let_go_leaves_no_threads(served: FileServer, shard_set: ShardSet) -> None:
    before = set(threading.enumerate())
    remote = ShardSet(f"{served.url}/set")
    remote.fetch(all_rows(shard_set))
    readers = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("shard")]
    assert readers
    del remote
    gc.collect()
    deadline = time.monotonic() + 30
    for thread in readers:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in readers)


def test_the_index_is_fetched_once_and_checked(served: FileServer, shard_set: ShardSet) -> None:
    ShardSet(f"{served.url}/set").column("key")
    before = served.num_requests
    ShardSet(f"{served.url}/set").column("key")
    assert served.num_requests == before + 1  # the manifest alone
    index = served.folder / "set" / "samples.parquet"
    manifest = served.folder / "set" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")  # another set to the cache
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"samples\.parquet is not what manifest\.json says"):
        ShardSet(f"{served.url}/set")


def test_a_large_index_comes_in_parts(served: FileServer, shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (shard_set.path / "samples.parquet").stat().st_size
    monkeypatch.setattr(storage, "CHUNK_BYTES", 1000)
    remote = ShardSet(f"{served.url}/set")
    assert served.num_requests == 1 + -(-size // 1000)
    assert remote.table == shard_set.table


def test_many_may_open_a_set_that_the_cache_lacks(served: FileServer, shard_set: ShardSet, tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        opened = list(pool.map(ShardSet, [f"{served.url}/set"] * 64))
    assert {each.digest for each in opened} == {shard_set.digest}
    files = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert files == ["manifest.json", "samples.parquet"]


def test_a_cache_that_cannot_be_written_is_named(
    served: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPMED_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written: .*; set CLIPMED_CACHE to a folder that can"):
        ShardSet(f"{served.url}/set")


@pytest.mark.parametrize(
    "secret", ["http://me:word@host/set", "https://host/set?X-Amz-Signature=word", "ftp://:word@host"]
)
def test_an_address_that_holds_a_secret_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(DataError, match="give credentials in the environment") as caught:
        ShardSet(secret)
    assert "word@" not in str(caught.value)
    assert "=word" not in str(caught.value)


def test_a_refusal_is_not_retried_and_its_page_not_quoted(served: FileServer) -> None:
    remote = ShardSet(f"{served.url}/set")
    served.faults[:] = ["refuse", "error"]
    (found,) = remote.fetch([0])
    assert isinstance(found, SampleError)
    assert found.reason == RejectReason.SHARD_UNREACHABLE
    assert "403 Forbidden" in found.detail
    assert "AKIA" not in found.detail
    assert served.faults == ["error"]


def test_a_forked_child_is_told_so(served: FileServer) -> None:
    script = """
import os, sys
from clipmed.errors import DataError
from shards.reader import ShardSet
shard_set = ShardSet(sys.argv[1])
shard_set.image_bytes(0)
if os.fork() == 0:
    try:
        shard_set.image_bytes(0)
    except DataError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
shard_set.image_bytes(0)
"""
    command = [sys.executable, "-c", script, f"{served.url}/set"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "cannot be read in a forked process" in done.stdout
    assert "'spawn' or 'forkserver'" in done.stdout


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "train-000000.tar\0"])
@pytest.mark.parametrize("over_http", [False, True])
def test_a_shard_name_that_leads_out_of_the_set_is_refused(served: FileServer, name: str, over_http: bool) -> None:
    folder = served.folder / "set"
    index = folder / "samples.parquet"
    table = pq.read_table(index)
    names = pa.array([name] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("shard"), "shard", names), index)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["samples.parquet"] |= {"bytes": index.stat().st_size, "sha256": sha256_file(index)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shard_set = ShardSet(f"{served.url}/set" if over_http else folder)
    with pytest.raises(DataError, match=f"names shards outside the set, such as {re.escape(repr(name))}"):
        shard_set.fetch([0])


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(DataError, match=r"ftp://host/set: unknown kind of address; allowed: a folder, s3://"):
        ShardSet("ftp://host/set")


def _first_image(shard_set: ShardSet) -> bytes:
    return shard_set.image_bytes(0)


def test_a_remote_set_reads_in_a_spawned_process(served: FileServer, shard_set: ShardSet) -> None:
    remote = ShardSet(f"{served.url}/set")
    remote.image_bytes(1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first_image, (remote,)) == shard_set.image_bytes(0)
