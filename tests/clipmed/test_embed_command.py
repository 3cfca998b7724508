"""`clipmed embed`: every item embedded or accounted for, killed runs taken up to the same bytes."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import clipmed
from clipmed import embedding_files
from clipmed.__main__ import main
from clipmed.embedding_jobs import EmbeddingJob, run_job
from clipmed.errors import ClipmedError, ConfigError
from clipmed.locks import only_writer
from tests.clipmed.tiny_towers import checkpoint, native, scan

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("checkpoints") / "model", native())


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("checkpoints") / "other", native(quick_gelu=True))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        scan(number).save(folder / f"{number:03}.png")
    return folder


def embed(*args, model):
    main(["embed", *map(str, args), "--checkpoint", str(model), "--device", "cpu", "--json"])


@pytest.mark.parametrize("ending", ["parquet", "npz", "npy"])
def test_rows_are_the_models_own(ending, images, model_folder, tmp_path, capsys):
    out = tmp_path / f"e.{ending}"
    embed(images, "--out", out, "--batch-size", 5, model=model_folder)
    model = clipmed.load(model_folder, "cpu")
    stored = embedding_files.read(out, checkpoint_digest=model.digest)
    paths = sorted(images.iterdir())
    assert stored.items == [str(path) for path in paths]
    np.testing.assert_allclose(stored.embeddings, model.embed_images(paths), atol=1e-6)
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["seen"], report["rejected"], report["rejects"]) == (NUM_IMAGES, NUM_IMAGES, 0, None)
    assert not out.with_name(f"{out.name}.partial").exists()


def test_images_that_cannot_be_read_are_listed_or_end_the_run(images, model_folder, tmp_path, capsys):
    (images / "003.png").write_bytes(b"")
    (images / "011.png").write_bytes((images / "010.png").read_bytes()[:300])
    out = tmp_path / "e.npz"
    with pytest.raises(SystemExit, match=r"003\.png"):
        embed(images, "--out", out, "--batch-size", 2, model=model_folder)
    assert not out.exists()
    embed(images, "--out", out, "--batch-size", 2, "--on-error", "skip", model=model_folder)
    report = json.loads(capsys.readouterr().out)
    rejects = [json.loads(line) for line in (tmp_path / "e.npz.rejects.jsonl").read_text().splitlines()]
    assert [row["position"] for row in rejects] == [3, 11]
    assert rejects[0]["item"] == str(images / "003.png")
    assert "empty" in rejects[0]["reason"]
    stored = embedding_files.read(out)
    assert len(stored.items) + len(rejects) == report["seen"] == NUM_IMAGES
    assert stored.items[3] == str(images / "004.png")
    fourth = clipmed.load(model_folder, "cpu").embed_images(images / "004.png")[0]
    np.testing.assert_allclose(stored.embeddings[3], fourth, atol=1e-6)
    (images / "003.png").unlink()
    (images / "011.png").unlink()
    embed(images, "--out", out, model=model_folder)
    assert not (tmp_path / "e.npz.rejects.jsonl").exists()


def test_nothing_that_can_be_read_is_an_error(images, model_folder, tmp_path):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(SystemExit, match=f"none of the {NUM_IMAGES} images can be embedded; the first: cannot read"):
        embed(images, "--out", tmp_path / "e.npz", "--on-error", "skip", model=model_folder)


def test_a_run_that_stopped_at_an_image_keeps_what_was_done(images, model_folder, tmp_path, capsys):
    broken = images / "009.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    args = (images, "--out", tmp_path / "e.npz", "--batch-size", 2, "--save-every", 4)
    with pytest.raises(SystemExit):
        embed(*args, model=model_folder)
    broken.write_bytes(whole)
    embed(*args, model=model_folder)
    assert json.loads(capsys.readouterr().out)["resumed"] == 8
    embed(images, "--out", tmp_path / "whole.npz", "--batch-size", 2, "--save-every", 4, model=model_folder)
    assert (tmp_path / "e.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_parts_of_another_checkpoint_or_of_other_images_are_not_taken(images, model_folder, other_folder, tmp_path):
    """Everything is left behind as after a kill; then the checkpoint, an image's content, and the order change."""
    options = {"batch_size": 2, "save_every": 4}
    paths = [str(path) for path in sorted(images.iterdir())]
    model, other = (clipmed.load(folder, "cpu") for folder in (model_folder, other_folder))

    def kept(of, items):
        job = EmbeddingJob(items=items, out=tmp_path / "e.npz", **options)
        run_job(of, job)
        return (tmp_path / "e.npz").read_bytes()

    parts = tmp_path / "parts"
    real_rmtree = shutil.rmtree
    shutil.rmtree = lambda folder: shutil.copytree(folder, parts, dirs_exist_ok=True)
    try:
        first = kept(model, paths)
    finally:
        shutil.rmtree = real_rmtree
    assert parts.is_dir()
    shutil.rmtree(tmp_path / "e.npz.partial")

    def again(of, items):
        shutil.copytree(parts, tmp_path / "e.npz.partial")
        resumed = run_job(of, EmbeddingJob(items=items, out=tmp_path / "e.npz", **options)).resumed
        return resumed, (tmp_path / "e.npz").read_bytes()

    assert again(model, paths) == (NUM_IMAGES, first)
    assert again(other, paths) == (0, kept(other, paths))
    assert again(model, paths[::-1]) == (0, kept(model, paths[::-1]))
    scan(99).save(images / "005.png")
    assert again(model, paths) == (8, kept(model, paths))
    for part in parts.iterdir():
        part.write_bytes(part.read_bytes()[:-30])
    assert again(model, paths) == (0, kept(model, paths))


