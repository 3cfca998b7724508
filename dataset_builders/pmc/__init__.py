"""PubMed Central archives into spools: figures with captions, mentions, licence and provenance."""

from __future__ import annotations

from dataset_builders.pmc.build import build_pmc
from dataset_builders.pmc.config import PmcConfig

__all__ = ["PmcConfig", "build_pmc"]
