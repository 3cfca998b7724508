"""Linear and few-shot probes on cached embeddings: logistic regression, regularised by what validation says.

The test images are never looked at before the one time they are scored: no function here is given their labels, and
their features touch neither the scaling nor the choice of C. Legend: n images, D dims, C classes, R draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError, DataError
from zeroshot_eval.classification import recalls
from zeroshot_eval.ranking import mean_defined, rank, rank_areas

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How probes are fitted."""

    features: Literal["standardised", "unit"] = "standardised"
    """standardised: each dimension to mean 0 and deviation 1 over the images that are fitted. unit: rows of length 1"""
    min_c: float = 1e-6
    """least inverse strength of the L2 penalty that is tried"""
    max_c: float = 1e4
    """most inverse strength that is tried"""
    num_c: int = 11
    """strengths tried, evenly spaced in the logarithm"""
    val_fraction: float = 0.2
    """share of the training images, in whole groups, to choose on where a task has no validation split"""
    repeats: int = 5
    """draws of a few-shot probe"""
    max_iterations: int = 1000
    """steps of L-BFGS at most"""
    seed: int = 0
    """seed of the validation share and of the draws"""

    def __post_init__(self) -> None:
        if not 0 < self.min_c <= self.max_c:
            raise ConfigError(f"min_c, max_c: got {self.min_c}, {self.max_c}; allowed: 0 < min_c <= max_c")
        for name in ("num_c", "repeats", "max_iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction: got {self.val_fraction}; allowed: above 0, below 1")

    @property
    def strengths(self) -> list[float]:
        """The values of C that are tried, rising."""
        return [float(c) for c in np.geomspace(self.min_c, self.max_c, self.num_c)]


@dataclass(frozen=True, slots=True)
class Examples:
    """Images with labels. Targets are class indices (n,), or (n, C) of 1, 0 and -1 for unknown."""

    features: Singles = field(repr=False)
    targets: npt.NDArray[np.integer] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)
    """the patient, slide or other unit of each image"""

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.targets) == len(self.groups):
            sizes = (len(self.features), len(self.targets), len(self.groups))
            raise DataError(f"features, targets and groups of examples: got {sizes} rows; as many of each are needed")
        _require_finite(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: npt.NDArray[Any]) -> Examples:
        """Return the examples of these indices, or where this mask is true."""
        kept = np.arange(len(self))[rows]
        return Examples(self.features[kept], self.targets[kept], tuple(self.groups[row] for row in kept))

    def joined(self, other: Examples) -> Examples:
        """Return these examples and the others after them."""
        return Examples(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.targets, other.targets]),
            (*self.groups, *other.groups),
        )


