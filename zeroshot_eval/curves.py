"""Training curves of the run that a checkpoint belongs to, from the metrics.jsonl beside its model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from zeroshot_eval.figures import line_chart

METRICS_FILE = "metrics.jsonl"
MAX_POINTS = 200

# (title, {name of the line: (kind of row, key)})
PANELS = (
    ("Loss", {"training": ("train", "loss"), "validation": ("validation", "loss")}),
    (
        "Validation retrieval, recall@5",
        {
            "image to text": ("validation", "image_to_text_r5"),
            "text to image": ("validation", "text_to_image_r5"),
            "chance": ("validation", "image_to_text_chance_r5"),
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One panel: its title, the names of its lines in order, and the drawing."""

    title: str
    names: tuple[str, ...]
    svg: Markup
    note: str = ""


def training_curves(checkpoint: Path, name: str = "") -> list[Curve]:
    """Return the panels for which the run logged numbers; none where there is no run beside the checkpoint.

    Args:
        checkpoint: a run's model folder.
        name: the checkpoint's, beside each panel's title.
    """
    path = checkpoint.resolve().parent / METRICS_FILE
    if not path.is_file():
        return []
    rows = _rows(path)
    curves = []
    for title, lines in PANELS:
        found = {name: _points(rows, kind, key) for name, (kind, key) in lines.items()}
        series = {name: points for name, points in found.items() if points}
        if series:
            curves.append(
                Curve(title, tuple(series), line_chart(series, "optimiser steps", f"{title} over training"), name)
            )
    return curves


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows; a last line that a running training has not finished is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return [row for row in rows if isinstance(row, dict)]


def _points(rows: Sequence[dict[str, Any]], kind: str, key: str) -> list[tuple[float, float]]:
    """Return (step, value), thinned evenly to `MAX_POINTS`, the last one kept."""
    points = [
        (float(row["step"]), float(row[key])) for row in rows if row.get("kind") == kind and row.get(key) is not None
    ]
    if len(points) <= MAX_POINTS:
        return points
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(number * stride)] for number in range(MAX_POINTS)]
