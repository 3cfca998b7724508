"""Every shipped entry against files made in the layout that its provider documents.

catalogue/<name>.yaml lists the files, as the provider lays them out, and what the entry must make of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from clipmed.jobs import JobsConfig
from dataset_builders.datasets import build_dataset, load_entry, shipped_entries
from dataset_builders.datasets.check import check_folder
from dataset_builders.items import summarise

FIXTURES = Path(__file__).parent / "catalogue"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.yaml"))
SIZE = (40, 48)


def drawn(seed: int, shape: tuple[int, ...] = (*SIZE, 3), dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def encoded(seed: int, suffix: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(drawn(seed)).save(stream, Image.registered_extensions().get(suffix.lower(), "PNG"))
    return stream.getvalue()


def write_images(root: Path, paths: list[str]) -> None:
    for seed, path in enumerate(paths):
        write(root / path, encoded(seed, Path(path).suffix))


def write_deep(root: Path, paths: list[str]) -> None:
    for seed, path in enumerate(paths):
        stream = io.BytesIO()
        kind = "TIFF" if path.lower().endswith((".tif", ".tiff")) else "PNG"
        Image.fromarray(drawn(seed, SIZE, np.uint16)).save(stream, kind)
        write(root / path, stream.getvalue())


def write_dicom(root: Path, paths: list[str]) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    for seed, path in enumerate(paths):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.PatientName = "Planted^Patient"
        image.Rows, image.Columns = SIZE
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = (drawn(seed, SIZE, np.uint16) >> 4).tobytes()
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save_as(root / path, enforce_file_format=True)


def write_nifti(root: Path, volumes: list[Mapping[str, Any]]) -> None:
    import nibabel

    for seed, volume in enumerate(volumes):
        values = drawn(seed, tuple(volume["shape"]), np.int16).astype(np.int16)
        (root / volume["path"]).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / volume["path"])


def write_slides(root: Path, paths: list[str]) -> None:
    """Write slides of 1024 x 1024 px with half a micron a pixel, all of it tissue."""
    import tifffile

    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(root / path) as writer:
            writer.write(
                drawn(seed, (1024, 1024, 3)),
                photometric="rgb",
                tile=(256, 256),
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
            )


def write_npz(root: Path, files: list[Mapping[str, Any]]) -> None:
    for file in files:
        arrays = {name: array_of(seed, wanted) for seed, (name, wanted) in enumerate(file["arrays"].items())}
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        write(root / file["path"], stream.getvalue())


def write_hdf5(root: Path, files: list[Mapping[str, Any]]) -> None:
    import h5py

    for file in files:
        (root / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / file["path"], "w") as opened:
            for seed, (name, wanted) in enumerate(file["arrays"].items()):
                opened[name] = array_of(seed, wanted)


def array_of(seed: int, wanted: Any) -> np.ndarray[Any, Any]:
    return np.asarray(wanted["values"]) if isinstance(wanted, dict) else drawn(seed, tuple(wanted))


def write_texts(root: Path, texts: Mapping[str, str]) -> None:
    import gzip

    for path, text in texts.items():
        write(root / path, gzip.compress(text.encode(), mtime=0) if path.endswith(".gz") else text.encode())


def write_xlsx(root: Path, books: Mapping[str, list[list[Any]]]) -> None:
    import openpyxl

    for path, rows in books.items():
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        book.save(root / path)


def write_parquet(root: Path, tables: Mapping[str, list[dict[str, Any]]]) -> None:
    for path, rows in tables.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([with_images(row, seed) for seed, row in enumerate(rows)]), root / path)


def with_images(row: Mapping[str, Any], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if value == "draw":
            found[name] = encoded(seed, ".png")
        elif isinstance(value, dict):
            found[name] = with_images(value, seed)
        else:
            found[name] = value
    return found


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


WRITERS: Mapping[str, Callable[[Path, Any], None]] = {
    "images": write_images,
    "deep": write_deep,
    "dicom": write_dicom,
    "nifti": write_nifti,
    "slides": write_slides,
    "npz": write_npz,
    "hdf5": write_hdf5,
    "texts": write_texts,
    "xlsx": write_xlsx,
    "parquet": write_parquet,
}


def built(spool: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(spool.glob("unit-*/samples.parquet")):
        for row in pq.read_table(file).to_pylist():
            place = json.loads(row["provenance"])
            rows[f"{place['path']}#{place['part']}" if "part" in place else place["path"]] = row
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_reads_its_providers_layout(name: str, tmp_path: Path) -> None:
    fixture = yaml.safe_load((FIXTURES / f"{name}.yaml").read_text(encoding="utf-8"))
    root = tmp_path / "data"
    root.mkdir()
    for kind in fixture.keys() - {"expect"}:
        WRITERS[kind](root, fixture[kind])
    entry, expected = load_entry(name), fixture["expect"]
    summary = build_dataset(entry, root, tmp_path / "spool", JobsConfig(executor="inline"))
    assert summary == summarise(tmp_path / "spool")
    rejects = expected.get("rejects", {})
    assert (summary["seen"], summary["rejects_by_reason"]) == (expected["items"], rejects)
    assert summary["samples"] == expected["items"] - sum(rejects.values())
    rows = built(tmp_path / "spool")
    for path, wanted in expected.get("samples", {}).items():
        assert path in rows, f"{path} is not among {sorted(rows)}"
        assert described(rows[path], wanted) == wanted
    report = check_folder(entry, root)
    assert not report.missing
    assert report.items == expected["items"]
    for row in rows.values():
        assert all(row[name] for name in ("captions", "group", "license", "modality"))


def described(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sample says of the things that a fixture asks for."""
    facts = json.loads(row["facts"]) if row["facts"] else {}
    said = {
        **row,
        "labels": {label["task"]: label["classes"] for label in row["labels"]},
        "captions": [caption["text"] for caption in row["captions"]],
        "origins": [caption["origin"] for caption in row["captions"]],
        "facts": facts,
    }
    return {name: said[name] for name in wanted}


def test_every_entry_has_a_fixture_or_is_tested_on_real_files() -> None:
    without = set(shipped_entries()) - set(NAMES)
    assert {name for name in without if load_entry(name).tested_on != "real"} == set()
    assert set(NAMES) <= set(shipped_entries())
