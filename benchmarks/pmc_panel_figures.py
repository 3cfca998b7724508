"""Draws compound figures of known layout, with the traps that published ones have, and figures that are one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipmed.images import ArrayHWC
from dataset_builders.figures.panel_boxes import Box, Panel
from dataset_builders.phantoms.drawing import ANATOMIES, draw_phantom

PICTURE_SIDE = 256  # phantoms are drawn at this size and scaled to their panels
NUM_PICTURES = 24
MARKS = ("{}", "({})", "{})", "{}.")
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFigure:
    """A figure, shape (H, W, 3), and its panels: letters are "" where none is drawn. `traits` name what is special."""

    image: ArrayHWC
    panels: list[Panel]
    traits: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """What all panels of a figure share."""

    ground: int
    gutter: int
    place: str
    """where letters stand: tl, tr, bl, br inside, outside, none"""
    mark: str
    upper: bool
    height: int
    face: ImageFont.FreeTypeFont
    plots: float
    """share of panels that are plots"""
    boxed: bool
    """whether letters stand on a plain square"""


class FigureDrawer:
    """Draws figures; the n-th figure of a seed is always the same."""

    def __init__(self, seed: int, num_pictures: int = NUM_PICTURES, fonts: Sequence[Path] = ()) -> None:
        """`fonts` are TrueType files for the letters; without any, they are in the face that Pillow carries."""
        self._seed = seed
        self._fonts = fonts
        modalities = sorted(ANATOMIES)
        self._pictures = [
            draw_phantom(modalities[n % len(modalities)], "normal", np.random.default_rng([seed, n]), PICTURE_SIDE)
            for n in range(num_pictures)
        ]

    def compound(self, number: int) -> DrawnFigure:
        """Return a figure of two to sixteen panels."""
        rng = np.random.default_rng([self._seed, 1, number])
        style = _style(rng, self._fonts)
        boxes, size = _layout(rng, style)
        page = Image.new("RGB", size, (style.ground,) * 3)
        alphabet = "ABCDEFGHIJKLMNOP" if style.upper else "abcdefghijklmnop"
        panels = []
        for letter, box in zip(alphabet, boxes, strict=False):
            plot = style.ground == 255 and rng.random() < style.plots
            drawn = _draw_plot(page, box, rng) if plot else self._paste(page, box, rng)
            if style.place != "none":
                _write_letter(page, style, drawn, style.mark.format(letter))
            panels.append(Panel(box=drawn, letter="" if style.place == "none" else letter))
        traits = {f"letters {style.place}", f"ground {style.ground}", "gutter 1-3" if style.gutter < 4 else "gutter 4+"}
        traits |= {"plots" if style.plots else "pictures"}
        return DrawnFigure(image=_compressed(page, rng), panels=panels, traits=frozenset(traits))

    def single(self, number: int) -> DrawnFigure:
        """Return a figure of one panel: a picture with or without borders and words, or a plot."""
        rng = np.random.default_rng([self._seed, 2, number])
        kind = ("picture", "plot", "white border", "black border", "words below", "two objects")[number % 6]
        width, height = (int(side) for side in rng.integers(300, 1000, 2))
        page = Image.new("RGB", (width, height), (0, 0, 0) if kind in ("black border", "two objects") else (255,) * 3)
        edge = 0 if kind == "picture" else int(rng.integers(5, 60))
        box = (edge, edge, width - edge, height - edge - (40 if kind == "words below" else 0))
        if kind == "plot":
            _draw_plot(page, box, rng)
        elif kind == "two objects":
            _draw_objects(page, rng)
        else:
            self._paste(page, box, rng)
        if kind == "words below":
            face = ImageFont.load_default(20)
            ImageDraw.Draw(page).text((edge, box[3] + 8), "Figure 2. A scan of patient B", fill=0, font=face)
        whole = Panel(box=(0, 0, width, height))
        return DrawnFigure(image=_compressed(page, rng), panels=[whole], traits=frozenset({f"single {kind}"}))

    def _paste(self, page: Image.Image, box: Box, rng: Rng) -> Box:
        picture = Image.fromarray(self._pictures[int(rng.integers(len(self._pictures)))])
        page.paste(picture.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC), box[:2])
        return box


def _style(rng: Rng, fonts: Sequence[Path]) -> _Style:
    height = int(rng.integers(16, 34))
    ground = int(rng.choice([255, 255, 255, 255, 0, 128]))
    return _Style(
        ground=ground,
        gutter=int(rng.choice([1, 2, 3, 4, 6, 10, 16, 24, 40])),
        place=str(rng.choice(["tl", "tl", "tr", "bl", "br", "outside", "outside", "none"])),
        mark=str(rng.choice(MARKS)),
        upper=bool(rng.random() < 0.6),
        height=height,
        face=ImageFont.truetype(fonts[int(rng.integers(len(fonts)))], height) if fonts else _own_face(height),
        plots=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
        boxed=bool(rng.random() < 0.3),
    )


def _own_face(height: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(height)
    assert isinstance(face, ImageFont.FreeTypeFont)
    return face


def _layout(rng: Rng, style: _Style) -> tuple[list[Box], tuple[int, int]]:
    """Return boxes in reading order, room for letters that stand outside left above each, and the figure's size."""
    head = round(style.height * 1.3) if style.place == "outside" else 0
    gap = max(style.gutter, 14 if style.plots else 1)
    rows, columns = (int(count) for count in rng.integers(1, 5, 2))
    if rows * columns == 1:
        columns = 2
    side = 1000 // max(rows, columns)
    widths = [int(side * rng.uniform(0.65, 1.0)) for _ in range(columns)]
    heights = [int(side * rng.uniform(0.65, 1.0)) for _ in range(rows)]
    nested = rows > 1 and columns > 1 and rng.random() < 0.3
    margin = int(rng.choice([0, 8]))
    boxes = []
    top = margin
    for height in heights:
        left = margin
        for width in widths:
            boxes.append((left, top + head, left + width, top + head + height))
            left += width + gap
        top += head + height + gap
    size = (margin + sum(widths) + gap * (columns - 1) + margin, top - gap + margin)
    if nested:  # the first column is one tall panel
        tall = (boxes[0][0], boxes[0][1], boxes[0][2], boxes[-1][3])
        boxes = [tall, *(box for index, box in enumerate(boxes) if index % columns)]
    return boxes, size


