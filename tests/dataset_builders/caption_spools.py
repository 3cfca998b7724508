"""Small spools of labelled images for the tests of captioning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipmed.records import Caption, Modality, Sample, sample_key
from shards.spool import SpoolInfo, open_spool, write_unit
from tests.shards.conftest import make_jpeg

CLASSES = {"glioma": "a glioma", "edema": "edema", "cyst": "a cyst", "bleed": "a hemorrhage", "infarct": "an infarct"}
TASKS = {"brain": {"modality": "mri", "classes": CLASSES, "multi_label": True}}


def facts_of(*class_ids: str) -> dict[str, str]:
    return {"modality": "mri", "body_part": "brain", "brain": "|".join(class_ids)}


def sample(number: int, facts: dict[str, str] | None, text: str = "a") -> Sample:
    jpeg = make_jpeg(number)
    return Sample(
        key=sample_key("tiny", str(number)),
        source="tiny",
        image=jpeg,
        captions=(Caption(text=text, origin="template" if facts else "figure"),),
        modality=Modality.MRI,
        group=str(number),
        license="CC-BY-4.0",
        width=24,
        height=20,
        sha256=f"{number:064x}",
        phash="0" * 16,
        facts=facts,
    )


def write(path: Path, samples: list[Sample], tasks: dict[str, Any] | None = None) -> Path:
    open_spool(path, SpoolInfo(source="tiny", num_units=1, tasks=TASKS if tasks is None else tasks))
    with write_unit(path, 0, "tiny") as unit:
        for each in samples:
            unit.add(each)
    return path
