"""Captions from tables, and how they find their images."""

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmed.errors import ClipmedError, ConfigError, DataError
from clipmed.search.captions import match_captions, read_captions


def write(path, rows):
    if path.suffix == ".csv":
        lines = ["path,caption,more", *(f'"{name}","{text}",1' for name, text in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"image": name, "caption": text, "more": 1}) for name, text in rows]
        path.write_text("\n\n".join(lines))
    else:
        names, texts = zip(*rows, strict=True)
        pq.write_table(pa.table({"path": names, "caption": texts, "more": [1] * len(rows)}), path)
    return path


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.parquet"])
def test_the_same_captions_from_every_kind_of_table(tmp_path, name):
    rows = [("a.png", "eine Lunge, links"), ("b.png", "  two \n lines "), ("c.png", ""), ("a.png", "eine Lunge, links")]
    assert read_captions(write(tmp_path / name, rows)) == {"a.png": "eine Lunge, links", "b.png": "two lines"}
    write(tmp_path / name, [("a.png", "one"), ("a.png", "another")])
    with pytest.raises(DataError, match=r"'a\.png' has a second caption"):
        read_captions(tmp_path / name)


def test_paths_may_be_written_from_the_table_or_from_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "data" / "images" / name).touch()
    monkeypatch.chdir(tmp_path)
    rows = [("images/a.png", "A"), ("data/images/b.png", "B"), (str(tmp_path / "data/images/c.png"), "C"), ("d", "D")]
    captions = read_captions(write(tmp_path / "data" / "captions.csv", rows))
    paths = ["data/images/a.png", "./data/images/b.png", "data/images/../images/c.png"]
    assert match_captions(captions, paths) == dict(zip(paths, "ABC", strict=True))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("c.txt", b"", ConfigError, r"allowed endings: \.csv, \.jsonl, \.parquet"),
        ("c.csv", b"path,text\na,b\n", ConfigError, "line 2: needs the columns path or image, and caption"),
        ("c.csv", b"path,caption\n\xff,b\n", DataError, "cannot be read as CSV"),
        ("c.csv", b'path,caption\na,"b\n', DataError, "cannot be read as CSV"),
        ("c.csv", b"path,caption\n,b\n", DataError, "path is ''; allowed: the path of an image"),
        ("c.jsonl", b"{", DataError, "cannot be read as lines of JSON"),
        ("c.jsonl", b"[1]", DataError, "line 1: got list"),
        ("c.jsonl", b'{"path": 3, "caption": "b"}', DataError, "path is 3"),
        ("c.jsonl", b'{"path": "a", "caption": 3}', DataError, "caption is int; allowed: text"),
        ("c.jsonl", b'{"path": "a\\u0000", "caption": "b"}', DataError, "allowed: the path of an image"),
        ("c.jsonl", b'{"path": "a", "caption": "' + b"b" * 200_000 + b'"}', DataError, "200000 characters"),
        ("c.parquet", b"PAR1", DataError, "cannot be read as Parquet"),
    ],
)
def test_tables_that_are_none_say_what_is_wrong(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_captions(tmp_path / name)
    with pytest.raises(ConfigError, match="captions: no file"):
        read_captions(tmp_path / "absent.csv")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]), content=st.binary(max_size=120))
def test_any_bytes_give_captions_or_a_clear_error(tmp_path, suffix, content):
    (tmp_path / f"c{suffix}").write_bytes((b"path,caption\n" if suffix == ".csv" else b"") + content)
    with contextlib.suppress(ClipmedError):
        read_captions(tmp_path / f"c{suffix}")
