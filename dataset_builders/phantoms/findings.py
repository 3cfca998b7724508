"""Findings, drawn into any anatomy: large, plain to see, and varied in place, size, shape and contrast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from dataset_builders.phantoms.brush import Brush, Mask, lighten, paint
from dataset_builders.phantoms.optical import sow_nuclei
from dataset_builders.phantoms.scene import Scene

Painter = Callable[[Scene, Brush], None]


def paint_mass(scene: Scene, brush: Brush) -> None:
    """Paint one solid, round body with a soft highlight."""
    (x, y), radius = brush.spot(scene.centres), brush.between(0.22, 0.34)
    body = brush.blob((x, y), radius, 0.07) * scene.organ
    paint(scene.picture, body, scene.palette.mass, brush.between(0.88, 1.0))
    glow = brush.ellipse((x - radius * 0.3, y - radius * 0.3), (radius * 0.4, radius * 0.4), soft=radius * 0.6)
    lighten(scene.picture, glow * body, 0.12)


def paint_ring(scene: Scene, brush: Brush) -> None:
    """Paint a ring: a rim of one colour around a core of another."""
    centre, radius = brush.spot(scene.centres), brush.between(0.26, 0.38)
    outside = brush.blob(centre, radius, 0.05, soft=0.04) * scene.organ
    inside = brush.blob(centre, radius * brush.between(0.58, 0.68), 0.05, soft=0.04) * scene.organ
    paint(scene.picture, outside, scene.palette.rim)
    paint(scene.picture, inside, scene.palette.core, brush.between(0.85, 1.0))


def paint_dots(scene: Scene, brush: Brush) -> None:
    """Paint many small dots over the whole organ."""
    number = int(brush.rng.integers(26, 46))
    dots = brush.dots(brush.spots(scene.organ, number), brush.radii(0.03, 0.058, number))
    paint(scene.picture, dots, scene.palette.dots)


def paint_line(scene: Scene, brush: Brush) -> None:
    """Paint one long, slightly kinked gap with a fringe on both sides, across the organ."""
    x, y = brush.spot(scene.centres)
    angle, half = brush.between(0, math.pi), brush.between(0.55, 0.85)
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    path = []
    for t in np.linspace(-half, half, 6).tolist():
        kink = brush.between(-0.06, 0.06)
        path.append((x + along[0] * t + across[0] * kink, y + along[1] * t + across[1] * kink))
    width = brush.between(0.07, 0.1)
    paint(scene.picture, brush.strokes([path], width * 1.9) * scene.organ, scene.palette.fringe, 0.6)
    paint(scene.picture, brush.strokes([path], width) * scene.organ, scene.palette.line)


def paint_fluid(scene: Scene, brush: Brush) -> None:
    """Fill the organ with fluid up to a level."""
    _fill(scene, brush, scene.organ, brush.between(-0.05, 0.25))


def paint_blood(scene: Scene, brush: Brush) -> None:
    """Paint several ragged patches around a point."""
    x, y = brush.spot(scene.centres)
    patches = np.zeros_like(brush.x)
    for _ in range(int(brush.rng.integers(4, 7))):
        centre = (x + brush.between(-0.36, 0.36), y + brush.between(-0.36, 0.36))
        patches = np.maximum(patches, brush.blob(centre, brush.between(0.09, 0.19), 0.45, soft=0.04))
    paint(scene.picture, patches * scene.organ, scene.palette.blood, brush.between(0.85, 0.97))


def _fill(scene: Scene, brush: Brush, vessel: Mask, level: float) -> None:
    slope = math.tan(math.radians(brush.between(-5, 5)))
    below = np.clip((brush.y - level - slope * brush.x) * 25 + 0.5, 0, 1).astype(np.float32)
    edge = np.clip(1 - np.abs(brush.y - level - slope * brush.x) * 22, 0, 1).astype(np.float32)
    paint(scene.picture, below * vessel, scene.palette.fluid, brush.between(0.88, 0.97))
    paint(scene.picture, edge * vessel, scene.palette.fringe, 0.9)


def _fill_one_lung(scene: Scene, brush: Brush) -> None:
    lung = scene.organ * (brush.x * brush.sign() > 0.05)
    grown = np.maximum(lung, brush.ellipse((float(np.average(brush.x, weights=lung)), 0.5), (0.34, 0.4)))
    _fill(scene, brush, grown, brush.between(-0.15, 0.2))


def _fill_cyst(scene: Scene, brush: Brush) -> None:
    (x, y), radius = brush.spot(scene.centres), brush.between(0.3, 0.4)
    cyst = brush.blob((x, y), radius, 0.04, soft=0.04) * scene.organ
    paint(scene.picture, cyst, scene.palette.core)
    _fill(scene, brush, cyst, y + brush.between(-0.3, 0.3) * radius)


def _crowd_nuclei(scene: Scene, brush: Brush) -> None:
    nest = brush.blob(brush.spot(scene.centres), brush.between(0.36, 0.48), 0.1, soft=0.06)
    paint(scene.picture, nest, (0.62, 0.42, 0.7), 0.9)
    sow_nuclei(scene.picture, brush, nest, 150)


PAINTERS: Mapping[str, Painter] = {
    "mass": paint_mass,
    "ring_lesion": paint_ring,
    "calcifications": paint_dots,
    "linear_defect": paint_line,
    "fluid_level": paint_fluid,
    "haemorrhage": paint_blood,
}
OWN_PAINTERS: Mapping[tuple[str, str], Painter] = {
    ("xray", "fluid_level"): _fill_one_lung,
    ("mri", "fluid_level"): _fill_cyst,
    ("histopathology", "mass"): _crowd_nuclei,
}


def paint_finding(scene: Scene, brush: Brush, modality: str, finding: str) -> None:
    """Draw the finding into the scene, in place; `normal` draws nothing."""
    if finding == "normal":
        return
    painter = OWN_PAINTERS.get((modality, finding)) or PAINTERS[finding]
    painter(scene, brush)