def _write_letter(page: Image.Image, style: _Style, box: Box, text: str) -> None:
    """Write a letter into a corner of a panel, or above its left corner."""
    draw = ImageDraw.Draw(page)
    left, top, right, bottom = (round(edge) for edge in draw.textbbox((0, 0), text, font=style.face))
    width, height, pad = right - left, bottom - top, 5
    if style.place == "outside":
        x, y, ground = box[0], box[1] - height - 4, style.ground
    else:
        x = box[0] + pad if style.place.endswith("l") else box[2] - pad - width
        y = box[1] + pad if style.place.startswith("t") else box[3] - pad - height
        ground = int(np.asarray(page.crop((x, y, x + width, y + height)).convert("L")).mean())
    fill = 0 if ground > 127 else 255
    if style.boxed and style.place != "outside":
        frame = (x - 3, y - 3, x + width + 3, y + height + 3)
        draw.rectangle(frame, fill=(255 - fill,) * 3)
    draw.text((x - left, y - top), text, fill=(fill,) * 3, font=style.face)


def _draw_plot(page: Image.Image, box: Box, rng: Rng) -> Box:
    """Draw axes, ticks with numbers, axis titles, and bars, lines or points; return the box of all that is drawn."""
    draw = ImageDraw.Draw(page)
    face = ImageFont.load_default(11)
    left, top, right, bottom = box[0] + 34, box[1] + 8, box[2] - 6, box[3] - 32
    colour = tuple(int(value) for value in rng.integers(0, 200, 3))
    if rng.random() < 0.4:
        draw.rectangle((left, top, right, bottom), outline=(0, 0, 0))
    draw.line((left, top, left, bottom, right, bottom), fill=(0, 0, 0), width=int(rng.integers(1, 3)))
    for tick in range(5):
        x, y = left + (right - left) * tick // 5, bottom - (bottom - top) * tick // 5
        draw.line((left - 4, y, left, y), fill=(0, 0, 0))
        draw.text((left - 20, y - 6), f"{tick * 5}", fill=(0, 0, 0), font=face)
        draw.text((x, bottom + 4), f"{tick}", fill=(0, 0, 0), font=face)
    draw.text(((left + right) // 2 - 20, bottom + 18), "Time (s)", fill=(0, 0, 0), font=face)
    points = [(left + (right - left) * n // 9, int(rng.integers(top + 4, bottom - 4))) for n in range(1, 9)]
    kind = rng.integers(3)
    if kind == 0:
        for x, y in points:
            draw.rectangle((x - (right - left) // 30, y, x + (right - left) // 30, bottom), fill=colour)
    elif kind == 1:
        draw.line(points, fill=colour, width=2)
    else:
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), outline=colour)
    ink = np.asarray(page.crop(box).convert("L")) < 245
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return (
        box[0] + int(columns[0]),
        box[1] + int(rows[0]),
        box[0] + int(columns[-1]) + 1,
        box[1] + int(rows[-1]) + 1,
    )


def _draw_objects(page: Image.Image, rng: Rng) -> None:
    """Draw two bright bodies on black, as two limbs in one scan."""
    draw, (width, height) = ImageDraw.Draw(page), page.size
    for middle in (width // 4, 3 * width // 4):
        half = int(width * rng.uniform(0.12, 0.2))
        draw.ellipse((middle - half, height // 8, middle + half, 7 * height // 8), fill=(150, 150, 150))
        draw.ellipse((middle - half // 3, height // 4, middle + half // 3, height // 2), fill=(230, 230, 230))


def _compressed(page: Image.Image, rng: Rng) -> ArrayHWC:
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
    return np.asarray(Image.open(buffer).convert("RGB"))
