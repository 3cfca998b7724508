from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from clipmed.errors import ConfigError
from dataset_builders.__main__ import main
from dataset_builders.sources import load_sources

ENTRY = {
    "name": "tiny",
    "title": "Tiny set",
    "modality": "xray",
    "layout": {"files": ["{label}/*"], "labels": {"finding": {"column": "label"}}},
    "tasks": {"finding": {"classes": {"normal": "no abnormality", "mass": "a mass"}}},
    "expected_counts": {"normal": 1, "mass": 1},
    "access": "ask the provider",
    "num_units": 2,
}
LISTED_ENTRY = {
    "name": "listed",
    "title": "Images with captions",
    "modality": "xray",
    "layout": {
        "tables": [{"file": "pairs.jsonl"}],
        "image": "{image}",
        "texts": [{"origin": "figure", "column": "caption"}],
    },
    "num_units": 2,
}
LISTED = {"kind": "dataset", "entry": "listed.yaml", "root": "pairs"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with a labelled set (one file corrupt), a list of captions, and a SOURCES file beside them."""
    for seed, name in enumerate(("set/normal/1.png", "set/mass/2.png", "pairs/3.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "set" / "mass" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "pairs" / "pairs.jsonl").write_text('{"image": "3.png", "caption": "A chest radiograph."}\n')
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(ENTRY))
    (tmp_path / "listed.yaml").write_text(yaml.safe_dump(LISTED_ENTRY))
    write_sources(tmp_path, {"kind": "dataset", "entry": "tiny.yaml", "root": "set"}, LISTED)
    return tmp_path


def write_sources(folder: Path, *sources: Any) -> None:
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": list(sources)}))


def test_build_writes_one_spool_a_source_and_prints_the_counts(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = archive / "spools"
    arguments = ["build", str(archive / "sources.yaml"), "--out", str(out), "--jobs.executor", "inline"]
    assert main(arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == ["listed", "tiny"]
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "tiny" in line)
    assert [cell.strip() for cell in row.strip("│|").split("│")] == ["tiny", "3", "2", "1", "1 image_unsupported"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_root_says_where_folders_start(archive: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "settings"
    elsewhere.mkdir()
    for name in ("sources.yaml", "tiny.yaml", "listed.yaml"):
        (archive / name).rename(elsewhere / name)
    with pytest.raises(ConfigError, match=r"tiny has no folder .*settings/set; put it there, or give another --root"):
        load_sources(str(elsewhere / "sources.yaml"))
    sources = load_sources(str(elsewhere / "sources.yaml"), archive)
    assert [(source.name, source.root) for source in sources] == [
        ("tiny", archive / "set"),
        ("listed", archive / "pairs"),
    ]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"kind": "datset", "entry": "tiny.yaml"}],
         r"sources\[0\]: kind is 'datset'; did you mean 'dataset'"),
        (["set"], r"sources\[0\]: kind is None"),
        ([{"kind": "dataset", "entry": "tiny.yaml", "rot": "set"}], r"unknown key 'rot'; did you mean 'root'"),
        ([{"kind": "dataset", "entry": "tini"}], r"no catalogue entry 'tini'"),
        ([LISTED, LISTED], r"two sources are called 'listed'"),
        ([{"kind": "pmc", "config": {"root": "x", "sorce": "y"}}],
         r"sources\[0\]\.config: unknown key 'sorce'; did you mean 'source'"),
        ([{"kind": "pmc", "config": {"root": "none"}}], r"pmc has no folder .*none"),
        ([], r"one key, `sources`"),
    ],
)  # fmt: skip
def test_a_faulty_sources_file_stops_with_status_1(
    archive: Path, sources: list[Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sources(archive, *sources)
    with pytest.raises(ConfigError, match=message):
        load_sources(str(archive / "sources.yaml"))
    assert main(["build", str(archive / "sources.yaml"), "--out", str(archive / "spools")]) == 1
    assert capsys.readouterr().err.startswith("dataset_builders: ")
    assert not (archive / "spools").exists()


def test_an_unknown_sources_name_shows_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"no SOURCES file or catalogue entry 'real_smal'; did you mean 'real_small'"):
        load_sources("real_smal")


def test_a_dataset_of_the_catalogue_is_built_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("normal/1.png", "pneumonia/2.png")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    arguments = ["build", "cxr_pneumonia", "--out", str(tmp_path / "spools"), "--jobs.executor", "inline"]
    assert main(arguments) == 1
    assert "--root: got none; give the folder of cxr_pneumonia" in capsys.readouterr().err
    assert main([*arguments, "--root", str(tmp_path / "images")]) == 0
    assert [path.name for path in (tmp_path / "spools").iterdir()] == ["cxr_pneumonia"]
    row = next(line for line in capsys.readouterr().out.splitlines() if "cxr_pneumonia" in line)
    assert [cell.strip() for cell in row.strip("│|").split("│")][:4] == ["cxr_pneumonia", "2", "2", "0"]


def test_check_exits_1_until_the_folder_is_as_the_entry_says(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", str(archive / "tiny.yaml"), str(archive / "set")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "incomplete" in printed
    assert "how to obtain it: ask the provider" in printed
    (archive / "set" / "mass" / "cut.png").unlink()
    assert main(arguments) == 0
    assert "complete: the folder is as the entry says" in capsys.readouterr().out


def test_list_and_show_name_the_entries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "cxr_pneumonia" in capsys.readouterr().out
    assert main(["show", "cxr_pneumonia"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["tasks"]["chest_finding"]["classes"]["pneumonia"] == "pneumonia"
    assert shown["num_units"] == 8


def test_what_show_prints_is_an_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "modality_medmnist6"])
    (tmp_path / "copy.yaml").write_text(capsys.readouterr().out)
    assert main(["show", str(tmp_path / "copy.yaml")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["build", "phantoms", "list", "show", "check", "python -m dataset_builders build"]),
        (["build", "--help"], ["SOURCES", "--out", "--root", "--jobs.workers", "kind: dataset", "kind: pmc"]),
        (["phantoms", "--help"], ["--out", "no score"]),
        (["check", "--help"], ["Compare a folder", "exit status"]),
    ],
)
def test_help_teaches(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed


def test_an_unknown_option_exits_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["build", "real_small", "--out", "x", "--wrokers", "2"])
    assert stop.value.code == 2
    assert "wrokers" in capsys.readouterr().err
