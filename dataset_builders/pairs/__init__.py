"""Lists of images with native captions into spools."""

from dataset_builders.pairs.build import build_pairs
from dataset_builders.pairs.config import PairsConfig

__all__ = ["PairsConfig", "build_pairs"]
