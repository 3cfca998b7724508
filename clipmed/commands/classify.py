"""Score images against labels, zero-shot."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.commands.options import CheckpointOptions, Images, ReadingOptions, image_files
from clipmed.commands.output import RESEARCH_ONLY, finish, print_json, print_table
from clipmed.errors import ConfigError
from clipmed.files import atomic_file
from clipmed.labels import DEFAULT_TEMPLATES, label_prompts, read_prompts

if TYPE_CHECKING:
    from clipmed.api import Classification
    from clipmed.inputs import SkippedImage

TABLES = (".csv", ".jsonl", ".parquet")
_TOP_OF_MANY, _FEW = 5, 6


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions, ReadingOptions):
    """Score images against labels, zero-shot.

    Probabilities are over the labels given, and sum to 1: a picture of something else gets some of them too.
    """

    images: Images
    """image files, DICOM too, folders of them, or globs in quotes"""
    labels: tuple[str, ...] = ()
    """two or more labels, such as --labels "normal chest" pneumonia; each is put into the templates"""
    prompts: Path | None = None
    """instead of labels: a YAML or JSON file of {label: [prompts]}, which are used as they are"""
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    """sentences with one {} for the label; a label's embedding is the mean over them"""
    top_k: int | None = None
    """show and write only so many labels an image, the most probable first; tables of many labels show 5"""
    out: Path | None = None
    """also write a table: .csv, .jsonl, or .parquet (which the extra `tables` brings)"""
    json: bool = False
    """print JSON lines instead of a table"""

    def __post_init__(self) -> None:
        CheckpointOptions.__post_init__(self)
        ReadingOptions.__post_init__(self)
        if bool(self.labels) == bool(self.prompts):
            raise ConfigError("labels: give either --labels with two or more, or --prompts with a file of them")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k: got {self.top_k}; allowed: 1 or more")
        if self.out is not None and self.out.suffix.lower() not in TABLES:
            raise ConfigError(f"out: got {self.out}; allowed endings: {', '.join(TABLES)}")


def run(command: Command) -> None:
    """Print, and perhaps write, the probabilities of every image."""
    from clipmed.api import load

    paths = image_files(command.images)
    prompts = label_prompts(read_prompts(command.prompts) if command.prompts else command.labels, command.templates)
    if command.out is not None and command.out.suffix.lower() == ".parquet":
        from clipmed.extras import require

        require("pyarrow", "tables")
    model = load(command.checkpoint, command.device, dtype=command.dtype)
    skipped: list[SkippedImage] | None = [] if command.on_error == "skip" else None
    embeddings = model.embed_images(paths, command.batch_size, progress=True, skipped=skipped)
    failed = {image.position: image for image in skipped or ()}
    results = iter(model.classify_embeddings(embeddings, prompts))
    records = [
        _failure(path, failed[place]) if place in failed else _record(path, next(results), command.top_k)
        for place, path in enumerate(paths)
    ]
    if command.out is not None:
        _write(command.out, records, list(prompts))
    if command.json:
        for record in records:
            print_json(record)
    else:
        _print(records, list(prompts), command)
    finish(list(failed.values()), len(paths))


def _record(path: Path, result: Classification, top_k: int | None) -> dict[str, Any]:
    kept = sorted(result.probabilities, key=result.probabilities.__getitem__, reverse=True)[:top_k]
    names = kept if top_k else list(result.probabilities)
    return {
        "image": str(path),
        "label": result.label,
        "probabilities": {name: result.probabilities[name] for name in names},
        "cosines": {name: result.cosines[name] for name in names},
        "calibrated": result.calibrated,
    }


def _failure(path: Path, image: SkippedImage) -> dict[str, Any]:
    return {"image": str(path), "error": image.reason}


def _print(records: Sequence[dict[str, Any]], labels: Sequence[str], command: Command) -> None:
    """Print a table: a column a label where they are few, else the most probable ones by name."""
    from rich.markup import escape

    is_whole = command.top_k is None and len(labels) <= _FEW
    columns = ["image", *map(escape, labels)] if is_whole else ["image", "most probable"]
    folder = _common_folder([record["image"] for record in records])
    rows = []
    for record in records:
        if "error" in record:
            cells = ["[red]skipped[/]"]
        elif is_whole:
            cells = [_number(record, name) for name in labels]
        else:
            best = sorted(record["probabilities"], key=record["probabilities"].__getitem__, reverse=True)
            shown = best[: command.top_k or _TOP_OF_MANY]
            cells = [", ".join(f"{escape(name)} {_number(record, name)}" for name in shown)]
        rows.append([escape(os.path.relpath(record["image"], folder)), *cells])
    is_calibrated = any(record.get("calibrated") for record in records)
    caption = f"{RESEARCH_ONLY} {'Calibrated' if is_calibrated else 'Not calibrated'} probabilities over these labels."
    title = f"{escape(folder)}: probabilities by {escape(command.checkpoint)}"
    print_table(columns, rows, title=title, caption=caption)


def _common_folder(images: Sequence[str]) -> str:
    """Return the folder that all images are in, at any depth, so that a table's paths can be short."""
    try:
        return os.path.commonpath([Path(image).parent for image in images]) or os.curdir
    except ValueError:  # some are given from the root, some from here
        return os.path.commonpath([Path(image).absolute().parent for image in images])


def _number(record: dict[str, Any], name: str) -> str:
    value = f"{record['probabilities'][name]:.3f}"
    return f"[bold green]{value}[/]" if name == record["label"] else value


def _write(path: Path, records: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    """Write records as JSON lines, or as a table: image, label, probability, calibrated, error, a column a label."""
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".jsonl":
            lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            return
        rows = [_row(record, labels) for record in records]
        if path.suffix.lower() == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"image": pa.string(), "label": pa.string(), "calibrated": pa.bool_(), "error": pa.string()}
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]])
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)


def _row(record: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    probabilities = record.get("probabilities", {})
    return {
        "image": record["image"],
        "label": record.get("label"),
        "probability": probabilities.get(record.get("label")),
        "calibrated": record.get("calibrated"),
        "error": record.get("error"),
        **{f"p: {name}": probabilities.get(name) for name in labels},
    }
