"""`clipmed classify`: what it prints and writes, and what it does about images that cannot be used."""

import csv
import json
import sys

import pyarrow.parquet as pq
import pytest

import clipmed
from clipmed.__main__ import main
from tests.clipmed.pictures import encoded, picture, several
from tests.clipmed.tiny import tiny_checkpoint

LABELS = ["a lung", "a skull"]
NAMES = ["image", "label", "probability", "calibrated", "temperature", "error"]
MANY = ["a", "b", "c", "d", "e", "f", "g", "h"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("classify"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    for number in range(3):
        (path / f"{number}.png").write_bytes(encoded(picture(seed=number), "PNG"))
    return path


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def classify(checkpoint, *args) -> None:
    main(["classify", *map(str, args), "--checkpoint", str(checkpoint), "--device", "cpu"])


def test_records_are_those_of_the_library(checkpoint, folder, capsys):
    classify(checkpoint, folder, "--labels", *LABELS, "--json")
    found = lines(capsys)
    results = clipmed.load(checkpoint, "cpu").classify(sorted(folder.iterdir()), LABELS)
    assert [record["image"] for record in found] == [str(folder / f"{number}.png") for number in range(3)]
    for record, result in zip(found, results, strict=True):
        assert record["probabilities"] == pytest.approx(result.probabilities)
        assert record["cosines"] == pytest.approx(result.cosines)
        assert (record["label"], record["calibrated"]) == (result.label, False)


def test_prompts_and_templates_are_used(checkpoint, folder, tmp_path, capsys):
    prompts = {"a lung": ["a lung of an adult"], "a skull": ["a skull", "a head"]}
    (tmp_path / "prompts.yaml").write_text(json.dumps(prompts))
    classify(checkpoint, folder / "0.png", "--prompts", tmp_path / "prompts.yaml", "--json")
    classify(checkpoint, folder / "0.png", "--labels", *LABELS, "--templates", "a drawing of {}", "--json")
    by_prompts, by_template = lines(capsys)
    model = clipmed.load(checkpoint, "cpu")
    (expected,) = model.classify(folder / "0.png", prompts)
    assert by_prompts["cosines"] == pytest.approx(expected.cosines)
    (expected,) = model.classify(folder / "0.png", LABELS, ["a drawing of {}"])
    assert by_template["cosines"] == pytest.approx(expected.cosines)


def test_only_the_most_probable_are_kept_where_asked(checkpoint, folder, capsys):
    classify(checkpoint, folder, "--labels", *MANY, "--json")
    whole = lines(capsys)
    classify(checkpoint, folder, "--labels", *MANY, "--json", "--top-k", 2)
    for record, kept in zip(whole, lines(capsys), strict=True):
        best = sorted(record["probabilities"].items(), key=lambda item: -item[1])[:2]
        assert list(kept["probabilities"].items()) == best
        assert list(kept["cosines"]) == [name for name, _ in best]


def test_one_bad_image_stops_the_work_unless_it_is_skipped(checkpoint, folder, tmp_path, capsys):
    (folder / "1.png").write_bytes(several("PNG"))
    out = tmp_path / "out.csv"
    with pytest.raises(SystemExit, match=r"clipmed: cannot read image .*1\.png: it has 3 frames"):
        classify(checkpoint, folder, "--labels", *LABELS, "--out", out)
    assert not out.exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        classify(checkpoint, folder, "--labels", *LABELS, "--json", "--on-error", "skip", "--out", out)
    assert ended.value.code == 1
    said = capsys.readouterr()
    records = [json.loads(line) for line in said.out.splitlines()]
    assert [sorted(record) == ["error", "image"] for record in records] == [False, True, False]
    assert "it has 3 frames" in records[1]["error"]
    assert said.err.splitlines()[-1] == "1 of 3 images were skipped"
    assert "1.png: it has 3 frames" in said.err
    with out.open(newline="") as stream:
        assert [bool(row["error"]) for row in csv.DictReader(stream)] == [False, True, False]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables_hold_what_is_printed(checkpoint, folder, tmp_path, capsys, ending):
    (folder / "bad.png").write_bytes(b"")
    out = tmp_path / "deep" / f"out.{ending}"
    with pytest.raises(SystemExit):
        classify(checkpoint, folder, "--labels", *LABELS, "--json", "--on-error", "skip", "--out", out)
    printed = lines(capsys)
    if ending == "jsonl":
        assert [json.loads(line) for line in out.read_text().splitlines()] == printed
        return
    if ending == "parquet":
        rows = pq.read_table(out).to_pylist()
    else:
        with out.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [*NAMES, "p: a lung", "p: a skull"]
    for row, record in zip(rows, printed, strict=True):
        assert row["image"] == record["image"]
        assert (row["error"] or None) == record.get("error")
        if "error" not in record:
            assert row["label"] == record["label"]
            assert float(row["p: a skull"]) == pytest.approx(record["probabilities"]["a skull"])
            assert float(row["probability"]) == pytest.approx(max(record["probabilities"].values()))


def test_the_table_for_people_names_labels_and_says_what_it_is(checkpoint, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    classify(checkpoint, folder, "--labels", "[red]a lung", "a skull")
    said = capsys.readouterr().out
    assert "[red]a lung" in said  # and not markup
    assert "Research use only. Not calibrated" in said
    assert f"{folder}:probabilitiesby" in "".join(said.split())  # however its lines are broken
    assert not [line for line in said.splitlines() if ".png" in line and str(folder) in line]  # said once
    classify(checkpoint, folder, "--labels", *MANY)
    rows = [line for line in capsys.readouterr().out.splitlines() if ".png" in line]
    assert len(rows) == 3
    assert all(line.count(", ") == 4 for line in rows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--labels", "one"], "two or more different labels: got 1"),
        (["--labels", "one", "One"], "which are one to the model"),
        (["--labels", "a", "b", "--templates", "an image"], "a template needs one"),
        (["--labels", "a", "b", "--device", "cuda:97"], "'cuda:97' is not there"),
        (["--prompts", "absent.yaml"], "absent.yaml is not readable"),
        (["--labels", "a", "b", "--out", "{here}/folder.csv"], "folder.csv, a folder; give another file"),
        (["--labels", "a", "b", "--out", "{here}/file/out.csv"], "which is no folder that may be written to"),
    ],
)
def test_wrong_requests_end_with_one_line_before_images_are_read(checkpoint, folder, tmp_path, args, message):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    (folder / "0.png").write_bytes(b"not read")
    args = [arg.replace("{here}", str(tmp_path)) for arg in args]
    with pytest.raises(SystemExit, match=message):
        main(["classify", str(folder), "--checkpoint", str(checkpoint), *args])


def test_labels_that_are_one_to_the_model_end_it_before_images_are_read(checkpoint, folder):
    (folder / "0.png").write_bytes(b"not read")
    words = " ".join(["x"] * 30)
    with pytest.raises(SystemExit, match="are the same to this model"):
        classify(checkpoint, folder, "--labels", f"{words} left", f"{words} right")


def test_lines_come_batch_by_batch(checkpoint, folder, capsys):
    (folder / "2.png").write_bytes(b"not one")
    with pytest.raises(SystemExit, match=r"2\.png"):
        classify(checkpoint, folder, "--labels", *LABELS, "--json", "--batch-size", 1)
    assert [record["image"] for record in lines(capsys)] == [str(folder / "0.png"), str(folder / "1.png")]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_images_that_are_skipped_keep_their_places(checkpoint, folder, capsys, batch_size):
    bad = [0, 1, 4, 5, 8]
    for number in range(9):
        (folder / f"{number}.png").write_bytes(b"" if number in bad else encoded(picture(seed=number), "PNG"))
    with pytest.raises(SystemExit):
        classify(checkpoint, folder, "--labels", *LABELS, "--json", "--on-error", "skip", "--batch-size", batch_size)
    records = lines(capsys)
    assert [record["image"] for record in records] == [str(folder / f"{number}.png") for number in range(9)]
    assert [place for place, record in enumerate(records) if "error" in record] == bad
    good = [path for number, path in enumerate(sorted(folder.iterdir())) if number not in bad]
    expected = clipmed.load(checkpoint, "cpu").classify(good, LABELS)
    found = [record["cosines"] for record in records if "error" not in record]
    assert found == [pytest.approx(result.cosines, abs=1e-6) for result in expected]


def test_a_frame_of_files_of_several_can_be_asked_for(checkpoint, folder, capsys):
    (folder / "1.png").write_bytes(several("GIF"))
    classify(checkpoint, folder / "1.png", "--labels", *LABELS, "--json", "--frame", 2)
    (record,) = lines(capsys)
    third = clipmed.open_image(folder / "1.png", frame=2)
    assert record["cosines"] == pytest.approx(clipmed.load(checkpoint, "cpu").classify(third, LABELS)[0].cosines)
    with pytest.raises(SystemExit, match="no frame 3; it has 3, from 0"):
        classify(checkpoint, folder / "1.png", "--labels", *LABELS, "--frame", 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either --labels with two or more, or --prompts"),
        (["--labels", "a", "b", "--prompts", "p.yaml"], "give either --labels"),
        (["--labels", "a", "b", "--out", "x.xlsx"], "allowed endings: .csv, .jsonl, .parquet"),
        (["--labels", "a", "b", "--top-k", "0"], "top_k: got 0"),
        (["--labels", "a", "b", "--batch-size", "0"], "batch_size: got 0"),
        (["--labels", "a", "b", "--on-error", "ignore"], "stop"),
    ],
)
def test_wrong_options_are_explained(checkpoint, folder, capsys, args, message):
    with pytest.raises(SystemExit):
        main(["classify", str(folder), "--checkpoint", str(checkpoint), *args])
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_without_pyarrow_a_parquet_table_names_what_to_install(checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit, match=r"pip install 'clipmed\[tables\]'"):
        classify(checkpoint, folder, "--labels", *LABELS, "--out", tmp_path / "out.parquet")
