"""What an anatomy hands to the findings: the picture, where findings may lie, and the colours they take there."""

from __future__ import annotations

from dataclasses import dataclass

from dataset_builders.phantoms.brush import Colour, Mask, Picture, grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colour of each finding in one modality."""

    mass: Colour = grey(0.9)
    rim: Colour = grey(0.95)
    core: Colour = grey(0.06)
    dots: Colour = grey(1.0)
    line: Colour = grey(0.02)
    fringe: Colour = grey(0.85)
    fluid: Colour = grey(0.8)
    blood: Colour = (0.42, 0.01, 0.03)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A drawn anatomy: `organ` clips the findings, `centres` says where their middle may lie."""

    picture: Picture
    organ: Mask
    centres: Mask
    palette: Palette
