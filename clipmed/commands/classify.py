"""Score images against labels, zero-shot."""

from __future__ import annotations

from dataclasses import dataclass

from clipmed.commands.options import CheckpointOptions, Images, image_files
from clipmed.commands.output import print_json, print_table


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions):
    """Score images against labels, zero-shot."""

    images: Images
    """image files, folders of them, or globs"""
    labels: tuple[str, ...]
    """two or more labels, such as --labels "normal chest" pneumonia"""
    json: bool = False
    """print JSON lines instead of a table"""


def run(command: Command) -> None:
    """Print the probabilities of every image."""
    from rich.markup import escape

    from clipmed.api import load

    paths = image_files(command.images)
    results = load(command.checkpoint, command.device).classify(paths, command.labels)
    if command.json:
        for path, result in zip(paths, results, strict=True):
            print_json({"image": str(path), "label": result.label, "probabilities": result.probabilities})
        return
    rows = [
        [escape(str(path))]
        + [
            f"[bold green]{value:.3f}[/]" if label == result.label else f"{value:.3f}"
            for label, value in result.probabilities.items()
        ]
        for path, result in zip(paths, results, strict=True)
    ]
    columns = ["image", *map(escape, command.labels)]
    print_table(columns, rows, title=f"Probabilities by {escape(command.checkpoint)}")
