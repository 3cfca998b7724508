"""How much a score depends on the words of the prompts.

Legend: n images, P prompts, C classes, T templates, D dims. The images are compared with every prompt once; any set of
prompts is then arithmetic on those cosines: the classifier row of a class is the mean of its prompts, normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Score = Callable[[Singles], float]

SAMPLES = 50
CURVE_DRAWS = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """Scores of several sets of prompts: their median and quartiles."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; their difference is the interquartile range."""
        low, high = np.quantile(self.values, [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class PromptSensitivity:
    """What one task scores with other choices among its prompts."""

    ensemble: float
    """with all prompts, as the task is scored"""
    templates: dict[int, float]
    """with one template alone, by its number; empty where classes have no templates in common"""
    samples: Spread
    """with one prompt a class, drawn at random"""
    curve: dict[int, Spread] = field(repr=False)
    """with so many prompts a class, drawn at random; a class that has fewer uses all of its own"""


@dataclass(frozen=True, slots=True)
class PromptTable:
    """The prompts of a task, class after class, and their cosines with the images."""

    cosines: Singles = field(repr=False)
    """shape (n, P)"""
    products: Singles = field(repr=False)
    """cosines between prompts, shape (P, P): they give the length of a mean"""
    counts: tuple[int, ...]
    """prompts of each class; they sum to P"""

    @classmethod
    def of(cls, images: Singles, prompts: Singles, counts: Sequence[int]) -> PromptTable:
        """Compare unit-length images (n, D) with unit-length prompts (P, D)."""
        fewest = min(counts, default=0)
        if sum(counts) != len(prompts) or fewest < 1:
            raise ConfigError(
                f"prompts: got {len(prompts)} for counts that sum to {sum(counts)}, the fewest {fewest}; allowed: "
                "counts of 1 or more that sum to the number of prompts"
            )
        return cls(images @ prompts.T, prompts @ prompts.T, tuple(counts))

    def class_cosines(self, chosen: Sequence[Ints]) -> Singles:
        """Return the cosines of the images with the ensemble of each class's chosen prompts, shape (n, C)."""
        columns = []
        for places in chosen:
            length = np.sqrt(self.products[np.ix_(places, places)].sum(dtype=np.float64)) / len(places)
            columns.append(self.cosines[:, places].mean(axis=1) / np.float32(length))
        return np.stack(columns, axis=1)

    @property
    def places(self) -> list[Ints]:
        """The prompts of each class."""
        ends = np.cumsum(self.counts)
        return [np.arange(end - count, end) for end, count in zip(ends, self.counts, strict=True)]


def prompt_sensitivity(
    table: PromptTable, score: Score, *, template_of_prompt: Ints | None = None, samples: int = SAMPLES, seed: int = 0
) -> PromptSensitivity:
    """Score other choices among the prompts of a task.

    Args:
        table: prompts and images.
        score: maps cosines (n, C) to the metric; for example

            lambda cosines: classification_statistic(targets, cosines, scale, only=(name,))(ones)[name].item()
        template_of_prompt: the number of the template that each prompt was made of, -1 for none, shape (P,). If not
            given and all classes have equally many prompts, their first prompts make template 0, and so on.
        samples: sets of one prompt a class, and the same sets for the same seed, whatever the checkpoint.
        seed: of the choice of prompts.
    """
    rng = np.random.default_rng(seed)
    places = table.places

    def draw(size: int) -> float:
        chosen = [np.sort(rng.choice(own, min(size, len(own)), replace=False)) for own in places]
        return score(table.class_cosines(chosen))

    ensemble = score(table.class_cosines(places))
    singles = Spread(tuple(draw(1) for _ in range(samples)))
    curve = {1: singles}
    for size in _sizes(max(table.counts)):
        curve[size] = Spread(tuple(draw(size) for _ in range(CURVE_DRAWS)))
    if max(table.counts) > 1:
        curve[max(table.counts)] = Spread((ensemble,))
    templates = {
        number: score(table.class_cosines(chosen)) for number, chosen in _by_template(table, template_of_prompt).items()
    }
    return PromptSensitivity(ensemble, templates, singles, curve)


def _sizes(most: int) -> list[int]:
    """Return 2, 4, 8 … below the most prompts that a class has."""
    return [2**power for power in range(1, most.bit_length()) if 2**power < most]


def _by_template(table: PromptTable, template_of_prompt: Ints | None) -> dict[int, list[Ints]]:
    """Return each class's prompts by template, for the templates that every class has."""
    if template_of_prompt is None:
        if len(set(table.counts)) > 1:
            return {}
        template_of_prompt = np.tile(np.arange(table.counts[0]), len(table.counts))
    if template_of_prompt.shape != (sum(table.counts),):
        raise ConfigError(
            f"template_of_prompt: got {len(template_of_prompt)} numbers; allowed: {sum(table.counts)}, one a prompt"
        )
    found = {}
    for number in np.unique(template_of_prompt[template_of_prompt >= 0]).tolist():
        chosen = [own[template_of_prompt[own] == number] for own in table.places]
        if all(len(places) for places in chosen):
            found[number] = chosen
    return found
