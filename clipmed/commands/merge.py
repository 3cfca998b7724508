"""Merge checkpoints into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clipmed.commands.output import print_facts, print_json
from clipmed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Merge checkpoints of one architecture and start into one: a point between two, or the mean of several.

    With --alpha, a point on the line from the first (0) to the second (1): between a model and its fine-tuned version
    one of 0.5 often keeps most of both. Without, their mean: a soup. The result's card and merge.json name the
    parents. A parent's calibration is not taken over.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """two or more: folders, hf-hub:org/name[@revision], OpenCLIP's MODEL:TAG, or URLs of folders"""
    out: Path
    """the folder to write; one that is there already is replaced only if it is a merge"""
    alpha: float | None = None
    """share of the second of two checkpoints, 0 to 1"""
    weights: tuple[float, ...] = ()
    """one share a checkpoint, with the sum 1; equal ones if not given"""
    json: bool = False
    """print the result as JSON"""

    def __post_init__(self) -> None:
        if self.alpha is not None and (len(self.checkpoints) != 2 or self.weights):
            raise ConfigError(
                f"alpha: got it for {len(self.checkpoints)} checkpoints"
                + (" beside weights" if self.weights else "")
                + "; allowed: for two, without weights; give --weights for others"
            )


def run(command: Command) -> None:
    """Merge, and print where the result is."""
    from clipmed.checkpoints import checkpoint_digest
    from clipmed.merging import interpolate, soup

    if command.alpha is not None:
        base, tuned = command.checkpoints
        folder = interpolate(base, tuned, command.alpha, command.out)
    else:
        folder = soup(command.checkpoints, command.out, command.weights or None)
    facts = {"folder": str(folder), "digest": checkpoint_digest(folder), "parents": list(command.checkpoints)}
    if command.json:
        print_json(facts)
    else:
        print_facts(facts | {"parents": ", ".join(command.checkpoints)})
