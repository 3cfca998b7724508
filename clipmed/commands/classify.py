"""Score images against labels, zero-shot."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.commands.options import CheckpointOptions, Images, ReadingOptions, image_files
from clipmed.commands.output import RESEARCH_ONLY, finish, print_json, print_table
from clipmed.errors import ConfigError
from clipmed.files import atomic_file
from clipmed.labels import DEFAULT_TEMPLATES, label_prompts, read_prompts

if TYPE_CHECKING:
    from clipmed.api import Classification, ClipModel
    from clipmed.inputs import SkippedImage

TABLES = (".csv", ".jsonl", ".parquet")
_TOP_OF_MANY, _FEW = 5, 6
_CAPTIONS = {
    "learned": "Not calibrated probabilities over these labels.",
    "fitted": "Calibrated probabilities over these labels.",
    "fitted on other labels": "Probabilities over these labels at a temperature fitted on other labels or prompts: "
    "not calibrated.",
}


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
    frame: int | None = None
    """which frame, page or slice of files of several, from 0, the same of all; without it, such a file is an error"""
    out: Path | None = None
    """also write a table: .csv, .jsonl, or .parquet (which the extra `tables` brings)"""
    json: bool = False
    """print JSON lines instead of a table, each batch as soon as it is done"""

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
    if command.out is not None:
        _check_out(command.out)
    model = load(command.checkpoint, command.device, dtype=command.dtype)
    model.class_embeddings(prompts)  # labels that are wrong end the command before images are read
    skipped: list[SkippedImage] = []
    records = []
    for path, outcome in zip(paths, _outcomes(command, model, paths, prompts, skipped), strict=True):
        record = _record(path, outcome, command.top_k)
        if command.json:
            print_json(record)
            sys.stdout.flush()  # for a reader behind a pipe
        if command.out or not command.json:
            records.append(record)
    if command.out is not None:
        _write(command.out, records, list(prompts))
    if not command.json:
        _print(records, list(prompts), command)
    finish(skipped, len(paths))


def _check_out(out: Path) -> None:
    """Raise ConfigError where a table could not be written, before the work that it would hold."""
    if out.suffix.lower() == ".parquet":
        from clipmed.extras import require

        require("pyarrow", "tables")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        wrong = "a folder" if out.is_dir() else f"a file in {folder}, which is no folder that may be written to"
        raise ConfigError(f"out: got {out}, {wrong}; give another file")


def _outcomes(
    command: Command,
    model: ClipModel,
    paths: Sequence[Path],
    prompts: Mapping[str, Sequence[str]],
    skipped: list[SkippedImage],
) -> Iterator[Classification | SkippedImage]:
    """Yield what became of each image, in order, batch by batch; images that are skipped are listed in `skipped`."""
    from tqdm import tqdm

    done = listed = 0
    listing = skipped if command.on_error == "skip" else None
    bar = tqdm(
        total=len(paths), unit=" images", delay=2, desc="classifying", disable=command.json and sys.stdout.isatty()
    )
    with bar:
        batches = model.embed_batches(paths, command.batch_size, skipped=listing, frame=command.frame)
        for positions, rows in batches:
            for position, result in zip(positions, model.classify_embeddings(rows, prompts), strict=True):
                failed = skipped[listed : listed + position - done]
                yield from failed
                yield result
                listed, done = listed + len(failed), position + 1
            bar.update(done - bar.n)
    yield from skipped[listed:]


def _record(path: Path, outcome: Classification | SkippedImage, top_k: int | None) -> dict[str, Any]:
    from clipmed.inputs import SkippedImage

    if isinstance(outcome, SkippedImage):
        return {"image": str(path), "error": outcome.reason}
    kept = sorted(outcome.probabilities, key=outcome.probabilities.__getitem__, reverse=True)[:top_k]
    names = kept if top_k else list(outcome.probabilities)
    return {
        "image": str(path),
        "label": outcome.label,
        "probabilities": {name: outcome.probabilities[name] for name in names},
        "cosines": {name: outcome.cosines[name] for name in names},
        "calibrated": outcome.calibrated,
        "temperature": outcome.temperature,
    }


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
    said = next((_CAPTIONS[record["temperature"]] for record in records if "error" not in record), "")
    caption = f"{RESEARCH_ONLY} {said}"
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
    """Write records as JSON lines, or as a table of the same with a column a label."""
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

        kinds = dict.fromkeys(("image", "label", "temperature", "error"), pa.string()) | {"calibrated": pa.bool_()}
        schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]])
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)


def _row(record: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    probabilities = record.get("probabilities", {})
    return {
        "image": record["image"],
        "label": record.get("label"),
        "probability": probabilities.get(record.get("label")),
        "calibrated": record.get("calibrated"),
        "temperature": record.get("temperature"),
        "error": record.get("error"),
        **{f"p: {name}": probabilities.get(name) for name in labels},
    }