class CurvePoint(NamedTuple):
    """How a strength of the penalty does on validation."""

    c: float
    score: float
    """balanced accuracy, or macro AUROC for multi-label"""
    loss: float
    """mean cross-entropy in nats, which tells strengths of equal score apart"""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe that was fitted and has scored the test images once."""

    scores: Singles = field(repr=False)
    """decision values (n, C), whose softmax (sigmoid, for multi-label) is the probability; NaN for unfitted classes"""
    c: float
    """the chosen inverse strength of the penalty"""
    curve: tuple[CurvePoint, ...]
    """one a strength that was tried"""
    num_train: int
    num_val: int
    carved: bool
    """the validation images were taken from the training split"""
    converged: bool
    unfitted: tuple[int, ...] = ()
    """multi-label classes without both positives and negatives to fit on: not to be scored"""


@dataclass(frozen=True, slots=True)
class FewShotResult:
    """Probes on few images a class, one a draw. `scores` is (R, n, C)."""

    shots: int
    scores: Singles = field(repr=False)
    chosen: tuple[float, ...]
    converged: bool


@dataclass(frozen=True, slots=True)
class ProbeSkip:
    """A probe that cannot be fitted, and why."""

    reason: str


def linear_probe(
    train: Examples, test: Singles, num_classes: int, val: Examples | None = None, config: ProbeConfig | None = None
) -> ProbeResult | ProbeSkip:
    """Fit logistic regression and score the test images.

    Multinomial for one class an image, one against the rest for multi-label targets. C is the one of the best
    validation score, of equals the one of the lowest cross-entropy there; then the probe is fitted anew on training and
    validation images together. The same input gives the same scores.

    Args:
        train: what to fit on.
        test: features of the images to score, shape (n, D).
        num_classes: C.
        val: what to choose C on; a share of the training groups unless given.
        config: how to fit.
    """
    config = config or ProbeConfig()
    _require_finite(test)
    if reason := _unfit(train, num_classes):
        return ProbeSkip(reason)
    carved = val is None or not len(val)
    if val is None or carved:
        held = carve_groups(train, num_classes, config)
        if not held.any():
            return ProbeSkip("no training group can be held out to choose on: each holds all images of some class")
        train, val = train.take(~held), train.take(held)
    curve = _choose(train, val, num_classes, config)
    c = _best(curve)
    final = _Probe(train.joined(val), num_classes, config)
    final.fit(c)
    return ProbeResult(final.scores(test), c, curve, len(train), len(val), carved, final.converged, final.unfitted)


def few_shot(
    train: Examples,
    test: Singles,
    num_classes: int,
    shots: int,
    val: Examples | None = None,
    config: ProbeConfig | None = None,
) -> FewShotResult | ProbeSkip:
    """Fit a probe on a few images of each class, for several draws.

    A class's images come from as many groups as there are. C is chosen on as many validation images a class, as far as
    there are; the probe is not fitted on them. Without a validation split they come from training groups that no shot
    is drawn from.

    Args:
        train: what to draw from; one class an image.
        test: features of the images to score, shape (n, D).
        num_classes: C.
        shots: images a class.
        val: what to choose C on; a share of the training groups unless given.
        config: how to fit, and how many draws.
    """
    config = config or ProbeConfig()
    _require_finite(test)
    if train.targets.ndim > 1:
        return ProbeSkip("few-shot probes are for tasks of one class an image")
    if reason := _unfit(train, num_classes):
        return ProbeSkip(reason)
    if val is None or not len(val):
        held = carve_groups(train, num_classes, config)
        train, val = train.take(~held), train.take(held)
    counts = np.bincount(train.targets, minlength=num_classes)
    if counts.min() < shots or not len(val):
        fewest = f"class {int(counts.argmin())} has {counts.min()} to draw from and {len(val)} images to choose on"
        return ProbeSkip(f"{shots} shots a class asked; {fewest}")
    scores, chosen, converged = [], [], True
    for repeat in range(config.repeats):
        rng = np.random.default_rng([config.seed, shots, repeat])
        drawn = train.take(draw_shots(train, num_classes, shots, rng))
        judge = val.take(draw_shots(val, num_classes, shots, rng))
        curve = _choose(drawn, judge, num_classes, config)
        probe = _Probe(drawn, num_classes, config)
        probe.fit(_best(curve))
        scores.append(probe.scores(test))
        chosen.append(_best(curve))
        converged = converged and probe.converged
    return FewShotResult(shots, np.stack(scores), tuple(chosen), converged)


def carve_groups(train: Examples, num_classes: int, config: ProbeConfig) -> Bools:
    """Return which training images to hold out for validation, shape (n,): whole groups, about the share of each class.

    Classes are served from the rarest to the most frequent. A group stays in training where it holds the last images
    of a class; nothing is held out where every group does.
    """
    names, group_of = np.unique(np.asarray(train.groups), return_inverse=True)
    member = _membership(train.targets, num_classes)
    counts = np.zeros((len(names), num_classes), dtype=np.int64)
    np.add.at(counts, group_of, member.astype(np.int64))
    order = np.random.default_rng(config.seed).permutation(len(names))
    held = np.zeros(len(names), dtype=np.bool_)
    totals = counts.sum(axis=0)
    taken = np.zeros(num_classes, dtype=np.int64)
    for class_index in np.argsort(totals, kind="stable"):
        for group in order[counts[order, class_index] > 0]:
            if taken[class_index] >= config.val_fraction * totals[class_index]:
                break
            left = totals - taken - counts[group]
            if not held[group] and (left[totals > 0] > 0).all():
                held[group] = True
                taken += counts[group]
    return held[group_of]


def draw_shots(examples: Examples, num_classes: int, shots: int, rng: np.random.Generator) -> Ints:
    """Return the rows of up to `shots` images of each class, one a group before any group gives its second."""
    groups = np.asarray(examples.groups)
    drawn: list[int] = []
    for class_index in range(num_classes):
        rows = rng.permutation(np.flatnonzero(examples.targets == class_index))
        _, place, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
        by_group = np.argsort(place, kind="stable")
        turn = np.empty(len(rows), dtype=np.int64)  # how many images of its group come before an image
        turn[by_group] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        drawn += rows[np.argsort(turn, kind="stable")[:shots]].tolist()
    return np.asarray(drawn, dtype=np.int64)


def mean_over_draws(values: Sequence[float], level: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Return the mean over draws and its interval by Student's t; no interval for a single draw."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = float(t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, (mean - half, mean + half)


class _Probe:
    """Logistic regression over scaled features; fitted again and again, each time from where it was."""

    def __init__(self, examples: Examples, num_classes: int, config: ProbeConfig) -> None:
        self._kind = config.features
        self._num_classes = num_classes
        features = examples.features.astype(np.float64)
        self._mean = features.mean(axis=0)
        deviation = features.std(axis=0)
        self._deviation = np.where(deviation > 1e-12, deviation, 1.0)
        self._features = self._scaled(examples.features)
        self._targets = examples.targets
        self._models = {column: _model(config) for column in self._columns()}
        self.unfitted = tuple(c for c in range(num_classes) if self._targets.ndim > 1 and c not in self._models)
        self.converged = True

    def fit(self, c: float) -> None:
        """Fit with the inverse strength `c` of the penalty."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
            for column, model in self._models.items():
                known = self._known(column)
                targets = self._targets if self._targets.ndim == 1 else self._targets[:, column]
                model.set_params(C=c).fit(self._features[known], targets[known])
        self.converged = all(int(model.n_iter_.max()) < model.max_iter for model in self._models.values())

    def scores(self, features: Singles) -> Singles:
        """Return decision values (n, C)."""
        scaled = self._scaled(features)
        if self._targets.ndim == 1:
            decisions = np.asarray(self._models[0].decision_function(scaled), dtype=np.float32)
            # Of two classes there is one value: the difference of the two.
            return np.stack([-decisions / 2, decisions / 2], axis=1) if decisions.ndim == 1 else decisions
        found = np.full((len(features), self._num_classes), np.nan, dtype=np.float32)
        for column, model in self._models.items():
            found[:, column] = model.decision_function(scaled)
        return found

    def _scaled(self, features: Singles) -> Singles:
        if self._kind == "standardised":
            return np.asarray((features - self._mean) / self._deviation, dtype=np.float32)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return np.asarray(features / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)

    def _columns(self) -> list[int]:
        if self._targets.ndim == 1:
            return [0]
        return [c for c in range(self._num_classes) if {0, 1} <= set(np.unique(self._targets[:, c]).tolist())]

    def _known(self, column: int) -> Bools:
        single = self._targets.ndim == 1
        return np.asarray(self._targets >= 0 if single else self._targets[:, column] >= 0)


