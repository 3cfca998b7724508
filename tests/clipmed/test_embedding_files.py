"""Files of embeddings: what is written is read, by clipmed and by plain NumPy and pyarrow; damage is noticed."""

import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmed import embedding_files
from clipmed.embedding_files import Provenance
from clipmed.errors import ConfigError, DataError

FORMATS = ["parquet", "npz", "npy"]
ITEMS = ["images/ä b.png", "x,y\n.png", "", "images/ä b.png"]
PROVENANCE = Provenance(kind="images", checkpoint="run/model", checkpoint_digest="d1" * 32, seen=6, rejected=2)


def rows(dtype="float32"):
    return np.random.default_rng(0).normal(size=(4, 5)).astype(dtype)


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    return tmp_path / f"e.{request.param}"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(path, dtype):
    written = embedding_files.write(path, rows(dtype), ITEMS, PROVENANCE)
    stored = embedding_files.read(path, checkpoint_digest="d1" * 32)
    assert stored.embeddings.dtype == dtype
    np.testing.assert_array_equal(stored.embeddings, rows(dtype))
    assert stored.items == ITEMS
    assert stored.metadata == written
    assert (written["rows"], written["dimensions"], written["seen"], written["rejected"]) == (4, 5, 6, 2)
    assert written["checkpoint"] == "run/model"


def test_parts_make_the_same_file_every_time(path, tmp_path):
    parts = [(rows()[:1], ITEMS[:1]), (rows()[1:1], []), (rows()[1:], ITEMS[1:])]
    in_parts = embedding_files.write_parts(path, parts, PROVENANCE)
    first = path.read_bytes()
    embedding_files.write_parts(path, iter(parts), PROVENANCE)
    assert path.read_bytes() == first
    np.testing.assert_array_equal(embedding_files.read(path).embeddings, rows())
    assert in_parts == embedding_files.write(tmp_path / f"whole{path.suffix}", rows(), ITEMS, PROVENANCE)


def test_plain_numpy_and_pyarrow_read_them(tmp_path):
    for name in FORMATS:
        embedding_files.write(tmp_path / f"e.{name}", rows(), ITEMS, PROVENANCE)
    with np.load(tmp_path / "e.npz") as stored:
        np.testing.assert_array_equal(stored["embeddings"], rows())
        assert json.loads(stored["paths.json"]) == ITEMS
        assert json.loads(stored["metadata.json"])["checkpoint_digest"] == "d1" * 32
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), rows())
    assert json.loads((tmp_path / "e.npy.json").read_text())["paths"] == ITEMS
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 5)
    assert table["path"].to_pylist() == ITEMS
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), rows())
    metadata = pyarrow.parquet.read_metadata(tmp_path / "e.parquet").metadata
    assert json.loads(metadata[b"clipmed"])["dimensions"] == 5


def test_one_long_path_does_not_make_all_rows_long(tmp_path):
    count = 2000
    items = [f"{number}.png" for number in range(count - 1)] + ["long/" * 800 + "ä.png"]
    provenance = Provenance(kind="images", checkpoint="m", checkpoint_digest="d", seen=count)
    embedding_files.write(tmp_path / "e.npz", np.ones((count, 2), dtype=np.float32), items, provenance)
    assert (tmp_path / "e.npz").stat().st_size < 100_000
    assert embedding_files.read(tmp_path / "e.npz").items == items


def test_rows_are_gone_through_once(path):
    """So that a million rows on the disk are read once to be written."""
    given = ((rows()[number : number + 1], ITEMS[number : number + 1]) for number in range(4))
    written = embedding_files.write_parts(path, given, PROVENANCE)
    assert embedding_files.read(path).metadata == written


def test_rows_that_do_not_add_up_with_what_was_seen_are_not_written(path):
    provenance = Provenance(kind="images", checkpoint="m", checkpoint_digest="d", seen=6, rejected=1)
    with pytest.raises(ConfigError, match="got 4 rows; allowed: 5, seen less rejected"):
        embedding_files.write(path, rows(), ITEMS, provenance)
    assert not list(path.parent.iterdir())


