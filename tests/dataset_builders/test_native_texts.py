"""Datasets whose images come with texts of their own: captions, mentions in an article, parts of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from dataset_builders.datasets import Entry, build_dataset
from dataset_builders.datasets.check import check_folder
from dataset_builders.sources import load_sources

INLINE = JobsConfig(executor="inline")
LISTED = {
    "tables": [{"file": "pairs.jsonl"}],
    "image": "{image}",
    "texts": [{"origin": "figure", "column": "caption"}],
}
CAPTION = "A caption of some length."


def entry_of(layout: dict[str, Any] | None = None, **changes: Any) -> Entry:
    content = {
        "name": "tiny",
        "title": "Tiny",
        "modality": "other",
        "num_units": 2,
        "layout": {**LISTED, **(layout or {})},
    }
    return from_dict(Entry, {**content, **changes}, "tiny.yaml")


def draw(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8)).save(root / name)


def write_list(root: Path, *lines: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (root / "pairs.jsonl").write_text(text + "\n")


def rows_of(spool: Path, kind: str) -> list[dict[str, Any]]:
    return [row for file in sorted(spool.glob(f"unit-*/{kind}.parquet")) for row in pq.read_table(file).to_pylist()]


def samples_of(spool: Path) -> dict[str, dict[str, Any]]:
    return {json.loads(row["provenance"])["path"]: row for row in rows_of(spool, "samples")}


def texts_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(caption["origin"], caption["text"]) for caption in row["captions"]]


def test_columns_become_captions_group_modality_licence_and_provenance(tmp_path: Path) -> None:
    draw(tmp_path, "i/1.png", "i/2.png")
    mentions = ["It is seen in Figure 1.", "short", "It is seen in Figure 1."]
    write_list(
        tmp_path,
        {"fig": "i/1.png", "text": " A long \n caption. ", "refs": mentions, "m": "MR",
         "who": "anna", "rights": "paper: cc-by", "plane": "axial"},
        {"fig": "i/2.png", "text": None, "refs": "Only a mention of it.", "m": "ct", "who": "anna", "rights": None},
    )  # fmt: skip
    layout = {
        "image": "{fig}",
        "texts": [{"origin": "figure", "column": "text"}, {"origin": "mention", "column": "refs"}],
        "modality": {"column": "m", "values": {"MR": "mri"}},
        "group": {"column": "who"},
        "license": {"column": "rights", "values": {"paper: cc-by": "CC BY"}},
        "provenance": ["plane"],
    }
    entry = entry_of(layout, modality=None, license="CC0")
    summary = build_dataset(entry, tmp_path, tmp_path / "spool", INLINE)
    assert (summary["seen"], summary["samples"]) == (2, 2)
    rows = samples_of(tmp_path / "spool")
    first, second = rows["i/1.png"], rows["i/2.png"]
    assert texts_of(first) == [("figure", "A long caption."), ("mention", "It is seen in Figure 1.")]
    assert (first["modality"], first["group"], first["license"]) == ("mri", "tiny/anna", "CC-BY-4.0")
    assert json.loads(first["provenance"]) == {"path": "i/1.png", "place": "pairs.jsonl:1", "plane": "axial"}
    assert (first["facts"], first["labels"], first["split"]) == (None, [], None)
    assert texts_of(second) == [("mention", "Only a mention of it.")]
    assert (second["modality"], second["license"]) == ("ct", "CC0-1.0")


def test_native_texts_come_before_those_that_labels_make(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    write_list(tmp_path, {"image": "1.png", "caption": CAPTION, "label": "mass"}, {"image": "2.png", "label": "mass"})
    tasks = {"finding": {"classes": {"normal": "no abnormality", "mass": "a mass"}}}
    entry = entry_of({"labels": {"finding": {"column": "label"}}}, tasks=tasks, modality="xray", captions_per_image=2)
    build_dataset(entry, tmp_path, tmp_path / "spool", INLINE)
    rows = samples_of(tmp_path / "spool")
    assert [origin for origin, _ in texts_of(rows["1.png"])] == ["figure", "template", "template"]
    assert [origin for origin, _ in texts_of(rows["2.png"])] == ["template", "template"]


def test_the_sections_of_a_report_are_texts_of_their_own(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/1.png")
    report = "EXAMINATION: Chest\n\nFINDINGS: The lungs\n  are clear.\n\nIMPRESSION:  No acute disease.\n"
    (tmp_path / "a.txt").write_text(report)
    (tmp_path / "b.txt").write_text("FINDINGS: ___ ___ with ___.\n\nIMPRESSION: Large right effusion.\n")
    table = "study,number\na,1\na,2\nb,1\nc,1\n"
    (tmp_path / "t.csv").write_text(table)
    layout = {
        "tables": [{"file": "t.csv"}],
        "image": "{study}/{number}.png",
        "texts": [
            {"origin": "findings", "file": "{study}.txt", "sections": ["findings"]},
            {"origin": "impression", "file": "{study}.txt", "sections": ["impression", "conclusion"]},
        ],
        "group": {"column": "study"},
    }
    summary = build_dataset(entry_of(layout), tmp_path, tmp_path / "spool", INLINE)
    rows = samples_of(tmp_path / "spool")
    both = [("findings", "The lungs are clear."), ("impression", "No acute disease.")]
    assert texts_of(rows["a/1.png"]) == texts_of(rows["a/2.png"]) == both
    assert texts_of(rows["b/1.png"]) == [("impression", "Large right effusion.")]
    assert summary["rejects_by_reason"] == {"media_missing": 1}
    assert rows["a/2.png"]["group"] == "tiny/a"


def test_a_prefix_and_several_rows_of_one_image_are_put_together(tmp_path: Path) -> None:
    draw(tmp_path, "1.png")
    write_list(
        tmp_path,
        {"image": "1.png", "caption": "drusen of the macula", "eye": "left"},
        {"image": "1.png", "caption": "a pale optic disc", "eye": "left"},
    )
    texts = [{"origin": "figure", "column": "caption", "prefix": "Fundus of the {eye} eye: "}]
    build_dataset(entry_of({"texts": texts, "gather": True}), tmp_path, tmp_path / "spool", INLINE)
    (row,) = rows_of(tmp_path / "spool", "samples")
    assert [text for _, text in texts_of(row)] == [
        "Fundus of the left eye: drusen of the macula",
        "Fundus of the left eye: a pale optic disc",
    ]


def test_every_faulty_line_is_rejected_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(root, "1.png", "2.png", "3.png", "4.png", "5.png")
    draw(tmp_path, "outside.png")
    (root / "cut.png").write_bytes((root / "1.png").read_bytes()[:500])
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    write_list(
        root,
        {"image": "1.png", "caption": CAPTION},
        "",
        {"image": "1.png", "caption": CAPTION},
        "{broken",
        "[1]",
        '{"image": "2.png", "caption": NaN}',
        {"caption": CAPTION},
        {"image": "2.png", "caption": "  "},
        {"image": "3.png", "caption": "CT"},
        {"image": "none.png", "caption": CAPTION},
        {"image": "../outside.png", "caption": CAPTION},
        {"image": str(tmp_path / "outside.png"), "caption": CAPTION},
        {"image": "link.png", "caption": CAPTION},
        {"image": "cut.png", "caption": CAPTION},
        {"image": "4.png", "caption": CAPTION + "\ud800"},
        {"image": "5.png", "caption": CAPTION},
        {"image": "5.png", "caption": "Another caption of it."},
        {"image": "x" * 300 + ".png", "caption": CAPTION},
    )
    summary = build_dataset(entry_of(), root, tmp_path / "spool", INLINE)
    rejects = {row["item"]: f"{row['stage']}/{row['reason']}" for row in rows_of(tmp_path / "spool", "rejects")}
    assert rejects == {
        "1.png (pairs.jsonl:3)": "parse/duplicate_exact",
        "pairs.jsonl:4": "parse/row_invalid",
        "pairs.jsonl:5": "parse/row_invalid",
        "pairs.jsonl:6": "parse/row_invalid",
        "pairs.jsonl:7": "parse/row_invalid",
        "2.png (pairs.jsonl:8)": "caption/caption_missing",
        "3.png (pairs.jsonl:9)": "caption/caption_too_short",
        "none.png (pairs.jsonl:10)": "source/media_missing",
        "../outside.png (pairs.jsonl:11)": "source/path_unsafe",
        f"{tmp_path}/outside.png (pairs.jsonl:12)": "source/path_unsafe",
        "link.png (pairs.jsonl:13)": "source/path_unsafe",
        "cut.png (pairs.jsonl:14)": "image/image_corrupt",
        "pairs.jsonl:15": "parse/row_invalid",
        "5.png (pairs.jsonl:16)": "parse/row_invalid",
        "5.png (pairs.jsonl:17)": "parse/row_invalid",
        "x" * 300 + ".png (pairs.jsonl:18)": "source/media_missing",
    }
    assert (summary["seen"], summary["samples"], summary["rejects"]) == (17, 1, 16)


def test_a_report_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(root, "1.png", "2.png")
    (tmp_path / "secret.txt").write_text("A secret of some length.")
    (root / "linked.txt").symlink_to(tmp_path / "secret.txt")
    write_list(root, {"image": "1.png", "report": "../secret.txt"}, {"image": "2.png", "report": "linked.txt"})
    entry = entry_of({"texts": [{"origin": "report", "file": "{report}"}]})
    summary = build_dataset(entry, root, tmp_path / "spool", INLINE)
    assert summary["rejects_by_reason"] == {"path_unsafe": 2}


def test_an_unknown_modality_and_a_missing_group_are_rejected(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    write_list(
        tmp_path,
        {"image": "1.png", "caption": CAPTION, "m": "PET/CT", "g": "a"},
        {"image": "2.png", "caption": CAPTION, "m": "CT"},
    )
    entry = entry_of({"modality": {"column": "m"}, "group": {"column": "g"}})
    build_dataset(entry, tmp_path, tmp_path / "spool", INLINE)
    details = sorted(row["detail"] for row in rows_of(tmp_path / "spool", "rejects"))
    assert details == [
        "column 'g', the group, is empty",
        "unknown modality 'PET/CT'; name it in layout.modality.values",
    ]


def test_a_list_that_is_not_there_or_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*pairs\.jsonl"):
        build_dataset(entry_of(), tmp_path, tmp_path / "spool", INLINE)
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="allowed: JSON lines in utf-8"):
        build_dataset(entry_of(), tmp_path, tmp_path / "spool", INLINE)
    report = check_folder(entry_of(), tmp_path)
    assert not report.complete
    assert "pairs.jsonl" in report.missing[0]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"texts": []}, r"layout: neither labels nor texts"),
        ({"texts": [{"origin": "figure"}]}, r"texts: give either column or file"),
        ({"texts": [{"origin": "caption", "column": "caption"}]}, r"'caption'; allowed: 'figure'"),
        (
            {"modality": {"column": "m", "values": {"MR": "mr"}}},
            r"layout\.modality\.values: got 'mr'; did you mean 'mri'",
        ),
        ({"group": {"column": "g", "pattern": "abc"}}, r"'abc' captures nothing"),
    ],
)
def test_a_faulty_layout_is_refused_by_name(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        entry_of(layout)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "seen", "reasons"), [("medpix", 966, {"caption_too_short": 7}), ("medicat", 10, {}), ("elife", 5, {})]
)
def test_real_lists_build(name: str, seen: int, reasons: dict[str, int], real_data: Path, tmp_path: Path) -> None:
    source = next(source for source in load_sources("real_small", real_data) if source.name == name)
    summary = source.build(tmp_path / "spool", INLINE)
    assert (summary["seen"], summary["rejects_by_reason"]) == (seen, reasons)
    rows = rows_of(tmp_path / "spool", "samples")
    assert len(rows) == seen - sum(reasons.values())
    if name == "medpix":
        assert {row["modality"] for row in rows} == {"ct", "mri"}
        assert all(row["group"].startswith("medpix/MPX") for row in rows)
    else:
        assert any(row["license"].startswith("CC-BY") for row in rows)
