"""Command line of figure kinds: `python -m dataset_builders kinds train | score`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from clipmed.images import ArrayHWC
from dataset_builders.figures.config import KindConfig
from dataset_builders.figures.kind_classifier import (
    Labelled,
    TrainConfig,
    confusion_of,
    measured,
    read_labels,
    train,
)
from dataset_builders.figures.kinds import FigureKind, open_classifier

DESCRIPTION = """Tell medical images from plots and diagrams, by rules or by a classifier that you train.

  python -m dataset_builders kinds score labels.csv
  python -m dataset_builders kinds train labels.csv --checkpoint hf-hub:org/name --out kinds
  python -m dataset_builders kinds score labels.csv --kinds.method classifier --kinds.classifier kinds

labels.csv has the columns path and kind (medical, plot, diagram, other), and may have group: figures of one group, such
as those of one article, are never both trained and tested on. `pmc build --kinds.method classifier --kinds.classifier
kinds` uses the classifier."""

LabelPath = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a linear classifier on the embeddings of an OpenCLIP checkpoint, and measure it on a held-out fifth."""

    labels: LabelPath
    """CSV with the columns path, kind and, if wanted, group"""
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")]
    """the checkpoint, and how to train"""
    out: Path
    """folder for the classifier"""
    root: Path | None = None
    """folder that the paths start from; that of the CSV file if not given"""


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Compare what the rules or a classifier say with labels. Figures that it was trained on flatter a classifier."""

    labels: LabelPath
    """CSV with the columns path and kind"""
    kinds: KindConfig
    """the rules, or a classifier"""
    root: Path | None = None
    """folder that the paths start from; that of the CSV file if not given"""


def train_kinds(command: TrainCommand) -> int:
    """Train, and print what the held-out figures say."""
    facts = train(read_labels(command.labels, command.root), command.settings, command.out)
    held_out = f"{facts['num_held_out']:,} of {facts['num_figures']:,} figures held out, penalty {facts['penalty']:g}"
    _print(facts["held_out"], facts["classes"], held_out)
    print(f"classifier: {command.out}   (next: pmc build --kinds.method classifier --kinds.classifier {command.out})")
    return 0


def score_kinds(command: ScoreCommand) -> int:
    """Tell the kind of every figure, and print how often it is the label's."""
    classifier = open_classifier(command.kinds)
    if classifier is None:
        print("nothing to score: kinds.method is none", file=sys.stderr)
        return 1
    labelled = read_labels(command.labels, command.root)
    pairs = [(item.kind, classifier.kind_of(_pixels(item))[0]) for item in labelled]
    kinds = list(FigureKind)
    result = measured(confusion_of(pairs, kinds), kinds)
    _print(result, [str(kind) for kind in kinds], f"{len(labelled):,} figures by {classifier.name}")
    return 0


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "train": (TrainCommand, train_kinds),
    "score": (ScoreCommand, score_kinds),
}


def run(args: Sequence[str]) -> int:
    """Parse the words behind `kinds` and run the command; errors of the input are raised."""
    parsed = tyro.extras.subcommand_cli_from_dict(
        {name: command for name, (command, _) in COMMANDS.items()},
        prog="python -m dataset_builders kinds",
        description=DESCRIPTION,
        args=list(args),
    )
    return next(function for command, function in COMMANDS.values() if isinstance(parsed, command))(parsed)


def _pixels(item: Labelled) -> ArrayHWC:
    import numpy as np
    from PIL import Image

    from clipmed.errors import DataError
    from clipmed.images import to_rgb8

    try:
        with Image.open(item.path) as image:
            return np.asarray(to_rgb8(image), np.uint8)
    except OSError as error:
        raise DataError(f"{item.path}: {error}; give a whole image, or take it out of the labels") from error


def _print(result: dict[str, Any], classes: Sequence[str], title: str) -> None:
    table = Table("true kind", *(f"told {name}" for name in classes), "recall", "precision", title=title)
    for name, row in zip(classes, result["confusion"], strict=True):
        shares = (result[what][name] for what in ("recall", "precision"))
        table.add_row(name, *map(str, row), *(f"{share:.3f}" for share in shares))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    print(f"accuracy: {result['accuracy']:.4f}")
