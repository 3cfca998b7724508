"""Anatomies in grey: chest radiograph, abdominal CT slice, brain MRI slice, ultrasound fan."""

from __future__ import annotations

import math

import cv2
import numpy as np

from dataset_builders.phantoms.brush import Brush, Mask, Picture, Point, arc, grey, lighten, paint
from dataset_builders.phantoms.scene import Palette, Scene


def draw_xray(brush: Brush) -> Scene:
    """Draw a chest: two dark lungs with ribs across them, spine, heart, clavicles and diaphragm."""
    picture = brush.canvas(grey(0.05))
    paint(picture, brush.ellipse((0, 0.35), (brush.between(0.95, 1.1), 1.45), soft=0.15), grey(brush.between(0.5, 0.6)))
    lungs = np.zeros_like(brush.x)
    centres = np.zeros_like(brush.x)
    tilt = brush.between(0.06, 0.14)
    for side in (-1.0, 1.0):
        middle, radii = (side * 0.44, brush.between(-0.1, 0.02)), (brush.between(0.3, 0.36), brush.between(0.62, 0.7))
        lungs = np.maximum(lungs, brush.ellipse(middle, radii, side * -tilt, soft=0.08))
        centres = np.maximum(centres, brush.ellipse(middle, (radii[0] * 0.5, radii[1] * 0.6), side * -tilt))
    paint(picture, lungs, grey(brush.between(0.14, 0.2)))
    ribs = [
        arc((side * 0.4, top), (0.46, 0.2), math.pi * 1.02, math.pi * 1.9)
        for side in (-1.0, 1.0)
        for top in np.linspace(-0.5, 0.6, 6).tolist()
    ]
    paint(picture, brush.strokes(ribs, 0.055), grey(0.6), 0.5)
    paint(picture, brush.ellipse((0.0, 0.2), (0.1, 1.3), soft=0.06), grey(0.78), 0.8)
    paint(picture, brush.ellipse((0.16, 0.3), (brush.between(0.25, 0.32), 0.3), 0.5, soft=0.1), grey(0.68), 0.85)
    collar = [[(side * 0.08, -0.62), (side * 0.42, -0.74), (side * 0.8, -0.8)] for side in (-1.0, 1.0)]
    paint(picture, brush.strokes(collar, 0.07), grey(0.75), 0.7)
    for side in (-1.0, 1.0):
        paint(picture, brush.ellipse((side * 0.45, 0.95), (0.45, 0.36), soft=0.08), grey(0.66), 0.9)
    palette = Palette(mass=grey(0.82), rim=grey(0.92), core=grey(0.03), fluid=grey(0.86))
    return Scene(picture=picture, organ=lungs, centres=centres, palette=palette)


def draw_ct(brush: Brush) -> Scene:
    """Draw an axial abdomen: fat, muscle wall with rib ends, vertebra, liver, spleen, kidneys, and the table below."""
    picture = brush.canvas(grey(0.01))
    wide, tall = brush.between(0.8, 0.88), brush.between(0.62, 0.7)
    table = arc((0, -0.4), (1.25, 1.24), 0.25 * math.pi, 0.75 * math.pi)
    paint(picture, brush.strokes([table], 0.04), grey(0.6))
    paint(picture, brush.ellipse((0, 0), (wide, tall), soft=0.03), grey(0.24))
    paint(picture, brush.ellipse((0, 0), (wide - 0.08, tall - 0.08), soft=0.03), grey(0.5))
    cavity = brush.ellipse((0, -0.03), (wide - 0.15, tall - 0.15), soft=0.04)
    paint(picture, cavity, grey(0.34))
    paint(picture, brush.blob((-0.32, -0.08), 0.36, 0.12) * cavity, grey(brush.between(0.5, 0.56)))
    paint(picture, brush.ellipse((0.46, 0.04), (0.2, 0.3), 0.3) * cavity, grey(0.52))
    for side in (-1.0, 1.0):
        paint(picture, brush.ellipse((side * 0.3, 0.26), (0.11, 0.14), side * 0.4), grey(0.62))
    paint(picture, brush.ellipse((0, 0.36), (0.15, 0.13), soft=0.03), grey(0.93))
    paint(picture, brush.ellipse((0, 0.47), (0.06, 0.05), soft=0.03), grey(0.4))
    paint(picture, brush.strokes([[(0, 0.5), (0, 0.6)]], 0.06), grey(0.9))
    angles = np.linspace(0.15, 0.85, 5).tolist() + np.linspace(1.15, 1.85, 5).tolist()
    ends = [arc((0, 0), (wide - 0.11, tall - 0.11), math.pi * (a - 0.03), math.pi * (a + 0.03), 4) for a in angles]
    paint(picture, brush.strokes(ends, 0.05), grey(0.95))
    lighten(picture, cavity * brush.texture(24), 0.03)
    centres = brush.ellipse((0, -0.08), (wide - 0.42, tall - 0.42))
    palette = Palette(mass=grey(0.1), rim=grey(0.9), fluid=grey(0.12), blood=grey(0.88))
    return Scene(picture=picture, organ=cavity, centres=centres, palette=palette)


