from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset_builders.pairs import PairsConfig, build_pairs
from PIL import Image

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from dataset_builders.sources import load_sources

INLINE = JobsConfig(executor="inline")


def config_of(**changes: Any) -> PairsConfig:
    return from_dict(PairsConfig, {"source": "tiny", "num_units": 2, **changes}, "tiny")


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


def test_fields_become_captions_group_modality_licence_and_provenance(tmp_path: Path) -> None:
    draw(tmp_path, "i/1.png", "i/2.png")
    write_list(
        tmp_path,
        {"fig": "i/1.png", "text": " A long \n caption. ", "refs": ["It is seen in Figure 1.", "short"], "m": "MR",
         "who": "anna", "rights": "paper: cc-by", "plane": "axial"},
        {"fig": "i/2.png", "text": None, "refs": "Only a mention of it.", "m": "ct", "who": "anna", "rights": None},
    )  # fmt: skip
    config = config_of(
        image_field="fig",
        caption_field="text",
        mention_field="refs",
        modality_field="m",
        modality_map={"MR": "mri"},
        group_field="who",
        license_field="rights",
        license_map={"paper: cc-by": "CC BY"},
        license="CC0",
        provenance_fields=["plane"],
    )
    summary = build_pairs(config, tmp_path, tmp_path / "spool", INLINE)
    assert (summary["seen"], summary["samples"]) == (2, 2)
    rows = {json.loads(row["provenance"])["path"]: row for row in rows_of(tmp_path / "spool", "samples")}
    first, second = rows["i/1.png"], rows["i/2.png"]
    assert [(caption["origin"], caption["text"]) for caption in first["captions"]] == [
        ("figure", "A long caption."),
        ("mention", "It is seen in Figure 1."),
    ]
    assert (first["modality"], first["group"], first["license"]) == ("mri", "tiny/anna", "CC-BY-4.0")
    assert json.loads(first["provenance"]) == {"path": "i/1.png", "line": 1, "plane": "axial"}
    assert (first["facts"], first["labels"], first["split"]) == (None, [], None)
    assert [caption["origin"] for caption in second["captions"]] == ["mention"]
    assert (second["modality"], second["license"]) == ("ct", "CC0-1.0")


def test_every_faulty_line_is_rejected_with_its_reason(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png", "3.png", "4.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    caption = "A caption of some length."
    write_list(
        tmp_path,
        {"image": "1.png", "caption": caption},
        "",
        {"image": "1.png", "caption": "Another caption."},
        "{broken",
        "[1]",
        '{"image": "2.png", "caption": NaN}',
        {"caption": caption},
        {"image": "2.png", "caption": "  "},
        {"image": "3.png", "caption": "CT"},
        {"image": "4.png", "caption": [1]},
        {"image": "none.png", "caption": caption},
        {"image": "../etc/passwd", "caption": caption},
        {"image": "cut.png", "caption": caption},
        {"image": "4.png", "caption": caption + "\ud800"},
        '{"image": "4.png", "caption": "A caption of some length.", "size": 1e999}',
        {"image": "x" * 300 + ".png", "caption": caption},
    )
    summary = build_pairs(config_of(), tmp_path, tmp_path / "spool", INLINE)
    rejects = {row["item"]: f"{row['stage']}/{row['reason']}" for row in rows_of(tmp_path / "spool", "rejects")}
    assert rejects == {
        "1.png (pairs.jsonl:3)": "parse/duplicate_exact",
        "pairs.jsonl:4": "parse/row_invalid",
        "pairs.jsonl:5": "parse/row_invalid",
        "pairs.jsonl:6": "parse/row_invalid",
        "pairs.jsonl:7": "parse/row_invalid",
        "2.png (pairs.jsonl:8)": "caption/caption_missing",
        "3.png (pairs.jsonl:9)": "caption/caption_too_short",
        "4.png (pairs.jsonl:10)": "parse/row_invalid",
        "none.png (pairs.jsonl:11)": "source/media_missing",
        "../etc/passwd (pairs.jsonl:12)": "source/path_unsafe",
        "cut.png (pairs.jsonl:13)": "image/image_corrupt",
        "pairs.jsonl:14": "parse/row_invalid",
        "pairs.jsonl:15": "parse/row_invalid",
        "x" * 300 + ".png (pairs.jsonl:16)": "source/media_missing",
    }
    assert (summary["seen"], summary["samples"], summary["rejects"]) == (15, 1, 14)


def test_an_unknown_modality_and_a_missing_group_are_rejected(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png")
    caption = "A caption of some length."
    write_list(
        tmp_path,
        {"image": "1.png", "caption": caption, "m": "PET/CT", "g": "a"},
        {"image": "2.png", "caption": caption, "m": "CT"},
    )
    config = config_of(modality_field="m", group_field="g")
    build_pairs(config, tmp_path, tmp_path / "spool", INLINE)
    details = sorted(row["detail"] for row in rows_of(tmp_path / "spool", "rejects"))
    assert details == ["field 'g' is None; allowed: a text", "unknown modality 'PET/CT'; name it in modality_map"]


def test_a_list_that_is_not_there_or_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*pairs\.jsonl"):
        build_pairs(config_of(), tmp_path, tmp_path / "spool", INLINE)
    (tmp_path / "pairs.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        build_pairs(config_of(), tmp_path, tmp_path / "spool", INLINE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "Med-Pix"}, "source: got 'Med-Pix'"),
        ({"modality": "xrays"}, "modality: got 'xrays'; did you mean 'xray'"),
        ({"modality_map": {"MR": "mr"}}, "modality: got 'mr'; did you mean 'mri'"),
        ({"num_units": 0}, "num_units=0"),
        ({"caption_feild": "x"}, "unknown key 'caption_feild'; did you mean 'caption_field'"),
    ],
)
def test_a_faulty_config_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**changes)


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
