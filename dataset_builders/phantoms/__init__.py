"""Phantoms: images drawn by a program, in eight modalities, as labelled datasets and as synthetic articles.

They are made to run and to test the whole road with. They have no medical meaning, and neither has a score on them.
"""

from __future__ import annotations

from dataset_builders.phantoms.config import PhantomConfig
from dataset_builders.phantoms.write import write_phantoms

__all__ = ["PhantomConfig", "write_phantoms"]
