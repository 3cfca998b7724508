"""Random access: the right bytes by row number, in threads, after a fork, in spawned workers."""

import concurrent.futures
import hashlib
import multiprocessing
import os
import pickle

import pytest

from clipmed.errors import DataError
from shards.reader import ShardSet
from shards.tars import _open_file


def digests(shard_set, rows):
    return [hashlib.sha256(shard_set.image_bytes(row)).hexdigest() for row in rows]


@pytest.fixture(scope="module")
def shard_set(packed):
    return ShardSet(packed)


def test_rows_give_their_own_image_captions_and_labels(shard_set):
    table = shard_set.table.to_pylist()
    assert len(shard_set) == len(table)
    assert digests(shard_set, range(len(table))) == [row["sha256"] for row in table]
    for number, row in enumerate(table):
        assert shard_set.captions(number) == row["captions"]
        assert shard_set.labels(number) == {label["task"]: label["classes"] for label in row["labels"]}
    assert shard_set.column("key") == [row["key"] for row in table]
    assert shard_set.column("facts")[0] == '{"finding":"mass"}'


def test_rows_of_a_split(shard_set):
    splits = shard_set.column("split")
    for name in ("train", "val", "test"):
        rows = shard_set.rows(name)
        assert rows.dtype.name == "int64"
        assert rows.tolist() == [number for number, split in enumerate(splits) if split == name]
    with pytest.raises(DataError, match="unknown split 'dev'; allowed: train, val, test"):
        shard_set.rows("dev")


def test_digest_is_that_of_the_manifest(shard_set):
    assert shard_set.digest == hashlib.sha256((shard_set.path / "manifest.json").read_bytes()).hexdigest()


def test_opening_holds_no_file_and_pickles_small(packed):
    shard_set = ShardSet(packed)
    data = pickle.dumps(shard_set)
    assert len(data) < 500
    assert digests(pickle.loads(data), [0, 1]) == digests(shard_set, [0, 1])


def test_threads_read_the_same_as_one(shard_set):
    rows = list(range(len(shard_set))) * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: digests(shard_set, [row])[0], rows))
    assert found == shard_set.column("sha256") * 4


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_read_the_same(shard_set, method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(shard_set.image_bytes, (5,)) == shard_set.image_bytes(5)


def test_a_forked_child_shares_open_files_safely(shard_set):
    expected = digests(shard_set, range(20))
    child = os.fork()
    if child == 0:
        os._exit(0 if digests(shard_set, range(20)) == expected else 1)
    assert digests(shard_set, range(20)) == expected
    assert os.waitpid(child, 0)[1] == 0


def test_few_files_stay_open(shard_set):
    digests(shard_set, range(len(shard_set)))
    assert _open_file.cache_info().currsize <= _open_file.cache_info().maxsize < 1024


def test_a_missing_or_cut_shard_is_named(own_set):
    shard_set = ShardSet(own_set)
    row = int(shard_set.rows("val")[-1])
    shard = own_set / shard_set.table["shard"][row].as_py()
    shard.rename(own_set / "elsewhere")
    with pytest.raises(DataError, match=rf"{shard.name} is missing; restore it"):
        shard_set.image_bytes(row)
    shard.write_bytes((own_set / "elsewhere").read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"{shard.name} is cut off"):
        shard_set.image_bytes(row)


def test_rows_and_columns_that_are_not_there_are_refused(shard_set):
    with pytest.raises(DataError, match="no row 9999; allowed: 0 to"):
        shard_set.image_bytes(9999)
    with pytest.raises(DataError, match="no row -1"):
        shard_set.captions(-1)
    with pytest.raises(DataError, match="has no column 'colour'; allowed: key, source"):
        shard_set.column("colour")
    with pytest.raises(DataError, match="is not a shard set"):
        ShardSet(shard_set.path.parent)