def stop_before_the_file(patch):
    """Have every run end when all is embedded and nothing is written, as if it were killed there."""
    patch.setattr("clipmed.embedding_jobs._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))


def test_what_is_done_serves_the_same_numbers_only(images, model_folder, tmp_path):
    """Other numbers to compute in or to store, and other kinds of items, are embedded anew; other batches are not."""
    paths = [str(path) for path in sorted(images.iterdir())]
    out = tmp_path / "e.npz"
    model, coarse = clipmed.load(model_folder, "cpu"), clipmed.load(model_folder, "cpu", dtype="bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        stop_before_the_file(patch)
        with pytest.raises(KeyboardInterrupt):
            run_job(coarse, EmbeddingJob(items=paths, out=out, batch_size=4))
    done = tmp_path / "done"
    shutil.copytree(job_folder := tmp_path / "e.npz.partial", done)

    def resumed(of, **options):
        shutil.rmtree(job_folder, ignore_errors=True)
        shutil.copytree(done, job_folder)
        return run_job(of, EmbeddingJob(items=paths, out=out, **options)).resumed

    assert resumed(model, batch_size=4) == 0
    np.testing.assert_allclose(embedding_files.read(out).embeddings, model.embed_images(paths), atol=1e-6)
    assert resumed(coarse, batch_size=4, dtype="float16") == 0
    assert embedding_files.read(out).embeddings.dtype == "float16"
    assert resumed(coarse, batch_size=4, kind="texts") == 0
    assert resumed(coarse, batch_size=4, on_error="skip") == NUM_IMAGES
    assert resumed(coarse, batch_size=2) == NUM_IMAGES  # the run before had no memory for 4


def test_a_run_that_stopped_goes_on_where_bad_images_are_put_aside(images, model_folder, tmp_path, capsys):
    (images / "009.png").write_bytes(b"")
    args = (images, "--out", tmp_path / "e.npz", "--batch-size", 2, "--save-every", 4)
    with pytest.raises(SystemExit, match=r"009\.png"):
        embed(*args, model=model_folder)
    with pytest.MonkeyPatch.context() as patch:
        stop_before_the_file(patch)
        with pytest.raises(KeyboardInterrupt):
            embed(*args, "--on-error", "skip", model=model_folder)
    with pytest.raises(SystemExit, match=r"009\.png"):  # as it is told to, though the rest of that part is done
        embed(*args, model=model_folder)
    embed(*args, "--on-error", "skip", model=model_folder)
    report = json.loads(capsys.readouterr().out)
    assert (report["resumed"], report["rejected"]) == (NUM_IMAGES, 1)


def test_a_second_run_on_the_same_file_is_refused_and_touches_nothing(images, model_folder, tmp_path):
    out = tmp_path / "e.npz"
    with only_writer(out), pytest.raises(SystemExit, match=r"e\.npz is being written by another run"):
        embed(images, "--out", out, model=model_folder)
    assert not out.exists()
    assert not out.with_name("e.npz.partial").exists()


def test_kill_9_and_again_gives_the_same_bytes(images, model_folder, tmp_path, capsys):
    for number in range(NUM_IMAGES, 240):
        shutil.copy(images / f"{number % NUM_IMAGES:03}.png", images / f"{number:03}.png")
    (images / "100.png").write_bytes(b"")
    args = ["--batch-size", "2", "--save-every", "4", "--on-error", "skip"]
    for ending in ("npz", "parquet"):
        out = tmp_path / f"e.{ending}"
        given = [str(images), "--out", str(out), *args, "--checkpoint", str(model_folder), "--device", "cpu"]
        partial = out.with_name(f"{out.name}.partial")
        process = subprocess.Popen([sys.executable, "-m", "clipmed", "embed", *given])
        while process.poll() is None and len(list(partial.glob("*.part"))) < 3:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
        main(["embed", *given, "--json"])
        report = json.loads(capsys.readouterr().out)
        assert 12 <= report["resumed"] < 240
        assert (report["rows"], report["rejected"]) == (239, 1)
        whole = tmp_path / f"whole.{ending}"
        main(["embed", str(images), "--out", str(whole), *given[3:]])
        capsys.readouterr()
        assert out.read_bytes() == whole.read_bytes()
        assert sorted(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("ending", ["txt", "csv", "parquet"])
def test_texts_of_a_file(ending, model_folder, tmp_path, capsys):
    texts = ["a lung, clear", "a mass – “large”", "", "bone"]
    file = tmp_path / f"texts.{ending}"
    if ending == "txt":
        file.write_text("\n".join(texts) + "\n")
    elif ending == "csv":
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([["id", "caption"], *([number, text] for number, text in enumerate(texts))])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"caption": [*texts[:2], None, "bone"]}), file)
    args = ("--texts", file, "--column", "caption", "--out", tmp_path / "e.parquet")
    with pytest.raises(SystemExit, match="text 3 of 4 is empty"):
        embed(*args, model=model_folder)
    embed(*args, "--on-error", "skip", "--stored", "float16", model=model_folder)
    stored = embedding_files.read(tmp_path / "e.parquet")
    kept = [text for text in texts if text]
    assert stored.items == kept
    assert stored.metadata["kind"] == "texts"
    np.testing.assert_allclose(stored.embeddings, clipmed.load(model_folder, "cpu").embed_texts(kept), atol=1e-3)
    assert json.loads(capsys.readouterr().out)["rejected"] == 1


