"""Curves: of the training run that a checkpoint belongs to, and of scores along a sweep or over a run's steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from zeroshot_eval.figures import line_chart
from zeroshot_eval.naming import metric_name, modality_name

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "curve.json"
CURVE_METRIC = "balanced_accuracy"
AXES = {"alpha": "share of the way from the base (0) to the tuned checkpoint (1)", "step": "optimiser steps"}
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


def score_curves(out: Path, checkpoints: Sequence[str]) -> list[Curve]:
    """Return the means over modalities, then each modality's, along a sweep's or a run's checkpoints.

    Args:
        out: an evaluation's folder; a sweep or a run's curve left `curve.json` there.
        checkpoints: the names of those that the page is about: a curve over others is not of this page.
    """
    path = out / CURVE_FILE
    if not path.is_file():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    if [point["checkpoint"] for point in data["points"]] != list(checkpoints):
        return []
    rows = [row for row in data["rows"] if row["metric"] == CURVE_METRIC]
    overall = [row for row in rows if row["level"] == "overall"]
    modalities = dict.fromkeys(row["modality"] for row in rows if row["level"] == "modality")
    panels = {"Mean over modalities": overall} | {
        modality_name(modality): [row for row in rows if row["level"] == "modality" and row["modality"] == modality]
        for modality in modalities
    }
    return [_score_curve(title, many, data["axis"]) for title, many in panels.items() if len(many) > 1]


def _score_curve(title: str, rows: Sequence[dict[str, Any]], axis: str) -> Curve:
    rows = sorted(rows, key=lambda row: float(row[axis]))
    name = metric_name(CURVE_METRIC)
    series = {name: [(float(row[axis]), float(row["value"])) for row in rows]}
    if all(row["chance"] is not None for row in rows):
        series["chance"] = [(float(row[axis]), float(row["chance"])) for row in rows]
    band = [(float(row[axis]), row["low"], row["high"]) for row in rows if None not in (row["low"], row["high"])]
    chart = line_chart(series, AXES[axis], f"{title}: {name} by {axis}", {name: band} if band else None)
    return Curve(title, tuple(series), chart, f"n {rows[0]['n']:,}; band: 95 % interval")


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
