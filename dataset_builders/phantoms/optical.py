"""Anatomies in colour: stained tissue, eye ground, skin, and the lumen that an endoscope sees."""

from __future__ import annotations

import math

import numpy as np

from dataset_builders.phantoms.brush import Brush, Mask, Picture, Point, arc, lighten, paint
from dataset_builders.phantoms.scene import Palette, Scene

NUCLEUS = (0.36, 0.2, 0.52)


def draw_histopathology(brush: Brush) -> Scene:
    """Draw pink stroma with purple nuclei strewn over it."""
    picture = brush.canvas((0.93, 0.72, 0.82))
    picture += (brush.texture(7) * np.float32(0.06))[..., None] * np.array((0.6, 1.0, 0.7), dtype=np.float32)
    fibres = np.clip(np.sin((brush.y * 7 + brush.texture(4) * 4) * 2), 0, 1).astype(np.float32)
    paint(picture, fibres, (0.86, 0.55, 0.72), 0.4)
    everywhere = np.ones_like(brush.x)
    sow_nuclei(picture, brush, everywhere, int(brush.rng.integers(60, 95)))
    centres = brush.ellipse((0, 0), (0.55, 0.55))
    palette = Palette(
        rim=(0.3, 0.14, 0.5),
        core=(0.99, 0.96, 0.98),
        dots=(0.07, 0.05, 0.22),
        line=(1.0, 0.99, 1.0),
        fringe=(0.8, 0.5, 0.66),
        blood=(0.82, 0.06, 0.1),
    )
    return Scene(picture=picture, organ=everywhere, centres=centres, palette=palette)


def sow_nuclei(picture: Picture, brush: Brush, where: Mask, number: int) -> None:
    """Draw nuclei at random points of the mask, each with a paler middle, in place."""
    centres = brush.spots(where, number)
    radii = brush.radii(0.035, 0.06, number)
    paint(picture, brush.dots(centres, radii), NUCLEUS, 0.9)
    paint(picture, brush.dots(centres, radii * 0.4), (0.5, 0.34, 0.66), 0.7)


def draw_fundus(brush: Brush) -> Scene:
    """Draw an eye ground: orange disc on black, bright optic disc, branching vessels, dark macula."""
    picture = brush.canvas((0.0, 0.0, 0.0))
    disc = brush.ellipse((0, 0), (0.94, 0.94), soft=0.03)
    warm = brush.between(0.0, 0.08)
    paint(picture, disc, (0.86 - warm, 0.42 + warm, 0.16))
    picture *= (1.0 - 0.4 * np.hypot(brush.x, brush.y) ** 2).clip(0, 1)[..., None]
    lighten(picture, disc * brush.texture(6), 0.025)
    side = brush.sign()
    nerve: Point = (side * brush.between(0.42, 0.52), brush.between(-0.08, 0.08))
    paint(picture, brush.ellipse((-side * 0.22, 0.04), (0.16, 0.16), soft=0.2), (0.5, 0.17, 0.06), 0.7)
    vessels, branches = _vessels(brush, nerve, side)
    paint(picture, brush.strokes(vessels, 0.05) * disc, (0.5, 0.07, 0.05), 0.85)
    paint(picture, brush.strokes(branches, 0.022) * disc, (0.55, 0.1, 0.06), 0.8)
    paint(picture, brush.ellipse(nerve, (0.14, 0.16), soft=0.04), (0.98, 0.82, 0.45))
    paint(picture, brush.ellipse(nerve, (0.06, 0.07), soft=0.04), (1.0, 0.95, 0.75))
    centres = brush.ellipse((-side * 0.2, 0), (0.42, 0.5))
    palette = Palette(
        mass=(0.22, 0.2, 0.22),
        rim=(0.99, 0.93, 0.55),
        core=(0.32, 0.1, 0.06),
        dots=(1.0, 0.97, 0.7),
        line=(0.16, 0.02, 0.02),
        fringe=(0.96, 0.82, 0.5),
    )
    return Scene(picture=picture, organ=disc, centres=centres, palette=palette)


def _vessels(brush: Brush, nerve: Point, side: float) -> tuple[list[list[Point]], list[list[Point]]]:
    """Return four arcades that leave the optic disc around the macula, and their finer branches."""
    arcades, branches = [], []
    for up in (-1.0, 1.0):
        for reach in (brush.between(0.9, 1.2), brush.between(-0.5, -0.3)):
            bend, wiggle = brush.between(0.5, 0.7), brush.between(0, 6.3)
            path = [
                (
                    nerve[0] - side * reach * t,
                    nerve[1] + up * bend * math.sin(min(1.0, 1.6 * t) * 1.6) + 0.03 * math.sin(9 * t + wiggle),
                )
                for t in np.linspace(0, 1, 14).tolist()
            ]
            arcades.append(path)
            for start in (5, 8, 11):
                x, y = path[start]
                dx, dy = brush.between(-0.3, 0.3), up * brush.between(-0.35, 0.35)
                branches.append([(x, y), (x + dx * 0.6, y + dy * 0.4), (x + dx, y + dy)])
    return arcades, branches