def _model(config: ProbeConfig) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", max_iter=config.max_iterations, warm_start=True)


def _choose(train: Examples, val: Examples, num_classes: int, config: ProbeConfig) -> tuple[CurvePoint, ...]:
    """Return how each strength does on validation."""
    probe = _Probe(train, num_classes, config)
    curve = []
    for c in config.strengths:
        probe.fit(c)
        scores = probe.scores(val.features)
        curve.append(CurvePoint(c, _validation_score(val.targets, scores), _cross_entropy(val.targets, scores)))
    return tuple(curve)


def _validation_score(targets: npt.NDArray[np.integer], scores: Singles) -> float:
    """Balanced accuracy, or macro AUROC for multi-label; 0.5 where nothing is defined, the same for every C."""
    once = np.ones((1, len(targets)))
    if targets.ndim == 1:
        found = recalls(targets.astype(np.int64), scores.argmax(axis=1), once, scores.shape[1])
    else:
        fitted = np.flatnonzero(~np.isnan(scores).any(axis=0))
        rankings = [rank(targets[:, c] == 1, scores[:, c], targets[:, c] >= 0) for c in fitted]
        found = rank_areas(rankings, once)[0]
    value = float(mean_defined(found)[0])
    return 0.5 if np.isnan(value) else value


def _cross_entropy(targets: npt.NDArray[np.integer], scores: Singles) -> float:
    """Mean over images, or over the known labels of fitted classes for multi-label."""
    values = scores.astype(np.float64)
    if targets.ndim == 1:
        own = values[np.arange(len(targets)), targets]
        return float(np.mean(np.logaddexp.reduce(values, axis=1) - own))
    counted = (targets >= 0) & ~np.isnan(values)
    signed = np.where(targets == 1, -values, values)[counted]
    return float(np.logaddexp(0, signed).mean()) if signed.size else 0.0


def _best(curve: Sequence[CurvePoint]) -> float:
    return max(curve, key=lambda point: (point.score, -point.loss)).c


def _membership(targets: npt.NDArray[np.integer], num_classes: int) -> Bools:
    """Whether each image has each class, shape (n, C)."""
    return np.asarray(targets == 1 if targets.ndim > 1 else targets[:, None] == np.arange(num_classes))


def _unfit(train: Examples, num_classes: int) -> str:
    """Why nothing can be fitted; empty where it can."""
    member = _membership(train.targets, num_classes)
    counts = member.sum(axis=0)
    if train.targets.ndim == 1 and (counts == 0).any():
        return f"class {int(counts.argmin())} of {num_classes} has no training image"
    if train.targets.ndim > 1 and not counts.any():
        return "no class has a training image"
    return "" if num_classes > 1 or train.targets.ndim > 1 else "one class alone cannot be told from others"


def _require_finite(features: Singles) -> None:
    if not np.isfinite(features).all():
        raise DataError("features of a probe: got NaN or infinity; embed the images anew")
