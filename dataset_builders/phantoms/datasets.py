"""Labelled phantoms: a class-folder dataset for each of five modalities, and one CSV dataset of three."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipmed.files import write_text
from dataset_builders.phantoms.config import PhantomConfig
from dataset_builders.phantoms.drawing import draw_phantom
from dataset_builders.phantoms.vocabulary import FOLDER_MODALITIES, HELD_OUT, MODALITY_FINDINGS, TABLE_MODALITIES

TABLE = "phantom_table"
TABLE_COLUMNS = ("image", "modality", *TABLE_MODALITIES, "patient", "split", "license")
# Planted in the chest radiographs, so that the road has something to find.
DUPLICATE = "train/mass/p90000_1.jpg"  # the bytes of the class's first image
CORRUPT = "train/mass/p90001_1.jpg"  # half of them


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image to draw: what it shows, and the file name that names its patient."""

    modality: str
    finding: str
    split: str
    patient: str
    name: str


def plan_images(config: PhantomConfig, modality: str) -> Iterator[LabelledImage]:
    """Yield the modality's images. A patient has one to three of one finding, all in one split."""
    sizes = {"train": config.train_per_class, "val": config.val_per_class, "test": config.test_per_class}
    patient = 0
    for finding in MODALITY_FINDINGS[modality]:
        for split, size in sizes.items():
            if (modality, finding) in HELD_OUT and split != "test":
                continue
            first = 0
            while first < size:
                named = f"p{patient:05d}"
                count = min(size - first, 1 + seed_of(config.seed, modality, named) % 3)
                for view in range(1, count + 1):
                    name = f"{named}_{view}.{'png' if modality == 'ct' else 'jpg'}"
                    yield LabelledImage(modality=modality, finding=finding, split=split, patient=named, name=name)
                first += count
                patient += 1


def write_folder_dataset(folder: Path, config: PhantomConfig, modality: str) -> int:
    """Write `<folder>/<split>/<finding>/<file>` for one modality; return how many files lie there."""
    number = 0
    for image in plan_images(config, modality):
        path = folder / image.split / image.finding / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_encoded(config, image))
        number += 1
    return number + (_plant_defects(folder) if modality == "xray" else 0)


def write_table_dataset(folder: Path, config: PhantomConfig, modality: str) -> int:
    """Write one modality's images of the CSV dataset, and its part of the table; return how many."""
    images = folder / "images" / modality
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in plan_images(config, modality):
        (images / image.name).write_bytes(draw_encoded(config, image))
        labels = [image.finding if column == modality else "" for column in TABLE_MODALITIES]
        patient = f"{modality}-{image.patient}"
        rows.append([f"images/{modality}/{image.name}", modality, *labels, patient, image.split, "CC BY-NC"])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / f"{modality}.part", text.getvalue())
    return len(rows)


def join_table(folder: Path) -> None:
    """Join the modalities' parts into `labels.csv`."""
    parts = [folder / f"{modality}.part" for modality in TABLE_MODALITIES]
    write_text(folder / "labels.csv", ",".join(TABLE_COLUMNS) + "\n" + "".join(part.read_text() for part in parts))
    for part in parts:
        part.unlink()


def dataset_folder(modality: str) -> str:
    """Return the name of the folder that the modality's images lie in."""
    return f"phantom_{modality}" if modality in FOLDER_MODALITIES else TABLE


def draw_encoded(config: PhantomConfig, image: LabelledImage) -> bytes:
    """Draw one labelled image and encode it as its file ending says."""
    rng = np.random.default_rng(seed_of(config.seed, image.modality, image.finding, image.split, image.name))
    pixels = draw_phantom(image.modality, image.finding, rng, config.size)
    return encode(Image.fromarray(pixels), "PNG" if image.name.endswith("png") else "JPEG")


def encode(image: Image.Image, image_format: str) -> bytes:
    """Return the image as PNG or as JPEG of quality 92."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=92)
    return buffer.getvalue()


def seed_of(*parts: object) -> int:
    """Return a 64-bit seed from whatever names a thing."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _plant_defects(folder: Path) -> int:
    original = min((folder / "train" / "mass").iterdir()).read_bytes()
    (folder / DUPLICATE).write_bytes(original)
    (folder / CORRUPT).write_bytes(original[: len(original) // 2])
    return 2