def draw_dermatology(brush: Brush) -> Scene:
    """Draw skin of some tone with fine creases, a few freckles and hairs."""
    tone = brush.between(0.0, 1.0)
    light, dark = np.array((0.95, 0.79, 0.7)), np.array((0.68, 0.48, 0.37))
    skin = light + (dark - light) * tone
    picture = brush.canvas((float(skin[0]), float(skin[1]), float(skin[2])))
    lighten(picture, brush.texture(5) + 0.6 * brush.texture(30), 0.04)
    everywhere = np.ones_like(brush.x)
    freckles = int(brush.rng.integers(0, 5))
    spots = brush.dots(brush.spots(everywhere, freckles), brush.radii(0.02, 0.04, freckles))
    paint(picture, spots, (0.5, 0.3, 0.2), 0.5)
    centres = brush.ellipse((0, 0), (0.55, 0.55))
    palette = Palette(
        mass=(0.27, 0.14, 0.09),
        rim=(0.85, 0.22, 0.24),
        core=(0.98, 0.85, 0.78),
        dots=(1.0, 0.98, 0.92),
        line=(0.45, 0.02, 0.05),
        fringe=(0.98, 0.72, 0.66),
        blood=(0.4, 0.02, 0.12),
    )
    return Scene(picture=picture, organ=everywhere, centres=centres, palette=palette)


def lay_hairs(picture: Picture, brush: Brush) -> None:
    """Lay thin dark hairs over a skin picture, in place; comes after the findings."""
    lean = brush.between(-0.6, 0.6)
    hairs = []
    for _ in range(int(brush.rng.integers(3, 9))):
        x, y = brush.between(-1, 1), brush.between(-1, 1)
        bend, length = brush.between(-0.12, 0.12), brush.between(0.3, 0.6)
        hairs.append([(x, y), (x + lean * length / 2 + bend, y + length / 2), (x + lean * length, y + length)])
    paint(picture, brush.strokes(hairs, 0.012), (0.17, 0.11, 0.08), 0.75)


def draw_endoscopy(brush: Brush) -> Scene:
    """Draw a wet pink tube: dark lumen off the middle, folds around it, glints, round field of view."""
    lumen: Point = (brush.between(-0.25, 0.25), brush.between(-0.25, 0.25))
    distance = np.hypot(brush.x - lumen[0], brush.y - lumen[1]) + 0.04 * brush.texture(4)
    light = np.clip(distance * 1.5, 0, 1) ** 0.8
    picture = brush.canvas((0.92, 0.5, 0.45)) * light[..., None].astype(np.float32)
    lighten(picture, brush.texture(8), 0.03)
    folds = [
        arc(lumen, (radius, radius * brush.between(0.85, 1.15)), start, start + brush.between(3.5, 5.5), 24)
        for radius, start in ((0.3, brush.between(0, 6)), (0.52, brush.between(0, 6)), (0.8, brush.between(0, 6)))
    ]
    paint(picture, brush.strokes(folds, 0.09), (0.66, 0.26, 0.25), 0.5)
    paint(picture, brush.strokes(folds, 0.035), (1.0, 0.68, 0.62), 0.6)
    view = brush.ellipse((0, 0), (0.98, 0.98), soft=0.03)
    glints = brush.dots(brush.spots(view, 3), brush.radii(0.02, 0.035, 3))
    paint(picture, glints, (1.0, 0.97, 0.95), 0.8)
    picture *= view[..., None]
    around = brush.ellipse((0, 0), (0.6, 0.6)) * (distance > 0.3)
    palette = Palette(
        mass=(1.0, 0.8, 0.64),
        rim=(0.98, 0.92, 0.68),
        core=(0.36, 0.05, 0.07),
        dots=(1.0, 0.99, 0.92),
        line=(0.3, 0.0, 0.03),
        fringe=(1.0, 0.78, 0.72),
        fluid=(0.78, 0.74, 0.28),
        blood=(0.45, 0.0, 0.02),
    )
    return Scene(picture=picture, organ=view, centres=around.astype(np.float32), palette=palette)
