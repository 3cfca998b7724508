"""Settings of packing: what a shard set keeps of its spools, and how it is split, shuffled and cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipmed.configuration import to_dict
from clipmed.errors import ConfigError

MAX_PHASH_BITS = 8  # more would need thousands of tables to search; see shards/search.py


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig:
    """What a shard set keeps of its spools, and how it is split, shuffled and cut."""

    license_groups: tuple[Literal["commercial", "noncommercial", "other"], ...] = ("commercial", "noncommercial")
    """licence groups to keep: commercial, noncommercial, other"""
    figure_kinds: tuple[Literal["medical", "plot", "diagram", "other"], ...] = ()
    """kinds of figures to keep; all if none is given. Samples whose builder tells no kind are kept"""
    caption_languages: tuple[str, ...] = ()
    """languages of the caption to keep, as ISO 639-1 codes; all if none is given. Unknown ones are kept"""
    parts: Literal["all", "figures", "panels"] = "all"
    """figures: no panels. panels: of figures that were cut into panels, the panels and not the whole"""
    decontaminate: tuple[Path, ...] = ()
    """evaluation sets to keep out of every split: files of `shards fingerprint`, packed sets, or lists of ids"""
    decontaminate_groups: bool = True
    """drop the whole article, patient or other group of a sample that is in an evaluation set"""
    val_fraction: float = 0.05
    """share of the groups without an official split that goes to val"""
    test_fraction: float = 0.1
    """share of the groups without an official split that goes to test"""
    dedupe: Literal["exact", "near", "none"] = "exact"
    """exact: of images with equal bytes one is kept. near: of images of the same picture too; decodes every image.
    none: all are kept, always in one split where none is official"""
    phash_bits: int = 6
    """most differing bits of the perceptual hashes of two images that are then compared by their pixels"""
    min_correlation: float = 0.8
    """least correlation of the local detail of two images that show the same picture"""
    caption_duplicates: Literal["keep", "drop"] = "keep"
    """drop: samples whose free texts are all held by a sample of another image"""
    captions: tuple[Path, ...] = ()
    """caption stores whose captions join the samples that they were made for"""
    caption_join: Literal["add", "replace"] = "add"
    """add: captions of the stores stand beside template captions, and rewrites beside native ones. replace: they take
    their place; what the stores have nothing for stays. With few captions a class, replace loses variety"""
    caption_models: tuple[str, ...] = ()
    """captioners whose captions are taken from the stores, as they are named there; all if none is given"""
    captions_per_sample: int = 8
    """most captions of the stores that a sample takes for its facts and its image, and most rewrites of a text"""
    max_linked_groups: int = 16
    """an image shared by more groups than this links none of them (only a repeat is dropped; not with dedupe none)"""
    seed: int = 0
    """seed of the split and of the shuffle"""
    samples_per_shard: int = 1000
    """most samples in a shard"""
    megabytes_per_shard: int = 512
    """most image bytes in a shard, in MB; a single larger image gets a shard of its own"""

    def __post_init__(self) -> None:
        if not self.license_groups:
            raise ConfigError("license_groups: got none; allowed: one or more of commercial, noncommercial, other")
        fractions = (self.val_fraction, self.test_fraction)
        if not (min(fractions) >= 0 and sum(fractions) < 1):
            raise ConfigError(
                f"val_fraction, test_fraction: got {self.val_fraction}, {self.test_fraction}; "
                "allowed: 0 or more each, below 1 together; lower one of them"
            )
        for name in ("samples_per_shard", "megabytes_per_shard", "max_linked_groups", "captions_per_sample"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")
        if not 0 <= self.phash_bits <= MAX_PHASH_BITS:
            raise ConfigError(f"phash_bits: got {self.phash_bits}; allowed: 0 to {MAX_PHASH_BITS}")
        if not 0 < self.min_correlation <= 1:
            raise ConfigError(f"min_correlation: got {self.min_correlation}; allowed: above 0, up to 1")
        for what in ("decontaminate", "captions"):
            self._check_names(what)

    def _check_names(self, what: str) -> None:
        names = [path.name for path in getattr(self, what)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{what}: two files are called {twice[0]}; give each a name of its own")

    def portable(self) -> dict[str, Any]:
        """Return the settings as plain data without the folders of lists and stores: what a manifest holds."""
        names = {what: [path.name for path in getattr(self, what)] for what in ("decontaminate", "captions")}
        return {**to_dict(self), **names}