def test_files_of_another_schema_say_so(tmp_path):
    embedding_files.write(tmp_path / "e.npy", rows(), ITEMS, PROVENANCE)
    beside = json.loads((tmp_path / "e.npy.json").read_text())
    beside["metadata"]["schema"] = 1
    (tmp_path / "e.npy.json").write_text(json.dumps(beside))
    with pytest.raises(DataError, match="has the schema 1; this clipmed reads 2: write it again"):
        embedding_files.read(tmp_path / "e.npy")


def test_texts_have_a_column_of_their_own(path):
    provenance = Provenance(kind="texts", checkpoint="m", checkpoint_digest="d", seen=4)
    embedding_files.write(path, rows(), ITEMS, provenance)
    assert embedding_files.read(path).items == ITEMS
    if path.suffix == ".parquet":
        assert pyarrow.parquet.read_table(path).column_names == ["text", "embedding"]


def test_embeddings_of_another_checkpoint_are_refused(path):
    embedding_files.write(path, rows(), ITEMS, PROVENANCE)
    with pytest.raises(ConfigError, match="holds embeddings of the checkpoint d1d1d1d1d1d1…, not of e2e2"):
        embedding_files.read(path, checkpoint_digest="e2" * 32)


def test_rows_that_were_changed_are_noticed(tmp_path):
    for name in FORMATS:
        embedding_files.write(tmp_path / f"e.{name}", rows(), ITEMS, PROVENANCE)
    np.save(tmp_path / "e.npy", rows() + 1)
    with zipfile.ZipFile(tmp_path / "e.npz") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as changed:
        for name, content in (members | {"paths.json": json.dumps([*ITEMS[:3], "other.png"]).encode()}).items():
            changed.writestr(name, content)
    with pyarrow.parquet.ParquetFile(tmp_path / "e.parquet") as file:
        table = file.read().replace_schema_metadata({b"clipmed": file.metadata.metadata[b"clipmed"]})
    pyarrow.parquet.write_table(table.take(pyarrow.array([1, 0, 2, 3])), tmp_path / "e.parquet")
    for name in FORMATS:
        with pytest.raises(DataError, match="is damaged or was changed"):
            embedding_files.read(tmp_path / f"e.{name}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_an_error_and_never_other_rows(path, data):
    embedding_files.write(path, rows(), ITEMS, PROVENANCE)
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), place]))])
    try:
        stored = embedding_files.read(path)
    except DataError:
        return
    np.testing.assert_array_equal(stored.embeddings, rows())  # a byte that nothing reads
    assert stored.items == ITEMS


@pytest.mark.parametrize("content", [b"", b"not this", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole file of embeddings"):
        embedding_files.read(path)


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "e.npy.json").write_text(json.dumps({"metadata": {"kind": "images"}, "paths": ["a"]}))
    with pytest.raises(DataError, match="allow_pickle"):
        embedding_files.read(tmp_path / "e.npy")


@pytest.mark.parametrize(
    ("embeddings", "items", "message"),
    [
        (rows(), ITEMS[:3], r"got float32 of shape \(4, 5\) for 3 items"),
        (rows()[0], ITEMS, r"of shape \(5,\) for 4 items"),
        (rows("float64"), ITEMS, "got float64; allowed: rows of float32 or float16"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, embeddings, items, message):
    with pytest.raises(ConfigError, match=message):
        embedding_files.write(tmp_path / "e.npz", embeddings, items, PROVENANCE)
    with pytest.raises(ConfigError, match=r"got e\.csv; allowed endings: \.parquet, \.npz, \.npy"):
        embedding_files.write(tmp_path / "e.csv", rows(), ITEMS, PROVENANCE)
    assert not list(tmp_path.iterdir())
