"""Whoever is named in a file's tags is named in nothing that is made of it: not pixels, facts, names, nor reasons."""

from __future__ import annotations

import gzip
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from clipmed.errors import ItemRejectedError
from clipmed.images import ImageConfig
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.parts import ingest_part, list_parts

# What is planted, in pieces that no codec makes by chance.
NAMES = ("Zyxwvut", "Qatherine", "MRN-4471-0093", "19430817", "St-Eligius-Ward-9", "Dr-Vexley")
PHOTO = np.random.default_rng(2).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)


def dicom(name: str, **tags: object) -> bytes:
    """A file of a maker with names in its own tags, in nested ones, in private ones and in an overlay."""
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    dataset.PatientName, dataset.PatientID = f"{NAMES[0]}^{NAMES[1]}", NAMES[2]
    dataset.PatientBirthDate, dataset.InstitutionName = NAMES[3], NAMES[4]
    dataset.ReferringPhysicianName = dataset.OperatorsName = NAMES[5]
    dataset.StudyDescription = dataset.SeriesDescription = dataset.ImageComments = f"{NAMES[0]} {NAMES[4]}"
    dataset.BodyPartExamined = NAMES[0].upper()
    dataset.private_block(0x0011, NAMES[4], create=True).add_new(1, "LO", NAMES[0])
    nested = Dataset()
    nested.PatientID = NAMES[2]
    dataset.OtherPatientIDsSequence = [nested]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = NAMES[0], NAMES[4]
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + NAMES[1].encode("utf-16-le")
    exif.get_ifd(0x8825)[0x001D] = NAMES[3]
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "JPEG", exif=exif, comment=NAMES[2].encode(), xmp=NAMES[5].encode())
    return buffer.getvalue()


def png(deep: bool) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", NAMES[0])
    text.add_itxt("Comment", f"{NAMES[2]} {NAMES[4]}")
    picture = Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 200) if deep else Image.fromarray(PHOTO)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def tiff(deep: bool) -> bytes:
    buffer = io.BytesIO()
    values = PHOTO[..., 0].astype(np.uint16) * 200 if deep else PHOTO
    described = {"description": f"{NAMES[0]}, {NAMES[2]}", "software": NAMES[4], "metadata": None}
    tifffile.imwrite(buffer, values, extratags=[(315, 2, None, NAMES[5], True)], **described)
    return buffer.getvalue()


def nifti(zipped: bool) -> bytes:
    image = nibabel.Nifti1Image((np.indices((40, 40, 3)).sum(0) * 10).astype(np.int16), np.eye(4))
    image.header["descrip"] = f"{NAMES[0]} {NAMES[2]}".encode()
    image.header["db_name"], image.header["intent_name"] = NAMES[1].encode(), NAMES[5].encode()
    image.header["aux_file"] = NAMES[4].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", " ".join(NAMES).encode()))
    raw = image.to_bytes()
    return gzip.compress(raw) if zipped else raw


def hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("images", data=PHOTO[None])
        file.attrs["patient"] = file["images"].attrs["patient"] = " ".join(NAMES)
    return buffer.getvalue()


SOURCES: dict[str, Callable[[], bytes]] = {
    "ct.dcm": lambda: dicom("CT_small.dcm"),
    "ultrasound.dcm": lambda: dicom("examples_ybr_color.dcm"),
    "letters.dcm": lambda: dicom("CT_small.dcm").replace(b"ISO_IR 100", NAMES[0].upper().encode().ljust(10)),
    "jpeg2000.dcm": lambda: dicom("693_J2KI.dcm"),
    "overlay.dcm": lambda: dicom("examples_overlay.dcm"),
    "photo.jpg": jpeg,
    "photo.png": lambda: png(deep=False),
    "deep.png": lambda: png(deep=True),
    "photo.tif": lambda: tiff(deep=False),
    "deep.tif": lambda: tiff(deep=True),
    "volume.nii": lambda: nifti(zipped=False),
    "volume.nii.gz": lambda: nifti(zipped=True),
    "set.h5": hdf5,
}
BROKEN: dict[str, Callable[[], bytes]] = {
    "burned.dcm": lambda: dicom("CT_small.dcm", BurnedInAnnotation="YES"),
    "short.dcm": lambda: dicom("CT_small.dcm", PixelData=b"\0" * 20),
    "cut.dcm": lambda: dicom("CT_small.dcm")[:-9000],
    "colours.dcm": lambda: dicom("CT_small.dcm", PhotometricInterpretation=NAMES[0].upper()),
    "window.dcm": lambda: dicom("CT_small.dcm", WindowCenter=1, WindowWidth=0, VOILUTFunction=NAMES[1].upper()),
    "rows.dcm": lambda: dicom("CT_small.dcm").replace(b"IS\x02\x00", b"LO\x02\x00").replace(b"DS", b"PN"),
    "cut.nii": lambda: nifti(zipped=False)[:-500],
    "cut.png": lambda: png(deep=True)[:-60],
    "cut.tif": lambda: tiff(deep=True)[:-9000],
}


def named_in(output: bytes) -> list[str]:
    folded = output.lower()
    return [
        name
        for name in NAMES
        if any(name.lower().encode(code) in folded for code in ("utf-8", "utf-16-le", "utf-16-be"))
    ]


@pytest.mark.parametrize("name", list(SOURCES))
def test_planted_names_are_in_no_output_byte(tmp_path: Path, name: str, caplog, capfd):
    path = tmp_path / name
    path.write_bytes(SOURCES[name]())
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert named_in(content)
    config = ReaderConfig(array="images", min_foreground=0.0)
    with caplog.at_level(logging.INFO):
        parts = list_parts(path, config)
        for part in parts:
            stored, facts = ingest_part(path, part, config, ImageConfig())
            told = json.dumps([part, facts, stored.sha256, stored.phash, repr(stored)]).encode()
            assert named_in(stored.jpeg) == []
            assert named_in(told) == []
    assert parts
    assert named_in((caplog.text + "".join(capfd.readouterr())).encode()) == []


@pytest.mark.parametrize("name", list(BROKEN))
def test_reasons_name_nobody(tmp_path: Path, name: str, caplog, capfd):
    path = tmp_path / name
    path.write_bytes(BROKEN[name]())
    assert named_in(path.read_bytes())
    with caplog.at_level(logging.INFO), pytest.raises(ItemRejectedError) as error:
        for part in list_parts(path, ReaderConfig()):
            ingest_part(path, part, ReaderConfig(min_foreground=0.0), ImageConfig())
    assert str(error.value.stage) == "image"
    assert named_in(f"{error.value} {error.value.detail}".encode()) == []
    assert named_in((caplog.text + "".join(capfd.readouterr())).encode()) == []