def draw_mri(brush: Brush) -> Scene:
    """Draw an axial brain: bright scalp, dark skull, folded cortex, midline and two dark ventricles."""
    picture = brush.canvas(grey(0.01))
    wide, tall = brush.between(0.66, 0.74), brush.between(0.82, 0.9)
    paint(picture, brush.ellipse((0, 0), (wide, tall), soft=0.03), grey(0.85))
    paint(picture, brush.ellipse((0, 0), (wide - 0.06, tall - 0.06), soft=0.03), grey(0.04))
    brain = brush.ellipse((0, 0), (wide - 0.12, tall - 0.12), soft=0.03)
    white = brush.ellipse((0, 0), (wide - 0.24, tall - 0.24), soft=0.16)
    folds = np.abs(brush.texture(11))
    paint(picture, brain, grey(brush.between(0.38, 0.44)))
    paint(picture, white, grey(brush.between(0.56, 0.62)))
    paint(picture, brain * (1 - white) * np.clip(1.0 - folds * 6, 0, 1), grey(0.12))
    paint(picture, brush.strokes([[(0, 0.12 - tall), (0, -0.26)], [(0, 0.3), (0, tall - 0.12)]], 0.03), grey(0.15))
    width = brush.between(0.05, 0.09)
    for side in (-1.0, 1.0):
        horn = brush.ellipse((side * 0.13, -0.14), (width, 0.22), side * 0.35, soft=0.03)
        back = brush.ellipse((side * 0.15, 0.2), (width, 0.18), side * -0.45, soft=0.03)
        paint(picture, np.maximum(horn, back), grey(0.08))
    centres = brush.ellipse((0, 0), (wide - 0.36, tall - 0.4))
    palette = Palette(mass=grey(0.95), rim=grey(1.0), core=grey(0.1), fluid=grey(0.95), blood=grey(0.02))
    return Scene(picture=picture, organ=brain, centres=centres, palette=palette)


def draw_ultrasound(brush: Brush) -> Scene:
    """Draw a fan of layered, speckled tissue on black."""
    apex: Point = (0.0, -1.25)
    distance = np.hypot(brush.x - apex[0], brush.y - apex[1])
    angle = np.arctan2(brush.x - apex[0], brush.y - apex[1])
    opening = brush.between(0.6, 0.72)
    fan = _fan(distance, angle, opening)
    layers = np.interp(distance, np.linspace(0.3, 2.2, 14), brush.radii(0.26, 0.5, 14)).astype(np.float32)
    picture = np.repeat((layers + 0.05 * brush.texture(5))[..., None], 3, axis=2)
    for _ in range(2):
        depth = brush.between(0.5, 0.9)
        band = arc(apex, (depth, depth), math.pi / 2 - opening, math.pi / 2 + opening)
        paint(picture, brush.strokes([band], 0.05), grey(0.8), 0.7)
    centres = fan * (distance > 0.95) * (distance < 1.7) * (np.abs(angle) < opening - 0.22)
    palette = Palette(mass=grey(0.07), rim=grey(0.95), fluid=grey(0.02), line=grey(0.0), fringe=grey(0.9))
    return Scene(picture=picture, organ=fan, centres=centres.astype(np.float32), palette=palette)


def speckle(picture: Picture, brush: Brush, organ: Mask) -> None:
    """Multiply an ultrasound picture by speckle and cut it to the fan, in place; comes after the findings."""
    noise = np.hypot(brush.grain(), brush.grain())
    rayleigh = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.5 * brush.size / 96), dtype=np.float32)
    picture *= (0.35 + 0.52 * rayleigh)[..., None]
    picture *= organ[..., None]


def _fan(distance: Mask, angle: Mask, opening: float) -> Mask:
    near, far = np.clip((distance - 0.38) * 40, 0, 1), np.clip((2.1 - distance) * 40, 0, 1)
    fan: Mask = (near * far * np.clip((opening - np.abs(angle)) * 40, 0, 1)).astype(np.float32)
    return fan
