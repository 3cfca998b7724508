"""Fit a checkpoint's temperature on images with known labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from clipmed.commands.options import CheckpointOptions, ReadingOptions, image_files
from clipmed.commands.output import finish, print_facts, print_json
from clipmed.errors import ConfigError, DataError
from clipmed.labels import DEFAULT_TEMPLATES, label_prompts, read_prompts

if TYPE_CHECKING:
    from clipmed.calibration import Calibration
    from clipmed.inputs import SkippedImage

_COLUMNS = ("path", "label", "group")


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions, ReadingOptions):
    """Fit a checkpoint's temperature on images with known labels, and keep it in the checkpoint's folder.

    One number, by likelihood: it changes how sure probabilities are, never which label is first. From then on
    clipmed.load and `clipmed classify` use it, and say so where labels or prompts are not these. On another task, or on
    another hospital's images, probabilities may be as wrong as before. Take images that no score is computed on.

    The errors shown are of images that the fit had not seen: each half is measured at the scale of the other half. A
    temperature that does not help there, by more than chance, is not kept: the exit status is 1.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """the checkpoint's folder"""
    images: Path
    """a folder with one subfolder a label, or a CSV table with the columns path and label; paths are relative to it.
    The table may have a third one, group: the patient or study, whose images are kept in the same half"""
    labels: tuple[str, ...] = ()
    """labels in the order wanted, if not all subfolders or values of the table; others' images are left out"""
    prompts: Path | None = None
    """a YAML or JSON file of {label: [prompts]}, labels as the subfolders or values of the table"""
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    """sentences with one {} for the label"""
    dry_run: bool = False
    """show the figures, and keep nothing"""
    json: bool = False
    """print one line of JSON"""

    def __post_init__(self) -> None:
        CheckpointOptions.__post_init__(self)
        ReadingOptions.__post_init__(self)
        if self.labels and self.prompts:
            raise ConfigError("labels: give --labels, or --prompts with a file of them, or neither")
        if not Path(self.checkpoint).is_dir():
            raise ConfigError(
                f"checkpoint: got {self.checkpoint!r}; allowed: a folder, which the temperature is kept in; fetch it "
                f"first: clipmed pull {self.checkpoint}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Images with their true labels and groups, each of the same length."""

    paths: list[Path]
    truths: list[str]
    groups: list[str]

    def only(self, places: Sequence[int]) -> LabelledImages:
        """Return those at some places."""
        return LabelledImages(
            paths=[self.paths[place] for place in places],
            truths=[self.truths[place] for place in places],
            groups=[self.groups[place] for place in places],
        )


def run(command: Command) -> None:
    """Fit, show, and keep the calibration."""
    from clipmed.api import load

    found = labelled_images(command.images)
    given = read_prompts(command.prompts) if command.prompts else command.labels or tuple(dict.fromkeys(found.truths))
    prompts = label_prompts(given, command.templates)
    absent = [label for label in prompts if label not in found.truths]
    if absent:
        raise ConfigError(f"labels: no image of {absent[0]!r}; there are: {', '.join(sorted(set(found.truths)))}")
    wanted = found.only([place for place, truth in enumerate(found.truths) if truth in prompts])
    model = load(command.checkpoint, command.device, dtype=command.dtype, calibrated=False)
    skipped: list[SkippedImage] | None = [] if command.on_error == "skip" else None
    embeddings = model.embed_images(wanted.paths, command.batch_size, progress=True, skipped=skipped)
    failed = {image.position for image in skipped or ()}
    used = wanted.only([place for place in range(len(wanted.paths)) if place not in failed])
    calibration = model.calibrate_embeddings(embeddings, used.truths, prompts, groups=used.groups)
    if not calibration.objection and not command.dry_run:
        calibration.save(Path(command.checkpoint))
    _print(calibration, command, left_out=len(found.paths) - len(wanted.paths))
    finish(skipped or [], len(wanted.paths))
    if calibration.objection and not command.dry_run:
        raise DataError(f"the temperature does not help, and is not kept{_stays(command)}")


def _stays(command: Command) -> str:
    """Say what stays in use where nothing new is kept."""
    from clipmed.checkpoint_files import CALIBRATION_FILE

    earlier = Path(command.checkpoint) / CALIBRATION_FILE
    return f"; the earlier {earlier} stays in use: remove it to use training's own scale" if earlier.exists() else ""


def labelled_images(images: Path) -> LabelledImages:
    """Return the images of a folder with one subfolder a label, or of a CSV table of path, label and perhaps group.

    Raises:
        DataError: no such folder or table, or one without labels or images.
    """
    if images.is_dir():
        folders = sorted(entry for entry in images.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if len(folders) < 2:
            raise DataError(f"{images} has {len(folders)} subfolders; allowed: two or more, one a label")
        paths = [(path, folder.name) for folder in folders for path in image_files([folder])]
        names = [str(path) for path, _ in paths]
        return LabelledImages(paths=[path for path, _ in paths], truths=[truth for _, truth in paths], groups=names)
    rows = _table(images)
    return LabelledImages(
        paths=[images.parent / row["path"] for row in rows],
        truths=[row["label"] for row in rows],
        groups=[row.get("group") or row["path"] for row in rows],
    )


def _table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not readable as a folder or a CSV table: {error}") from error
    if not {"path", "label"} <= set(columns) or not rows:
        raise DataError(
            f"{path}: got the columns {', '.join(columns) or 'none'} and {len(rows)} rows; allowed: path and label, "
            "and perhaps group, with one row an image"
        )
    for number, row in enumerate(rows, 2):
        if not row["path"] or not row["label"]:
            raise DataError(f"{path}, line {number}: path or label is empty; allowed: both in every row")
    return [{name: row[name] for name in _COLUMNS if row.get(name)} for row in rows]


def _print(calibration: Calibration, command: Command, *, left_out: int) -> None:
    from clipmed.checkpoint_files import CALIBRATION_FILE

    file = str(Path(command.checkpoint) / CALIBRATION_FILE)
    kept = None if calibration.objection or command.dry_run else file
    if command.json:
        from clipmed.configuration import to_dict

        print_json(to_dict(calibration) | {"kept": kept, "objection": calibration.objection, "left_out": left_out})
        return
    print_facts(
        {
            "images": f"{calibration.num_images} of {len(calibration.labels)} labels"
            + (f"; {left_out} of other labels left out" if left_out else ""),
            "temperature": f"{calibration.temperature:.4g} (above 1: the checkpoint was too sure)",
            "calibration error": f"{calibration.ece_before:.4f} before, {calibration.ece_after:.4f} after (held out)",
            "log loss": f"{calibration.nll_before:.4f} before, {calibration.nll_after:.4f} after (held out); "
            f"the difference's standard error is {calibration.nll_gain_error:.4f}",
            "kept in": kept or ("nothing: a dry run" if command.dry_run else "nothing"),
        }
    )
    if calibration.objection:
        print(f"It does not help: {calibration.objection}.")
    print("Fitted on these images and labels. On other tasks or sites, probabilities may be as wrong as before.")
