"""Search indexes from images to hits: built, grown, taken up after a kill, opened by others, and the commands."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipmed
from clipmed.__main__ import main
from clipmed.errors import CheckpointError, ClipmedError, ConfigError, DataError
from clipmed.locks import only_writer
from clipmed.search import IndexConfig, SearchIndex, build_index
from tests.clipmed.search_folders import DIMENSION, draw, draw_many, files_of, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return clipmed.load(checkpoint, device="cpu")


@pytest.fixture
def images(tmp_path):
    return draw_many(tmp_path / "images", 20)


def test_every_image_finds_itself_and_texts_find_what_cosines_say(model, images, tmp_path):
    index = build_index(model, images, tmp_path / "index", captions={str(images[3]): "a knee"})
    embeddings = model.embed_images(images)
    for number, hits in enumerate(index.search(embeddings, k=1)):
        assert (hits[0].path, hits[0].row) == (str(images[number]), number)
        assert hits[0].score == pytest.approx(1, abs=1e-6)
    cosines = (model.embed_texts("a lung") @ embeddings.T)[0]
    hits = model.search("a lung", index, k=20)
    assert [hit.row for hit in hits] == cosines.argsort(descending=True).tolist()
    assert [hit.score for hit in hits] == pytest.approx(cosines.sort(descending=True).values.tolist(), abs=1e-6)
    assert {hit.path: hit.caption for hit in hits if hit.caption} == {str(images[3]): "a knee"}
    assert model.search(images[7], index, k=2)[0].path == str(images[7])


def test_a_search_is_by_one_text_or_one_image(model, images, tmp_path):
    index = build_index(model, images, tmp_path / "index")
    assert model.search((path for path in images[3:4]), index, k=1)[0].path == str(images[3])
    pages = io.BytesIO()
    first, *others = (Image.open(path) for path in images[:3])
    first.save(pages, "TIFF", save_all=True, append_images=others)
    assert model.search(pages.getvalue(), index, k=1, frame=2)[0].path == str(images[2])
    for several in (images[:2], ["a lung", "a skull"]):
        with pytest.raises(ClipmedError, match=r"query: got 2; allowed: one; for several, index\.search\("):
            model.search(several, index)
    with pytest.raises(ClipmedError, match=r"is a file, and a str is a text; give Path\('.*'\) for the image"):
        model.search(str(images[0]), index)
    assert model.search("a lung\0 " * 2000, index, k=1)


def test_copies_of_an_image_come_in_the_order_of_their_paths(model, images, tmp_path):
    copies = [Path(shutil.copy(images[0], tmp_path / f"copy-{number:02d}.png")) for number in range(60)]
    index = build_index(model, [*images[1:], *copies[::-1]], tmp_path / "index")
    found = [hit.path for hit in index.search(model.embed_images(images[0]), k=50)[0]]
    assert found == list(map(str, copies[:50]))


def test_what_was_built_is_what_is_opened(model, images, tmp_path):
    built = build_index(model, images, tmp_path / "index")
    opened = SearchIndex.open(tmp_path / "index")
    assert opened.facts == built.facts
    assert (len(opened), opened.dimension) == (20, DIMENSION)
    assert (opened.facts.checkpoint.location, opened.facts.checkpoint.digest) == (model.location, model.digest)
    queries = model.embed_texts(["one", "two"])
    assert opened.search(queries, 5) == built.search(queries, 5)
    torch.testing.assert_close(torch.from_numpy(opened.embeddings(range(20))), model.embed_images(images))


def test_thumbnails_are_small_jpegs_of_the_rows_without_what_the_file_says_of_itself(model, tmp_path):
    wide = tmp_path / "wide.jpg"
    Image.new("RGB", (900, 300), (200, 10, 10)).save(wide, comment=b"a name", exif=Image.Exif())
    paths = [draw(tmp_path / "a.png", 0), wide]
    index = build_index(model, paths, tmp_path / "index")
    with Image.open(io.BytesIO(index.thumbnail(1))) as small:
        assert (small.format, small.size) == ("JPEG", (128, 43))
        assert np.abs(np.asarray(small, dtype=int)[20, 60] - (200, 10, 10)).max() < 8
    assert b"a name" not in index.thumbnail(1)
    with pytest.raises(ClipmedError, match="row: got 2; allowed: 0 to 1"):
        index.thumbnail(2)
    without = build_index(model, paths, tmp_path / "other", config=IndexConfig(thumbnails=False))
    with pytest.raises(ConfigError, match="holds no thumbnails"):
        without.thumbnail(0)


def test_images_that_cannot_be_read_are_counted_and_named(model, images, tmp_path):
    (tmp_path / "images" / "empty.png").write_bytes(b"")
    (tmp_path / "images" / "cut.png").write_bytes(images[0].read_bytes()[:60])
    given = [*images, tmp_path / "images" / "empty.png", tmp_path / "images" / "cut.png", tmp_path / "absent.png"]
    index = build_index(model, given, tmp_path / "index")
    assert index.facts.rows + index.facts.rejected == len(given)
    reasons = {Path(reject.path).name: reject.reason for reject in index.rejects()}
    assert reasons.keys() == {"empty.png", "cut.png", "absent.png"}
    assert "no such file" in reasons["absent.png"]
    with pytest.raises(DataError, match=r"none of 1 images can be read; the first is .*empty\.png"):
        build_index(model, [tmp_path / "images" / "empty.png"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("config", [IndexConfig(), IndexConfig(kind="clustered"), IndexConfig(dtype="float16")])
def test_an_index_that_has_changed_is_that_which_is_built_from_scratch(model, images, tmp_path, config):
    out = tmp_path / "index"
    build_index(model, images, out, config=config)
    images[2].unlink()  # gone
    draw(images[5], 500)  # another picture at the same path
    images[6].rename(tmp_path / "images" / "000-moved.png")  # the same picture at another path
    os.utime(images[7], (1, 1))
    added = [draw(tmp_path / "images" / f"{number}-new.png", 100 + number) for number in range(3)]
    now = [path for path in [*images, *added, tmp_path / "images" / "000-moved.png"] if path.exists()]
    grown = build_index(model, now, out, captions={str(added[0]): "new"}, config=config)
    build_index(model, now[::-1], tmp_path / "scratch", captions={str(added[0]): "new"}, config=config)
    assert files_of(out) == files_of(tmp_path / "scratch")
    assert [grown.row(number).path for number in range(len(grown))] == sorted(map(str, now))


def test_only_what_is_new_is_embedded(model, images, tmp_path, monkeypatch):
    embedded = []
    whole = type(model).embed_pixels
    monkeypatch.setattr(
        type(model), "embed_pixels", lambda self, pixels: embedded.append(len(pixels)) or whole(self, pixels)
    )
    out = tmp_path / "index"
    build_index(model, images, out)
    images[0].rename(tmp_path / "images" / "moved.png")
    build_index(model, [*images[1:], tmp_path / "images" / "moved.png", draw(tmp_path / "new.png", 77)], out)
    assert embedded == [20, 1]
    build_index(model, images[1:], out, config=IndexConfig(dtype="float16"))
    assert embedded == [20, 1, 19]  # stored in other numbers: all anew


def test_a_run_that_is_killed_is_taken_up(checkpoint, model, tmp_path):
    images = draw_many(tmp_path / "images", 60)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    images.append(tmp_path / "images" / "bad.png")
    code = (
        "import sys, time, clipmed, clipmed.search.building as building\n"
        "building.PART_FILES = 8\n"
        "model = clipmed.load(sys.argv[1], device='cpu')\n"
        "whole = type(model).embed_pixels\n"
        "type(model).embed_pixels = lambda self, pixels: (time.sleep(0.3), whole(self, pixels))[1]\n"
        "building.build_index(model, sys.argv[3:], sys.argv[2], config=building.IndexConfig(batch_size=8))\n"
    )
    out, parts = tmp_path / "index", tmp_path / ".index.parts"
    command = [sys.executable, "-c", code, str(checkpoint), str(out), *map(str, images)]
    with subprocess.Popen(command, cwd=Path(clipmed.__file__).parents[1]) as process:
        while process.poll() is None and len(list(parts.glob("part-*"))) < 3:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    done = sorted(parts.glob("part-*"))
    assert len(done) >= 3
    assert not out.exists()
    done[0].write_bytes(done[0].read_bytes()[:-20])  # and the disk has lost something
    build_index(model, images, out, config=IndexConfig(batch_size=8))
    build_index(model, images, tmp_path / "scratch", config=IndexConfig(batch_size=8))
    assert files_of(out) == files_of(tmp_path / "scratch")
    assert not parts.exists()


def test_parts_of_a_killed_run_serve_no_other_checkpoint(model, images, tmp_path):
    out = tmp_path / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipmed.search.building._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_index(model, images, out)
    assert list((tmp_path / ".index.parts").glob("part-*"))
    other = clipmed.load(make_checkpoint(tmp_path / "other", seed=1), device="cpu")
    index = build_index(other, images, out)
    torch.testing.assert_close(torch.from_numpy(index.embeddings(range(20))), other.embed_images(images))


@pytest.mark.parametrize("killed", [True, False])
def test_what_was_computed_in_other_numbers_is_embedded_anew(checkpoint, model, images, tmp_path, killed):
    coarse = clipmed.load(checkpoint, device="cpu", dtype="bfloat16")
    out = tmp_path / "index"
    with pytest.MonkeyPatch.context() as patch:
        if killed:
            patch.setattr("clipmed.search.building._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt) if killed else contextlib.nullcontext():
            build_index(coarse, images, out)
    assert out.exists() != killed
    index = build_index(model, images, out)
    assert index.facts.computed_in == "float32"
    torch.testing.assert_close(torch.from_numpy(index.embeddings(range(20))), model.embed_images(images))


def test_a_second_run_on_the_same_folder_is_refused_and_touches_nothing(model, images, tmp_path):
    out = tmp_path / "index"
    build_index(model, images[:5], out)
    before = files_of(out)
    with only_writer(out), pytest.raises(ConfigError, match="index is being written by another run, process"):
        build_index(model, images, out)
    assert files_of(out) == before


def test_an_index_that_cannot_be_extended_says_what_to_do(model, images, tmp_path):
    out = tmp_path / "index"
    build_index(model, images, out)
    data = (out / "embeddings.bin").read_bytes()
    (out / "embeddings.bin").write_bytes(data[:-4])
    with pytest.raises(DataError, match=r"remove .*index, or give another --out"):
        build_index(model, images, out)


def test_another_checkpoint_neither_searches_nor_extends_an_index(model, images, tmp_path):
    index = build_index(model, images, tmp_path / "index")
    other = clipmed.load(make_checkpoint(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ConfigError, match="was built by another checkpoint"):
        other.search("a lung", index)
    with pytest.raises(ConfigError, match=r"was built by another checkpoint.*; remove .*index, or give another --out"):
        build_index(other, images, tmp_path / "index")


def test_a_checkpoint_with_unusable_weights_builds_nothing(checkpoint, images, tmp_path):
    broken = clipmed.load(checkpoint, device="cpu")
    with torch.no_grad():
        broken.two_tower.model.visual.proj[:] = torch.nan
    with pytest.raises(CheckpointError, match="gives an embedding that is not finite"):
        build_index(broken, images, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_what_cannot_be_built_is_refused_before_anything_is_embedded(model, images, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a search index; give another folder"):
        build_index(model, images, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ConfigError, match="images: got none"):
        build_index(model, [], tmp_path / "index")
    for wrong, message in (
        ({"kind": "flat"}, "kind: got 'flat'; allowed: auto, exact, clustered"),
        ({"dtype": "int8"}, "dtype: got 'int8'"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"recall": 1.5}, r"recall: got 1\.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            IndexConfig(**wrong)


@pytest.mark.parametrize("k", [0, -1, 21])
def test_as_many_as_there_are_can_be_asked_for(model, images, tmp_path, k):
    index = build_index(model, images, tmp_path / "index")
    with pytest.raises(ClipmedError, match=f"k: got {k}; allowed: 1 to 20"):
        index.search(model.embed_texts("a lung"), k)


def test_clustered_indexes_find_the_same_when_they_look_everywhere(model, tmp_path):
    images = draw_many(tmp_path / "images", 200)
    exact = build_index(model, images, tmp_path / "exact")
    clustered = build_index(model, images, tmp_path / "clustered", config=IndexConfig(kind="clustered"))
    queries = model.embed_texts(["a lung", "a knee", "a skull"])
    assert clustered.search(queries, 10, probes=clustered.facts.clusters.count) == exact.search(queries, 10)
    assert clustered.thumbnail(7) == exact.thumbnail(7)
    assert clustered.facts.clusters.recall_texts >= 0.95
    assert (clustered.facts.clusters.sampled_images, clustered.facts.clusters.sampled_texts) == (200, 200)


@pytest.mark.real_data
def test_real_images_find_themselves_and_are_shown_small(model, real_data, tmp_path):
    files = sorted(path for path in (real_data / "images").rglob("*") if path.suffix in {".jpg", ".jpeg", ".png"})
    files = files[:: max(1, len(files) // 60)]
    index = build_index(model, files, tmp_path / "index")
    assert index.facts.rejected == 0
    for path, hits in zip(files, index.search(model.embed_images(files), 3), strict=True):
        best = [hit.path for hit in hits if hit.score > hits[0].score - 1e-6]  # a copy of it may come first
        assert str(path) in best
        assert hits[0].score == pytest.approx(1, abs=1e-5)
    with Image.open(io.BytesIO(index.thumbnail(0))) as small, Image.open(files[0]) as whole:
        assert small.size[0] / small.size[1] == pytest.approx(whole.size[0] / whole.size[1], rel=0.05)


def test_a_checkpoint_that_was_named_from_another_folder_is_found(checkpoint, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    main(["index", str(images[0].parent), "--out", str(tmp_path / "index"), "--checkpoint", checkpoint.name, "--json"])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    main(["search", "index", "a lung", "--k", "1", "--json"])
    assert len(json.loads(capsys.readouterr().out)["hits"]) == 1


def test_command_line(checkpoint, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    (tmp_path / "captions.csv").write_text("image,caption\nimages/004.png,a [red] knee\nimages/absent.png,nothing\n")
    build = ["index", "images", "--out", "index", "--captions", "captions.csv", "--checkpoint", str(checkpoint)]
    main([*build, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["rejected"], printed["captions"]) == (20, 1, 1)
    assert printed["captions without image"] == 1
    assert [reject["image"] for reject in printed["rejects"]] == ["images/bad.png"]
    main(["search", "index", "a lung", "a knee", "--image", "images/004.png", "--k", "3", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == ["a lung", "a knee", "images/004.png"]
    assert {len(line["hits"]) for line in lines} == {3}
    assert lines[2]["hits"][0] == {"path": "images/004.png", "score": 1.0, "caption": "a [red] knee", "row": 4}
    main(["search", "index", "--image", "images/004.png"])
    table = capsys.readouterr().out
    assert "a [red] knee" in table
    assert "10 of 20 images" in table
    main(build)
    assert "bad.png: cannot read image" in capsys.readouterr().out
    shutil.move(checkpoint, tmp_path / "moved")
    try:
        with pytest.raises(SystemExit, match=r"model', which is no folder of this machine; .* with --checkpoint"):
            main(["search", "index", "a lung"])
        with monkeypatch.context() as patch:
            patch.setenv("CLIPMED_CHECKPOINT", "moved")
            main(["search", "index", "a lung", "--k", "1", "--json"])
        assert json.loads(capsys.readouterr().out)["hits"]
        main(["search", "index", "a lung", "--checkpoint", "moved", "--k", "1", "--json"])
        assert json.loads(capsys.readouterr().out)["hits"]
    finally:
        shutil.move(tmp_path / "moved", checkpoint)
    with pytest.raises(SystemExit):
        main(["search", "index"])
    assert "queries: got none" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="images is not a search index"):
        main(["search", "images", "a lung"])
