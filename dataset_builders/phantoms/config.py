"""Settings of the phantoms: how many, how large, from which seed."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """How many phantoms to draw. The same settings give the same bytes, on any number of workers."""

    seed: int = 0
    """seed of everything that is drawn"""
    size: int = 96
    """side of the images, in pixels"""
    train_per_class: int = 80
    """images of each modality and finding in the training split"""
    val_per_class: int = 8
    """the same in the validation split"""
    test_per_class: int = 24
    """the same in the test split; combinations kept for evaluation have images in this split alone"""
    articles: int = 120
    """synthetic articles, half of them in each of PubMed Central's layouts"""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """where the drawing runs"""

    def __post_init__(self) -> None:
        if self.size < 48:
            raise ConfigError(f"size: got {self.size}; allowed: 48 or more, or findings cannot be seen")
        if min(self.train_per_class, self.val_per_class, self.test_per_class) < 1:
            raise ConfigError("train_per_class, val_per_class and test_per_class: allowed: 1 or more each")
        if self.articles < 16:
            raise ConfigError(f"articles: got {self.articles}; allowed: 16 or more, since some carry planted defects")

    def identity(self) -> dict[str, int]:
        """Return the settings that decide the bytes."""
        names = ("seed", "size", "train_per_class", "val_per_class", "test_per_class", "articles")
        return {name: getattr(self, name) for name in names}
