"""A phantom image from a modality, a finding and a seed: anatomy, finding, then the camera's own variation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from clipmed.images import ArrayHWC
from dataset_builders.phantoms import optical, radiology
from dataset_builders.phantoms.brush import Brush, Picture
from dataset_builders.phantoms.findings import paint_finding
from dataset_builders.phantoms.scene import Scene

ANATOMIES: Mapping[str, Callable[[Brush], Scene]] = {
    "xray": radiology.draw_xray,
    "ct": radiology.draw_ct,
    "mri": radiology.draw_mri,
    "ultrasound": radiology.draw_ultrasound,
    "histopathology": optical.draw_histopathology,
    "fundus": optical.draw_fundus,
    "dermatology": optical.draw_dermatology,
    "endoscopy": optical.draw_endoscopy,
}
GREY_MODALITIES = frozenset({"xray", "ct", "mri", "ultrasound"})
DARK_FRAMES = frozenset({"ct", "mri", "ultrasound", "fundus", "endoscopy"})  # black around the anatomy


def draw_phantom(modality: str, finding: str, rng: np.random.Generator, size: int) -> ArrayHWC:
    """Return one phantom image, shape (size, size, 3), RGB; the three channels are equal in grey modalities."""
    brush = Brush(rng, size)
    scene = ANATOMIES[modality](brush)
    paint_finding(scene, brush, modality, finding)
    if modality == "ultrasound":
        radiology.speckle(scene.picture, brush, scene.organ)
    elif modality == "dermatology":
        optical.lay_hairs(scene.picture, brush)
    border = cv2.BORDER_CONSTANT if modality in DARK_FRAMES else cv2.BORDER_REFLECT_101
    return _expose(scene.picture, brush, border, coloured=modality not in GREY_MODALITIES)


def _expose(picture: Picture, brush: Brush, border: int, *, coloured: bool) -> ArrayHWC:
    """Turn, shift, zoom, light and grain the picture a little, and make it 8-bit."""
    half = (brush.size - 1) / 2
    turn = cv2.getRotationMatrix2D((half, half), brush.between(-9, 9), brush.between(0.94, 1.08))
    turn[:, 2] += np.array([brush.between(-0.05, 0.05), brush.between(-0.05, 0.05)]) * brush.size
    moved = np.asarray(cv2.warpAffine(picture, turn, (brush.size, brush.size), borderMode=border), dtype=np.float32)
    lit = np.clip(moved, 0, 1) ** np.float32(math.exp(brush.between(-0.18, 0.18)))
    lit = lit * np.float32(brush.between(0.88, 1.06)) + np.float32(brush.between(-0.02, 0.03))
    if coloured:
        lit = lit * (1 + 0.02 * brush.rng.standard_normal(3, dtype=np.float32))
    lit = lit + np.float32(brush.between(0.01, 0.03)) * brush.grain()[..., None]
    exposed: ArrayHWC = np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)
    return exposed
