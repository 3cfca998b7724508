"""Index folders that are damaged, cut short or made by an enemy: each a clear error, none another exception."""

import contextlib
import hashlib
import json
import shutil
import socket

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

import clipmed
from clipmed.__main__ import main
from clipmed.errors import ConfigError, DataError
from clipmed.search import IndexConfig, SearchIndex, build_index
from clipmed.search.layout import read_facts
from tests.clipmed.search_folders import DIMENSION, draw_many, make_checkpoint

FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A clustered index of 40 images with captions, and one file that is no image."""
    folder = tmp_path_factory.mktemp("whole")
    images = draw_many(folder / "images", 40)
    (folder / "images" / "none.png").write_bytes(b"none")
    model = clipmed.load(make_checkpoint(folder / "checkpoint"), device="cpu")
    captions = {str(path): f"caption {number}" for number, path in enumerate(images)}
    given = [*images, folder / "images" / "none.png"]
    build_index(model, given, folder / "index", captions=captions, config=IndexConfig(kind="clustered"))
    return folder / "index"


@pytest.fixture
def index(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "index", dirs_exist_ok=True)


def use(folder):
    """Do all that can be done with an index."""
    opened = SearchIndex.open(folder)
    queries = np.random.default_rng(0).standard_normal((2, DIMENSION))
    hits = opened.search(queries, 5)
    assert [len(found) for found in hits] == [5, 5]
    for row in range(len(opened)):
        opened.row(row), opened.thumbnail(row), opened.embeddings([row])
    opened.rejects()


def replace(folder, name, data):
    """Put other bytes into a file, and have `index.json` agree, as an enemy would."""
    (folder / name).write_bytes(data)
    facts = json.loads((folder / "index.json").read_text())
    facts["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "index.json").write_text(json.dumps(facts))


def test_an_index_that_is_whole_works(whole):
    use(whole)


def test_nothing_is_fetched_because_an_index_names_it(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPMED_CHECKPOINT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for named in (f"http://127.0.0.1:{server.getsockname()[1]}/model", "hf-hub:some/body", "RN50:openai", "index"):
            facts = json.loads((index / "index.json").read_text())
            facts["checkpoint"]["location"] = named
            (index / "index.json").write_text(json.dumps(facts))
            with pytest.raises(SystemExit, match=f"built by the checkpoint '{named}', which is no folder of this"):
                main(["search", str(index), "a lung"])
        with pytest.raises(BlockingIOError):
            server.accept()


FILES = [
    "embeddings.bin", "rows.jsonl", "rejects.jsonl", "thumbnails.bin", "thumbnail_offsets.bin", "centroids.bin",
    "cluster_offsets.bin", "cluster_rows.bin",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_found_out(index, name):
    data = (index / name).read_bytes()
    (index / name).write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{name} has {len(data) - 1} bytes; allowed: {len(data)}"):
        SearchIndex.open(index)
    (index / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match=f"{name} has the SHA-256"):
        SearchIndex.open(index)
    (index / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        SearchIndex.open(index)
    (index / name).mkdir()
    with pytest.raises(DataError, match=f"{name} is missing"):
        SearchIndex.open(index)


@FUZZ
@drawn(name=st.sampled_from(FILES), data=st.data())
def test_files_of_an_enemy_are_errors_of_the_data_or_harmless(index, whole, name, data):
    original = (whole / name).read_bytes()
    place = data.draw(st.integers(0, max(0, len(original) - 1)))
    patch = data.draw(st.binary(min_size=1, max_size=16))
    changed = original[:place] + patch + original[place + len(patch) :]
    shutil.copytree(whole, index, dirs_exist_ok=True)
    replace(index, name, data.draw(st.sampled_from([changed, changed[: len(original)], original[:place], patch])))
    with contextlib.suppress(DataError):
        use(index)


@FUZZ
@drawn(data=st.data())
def test_descriptions_of_an_enemy_are_errors_of_the_data_or_harmless(index, whole, data):
    facts = json.loads((whole / "index.json").read_text())
    inside = data.draw(st.sampled_from([(), ("checkpoint",), ("clusters",), ("files",), ("files", "rows.jsonl")]))
    part = facts
    for key in inside:
        part = part[key]
    part[data.draw(st.sampled_from([*part, "more"]))] = data.draw(JSON | st.sampled_from([-1, 0, 1, 1 << 70, "exact"]))
    (index / "index.json").write_text(json.dumps(facts))
    with contextlib.suppress(DataError):
        use(index)


@FUZZ
@drawn(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_as_a_description_is_an_error_of_the_data(index, content):
    (index / "index.json").write_bytes(content)
    with pytest.raises(DataError):
        SearchIndex.open(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is damaged"),
        (b"{}", "does not describe a search index"),
        (b'{"format": "clipmed-index", "version": 9}', "format version 9; this clipmed reads 1"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b" " * (2 << 20), "more than"),
        (b"\xff\xfe", "is damaged"),
        (b"9" * 10_000, "is damaged"),
    ],
)
def test_descriptions_that_are_none_say_what_is_wrong(index, content, message):
    (index / "index.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_facts(index)


def test_a_folder_that_is_no_index_says_how_to_make_one(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"not a search index: no index\.json in it; `clipmed index` makes one"):
            SearchIndex.open(folder)


def embeddings_with(value):
    return lambda data: np.full(1, value, dtype="<f4").tobytes() + data[4:]


def offsets_with(place, value):
    def change(data):
        offsets = np.frombuffer(data, dtype="<u8").copy()
        offsets[place] = value
        return offsets.tobytes()

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("embeddings.bin", embeddings_with(np.nan), "embedding 0 has the length nan; allowed: 1"),
        ("embeddings.bin", embeddings_with(1e30), "embedding 0 has the length inf|embedding 0 has the length 1e"),
        ("embeddings.bin", lambda data: bytes(len(data)), "embedding 0 has the length 0"),
        ("centroids.bin", embeddings_with(np.inf), "not finite"),
        ("cluster_rows.bin", offsets_with(0, 1 << 63), "does not name every row once"),
        ("cluster_rows.bin", lambda data: bytes(len(data)), "does not name every row once"),
        ("cluster_offsets.bin", offsets_with(1, 1 << 40), "does not rise from 0 to 40"),
        ("thumbnail_offsets.bin", offsets_with(-1, 7), "does not rise from 0"),
        ("thumbnail_offsets.bin", offsets_with(2, (1 << 64) - 1), "does not rise from 0"),
        ("thumbnails.bin", lambda data: b"<script>".ljust(len(data)), "is no JPEG"),
        ("rows.jsonl", lambda data: data[:-1], "last line is cut short"),
        ("rows.jsonl", lambda data: data + b"{}\n", "has 41 lines; allowed: 40"),
        ("rows.jsonl", lambda data: data.replace(b"caption", b"captain"), "must hold path, caption"),
        ("rows.jsonl", lambda data: data.replace(b'"caption":"caption 0"', b'"caption":7', 1), "caption is int"),
        ("rows.jsonl", lambda data: b"\n" * data.count(b"\n"), "is not JSON"),
        ("rejects.jsonl", lambda data: b"[1]\n", "must hold path, bytes"),
    ],
)
def test_contents_that_cannot_be_are_refused_by_name(index, name, change, message):
    replace(index, name, change((index / name).read_bytes()))
    with pytest.raises(DataError, match=message):
        use(index)


def test_a_damaged_index_is_not_extended(index, whole):
    images = sorted((whole.parent / "images").iterdir())
    model = clipmed.load(whole.parent / "checkpoint" / "model", device="cpu")
    (index / "rows.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match=r"rows\.jsonl has 0 bytes"):
        build_index(model, images, index)