def test_a_column_that_cannot_be_embedded_says_why(model_folder, tmp_path):
    def message(file, column):
        with pytest.raises(SystemExit) as caught:
            embed("--texts", file, "--column", column, "--out", tmp_path / "e.npz", model=model_folder)
        return str(caught.value)

    table = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"caption": ["a"], "id": [1]}), table)
    assert "the column 'id' is no text; name another with --column" in message(table, "id")
    assert """has no column 'text'; allowed for --column: ["caption", "id"]""" in message(table, "text")
    table.write_bytes(table.read_bytes()[:40])
    assert "t.parquet cannot be read as Parquet" in message(table, "caption")
    (tmp_path / "t.csv").write_text('caption\n"a')
    assert "t.csv cannot be read as CSV in UTF-8" in message(tmp_path / "t.csv", "caption")


def test_wrong_requests_are_refused_before_anything_is_loaded(images, tmp_path, capsys):
    def message(*args):
        with pytest.raises(SystemExit) as caught:
            embed(*args, model=tmp_path / "no-model")
        return f"{caught.value} {' '.join(capsys.readouterr().err.split())}"

    (tmp_path / "t.csv").write_text("id,caption\n1,a\n")
    out = tmp_path / "e.npz"
    assert "allowed: images, or --texts FILE" in message("--out", out)
    assert "allowed: images, or --texts FILE" in message(images, "--texts", tmp_path / "t.csv", "--out", out)
    assert "allowed endings: .parquet, .npz, .npy" in message(images, "--out", tmp_path / "e.pkl")
    assert "batch_size: got 0; allowed: 1 or more" in message(images, "--out", out, "--batch-size", 0)
    assert """has no column 'text'; allowed for --column: ["id", "caption"]""" in message(
        "--texts", tmp_path / "t.csv", "--out", out
    )
    assert "a file that is there and ends in .txt, .csv, .parquet" in message(
        "--texts", tmp_path / "t.md", "--out", out
    )
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe")
    assert "texts in UTF-8" in message("--texts", tmp_path / "t.txt", "--out", out)
    assert not out.exists()


def test_items_that_no_file_can_hold_are_refused():
    for item in ("a\0b", "\udcff.png"):
        with pytest.raises(ConfigError, match="allowed: what UTF-8 can hold"):
            EmbeddingJob(items=[item], out=Path("e.npz"))
    with pytest.raises(ClipmedError, match="on_error: got 'ignore'; allowed: stop, skip"):
        EmbeddingJob(items=["a"], out=Path("e.npz"), on_error="ignore")
