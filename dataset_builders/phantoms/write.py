"""All phantom archives below one folder: five class-folder datasets, one CSV dataset, the articles."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipmed.errors import DataError
from clipmed.files import replace_folder, write_json
from clipmed.jobs import JobsConfig, run_units
from dataset_builders.phantoms.archive import write_archive
from dataset_builders.phantoms.config import PhantomConfig
from dataset_builders.phantoms.datasets import (
    TABLE,
    dataset_folder,
    join_table,
    write_folder_dataset,
    write_table_dataset,
)
from dataset_builders.phantoms.vocabulary import FOLDER_MODALITIES, MODALITY_FINDINGS

ARTICLES = "phantom_pmc"
SUMMARY = "phantoms.json"


def write_phantoms(out: Path, config: PhantomConfig) -> dict[str, Any]:
    """Draw everything into the folder `out` and return its summary, which also stands in `phantoms.json`.

    Does nothing where `out` holds the phantoms of the same settings already.

    Raises:
        DataError: `out` holds something else.
    """
    if out.exists() and any(out.iterdir()):
        return _existing(out, config)
    partial_out = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)  # what a killed run left
    partial_out.mkdir(parents=True)
    draw = partial(_write_part, partial_out, replace(config, jobs=JobsConfig()))
    parts = [*MODALITY_FINDINGS, ARTICLES]
    counts: dict[str, int] = {}
    with tqdm(total=len(parts), desc="draw phantoms", unit="archive") as bar:
        for part, number in run_units(draw, parts, config.jobs, "phantoms"):
            counts[part] = number
            bar.set_postfix(drawn=sum(counts.values()))
            bar.update()
    join_table(partial_out / TABLE)
    summary = {"notice": "phantoms: synthetic, without medical meaning", "config": config.identity(), "counts": counts}
    write_json(partial_out / SUMMARY, summary)
    replace_folder(partial_out, out)
    return summary


def _write_part(out: Path, config: PhantomConfig, part: str) -> int:
    if part == ARTICLES:
        return write_archive(out / ARTICLES, config)
    write = write_folder_dataset if part in FOLDER_MODALITIES else write_table_dataset
    return write(out / dataset_folder(part), config, part)


def _existing(out: Path, config: PhantomConfig) -> dict[str, Any]:
    summary = out / SUMMARY
    found: dict[str, Any] = json.loads(summary.read_text()) if summary.is_file() else {}
    if found.get("config") != config.identity():
        what = f"phantoms of other settings ({found['config']})" if found else "other files"
        raise DataError(f"{out} holds {what}; give another folder, or remove this one to draw anew")
    return found
