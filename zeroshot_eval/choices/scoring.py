"""From embeddings to the scores of a question set: choices, sets, pairs, and statements judged true or false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from zeroshot_eval.choices.arithmetic import (
    Floats,
    Ints,
    all_of_set,
    chosen,
    halves,
    judged,
    pairs_matched,
    require_unit_length,
    same_choice,
    set_index,
    weighted_means,
)
from zeroshot_eval.choices.questions import QuestionSet, Statement, TextStyle, image_refs, texts

Singles = npt.NDArray[np.float32]
CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """A scored question: its cosines with its options, and the same less each option's mean over all images."""

    scores: Singles
    calibrated: Singles


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric as values of units, of which the unit's weight is that of one row."""

    values: Floats  # (U,), NaN where a unit does not count
    rows: Ints  # (U,) row whose weight the unit has
    chance: float


@dataclass(frozen=True)
class ScoredChoices:
    """A scored question set. The rows that intervals resample are its questions, then its statements."""

    question_set: QuestionSet
    rows: tuple[Row, ...] = field(repr=False)
    """one a question, in the set's order"""
    statement_scores: Floats = field(repr=False)
    """cosine of each statement with its image, shape (m,)"""
    metrics: Mapping[str, _Metric] = field(repr=False)

    @property
    def groups(self) -> list[str]:
        """The group of each question, then of each statement: what a bootstrap resamples."""
        return [unit.group for unit in self.question_set.units]

    @property
    def chance(self) -> dict[str, float]:
        """What guessing scores, by metric."""
        return {name: metric.chance for name, metric in self.metrics.items()}

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many questions, sets, statements … each metric is the mean of."""
        return {name: int((~np.isnan(metric.values)).sum()) for name, metric in self.metrics.items()}

    def statistic(self, weights: Floats) -> dict[str, Floats]:
        """Return every metric, each of shape (B,), for weights of the rows, shape (B, n + m)."""
        return {
            name: weighted_means(metric.values[:, None], weights[:, metric.rows])[:, 0]
            for name, metric in self.metrics.items()
        }


def score_questions(
    question_set: QuestionSet,
    image_embeddings: Mapping[str, Singles],
    text_embeddings: Mapping[str, Singles],
    style: TextStyle | None = None,
    *,
    seed: int = 0,
) -> ScoredChoices:
    """Score a question set on embeddings that were made before.

    Metrics of questions: `accuracy`; `accuracy_calibrated`, where from each option's score its mean over all images of
    the set is taken off, so that an option that the text tower likes with any image gains nothing (no answer is looked
    at); `tied`, the share without a single best option; each accuracy by facet too, as "accuracy/department=…".
    Where questions form sets: `set_accuracy` (all right), `confusion` (the same option for all) and `pair_matching`.
    Metrics of statements, judged by thresholds that are fitted on the other half of the groups: `yes_no/accuracy`,
    `yes_no/pair_accuracy` (a true statement and its false twin), `yes_no/probe_accuracy` (all statements of an image
    and category) and `yes_no/affirmed_only` (the true ones of them), each by category too.

    Args:
        question_set: what to score.
        image_embeddings: unit-length vectors (D,) by image reference.
        text_embeddings: unit-length vectors (D,) by text, for the texts that `texts` lists in this style.
        style: the text of an option; the option alone unless given.
        seed: seed of the halves.

    Raises:
        DataError: an embedding is missing, not finite or not of unit length.
    """
    chosen_style = style or TextStyle()
    images = _Vectors(image_refs(question_set), image_embeddings, "image")
    words = _Vectors(texts(question_set, chosen_style), text_embeddings, "text")
    scores = _question_scores(question_set, images, words, chosen_style)
    priors = _question_priors(question_set, images, words, chosen_style)
    statements = question_set.statements
    judged_scores = _cosines(images, [unit.image for unit in statements], words, [unit.text for unit in statements])
    metrics: dict[str, _Metric] = {}
    if question_set.questions:
        metrics |= _choice_metrics(question_set, scores, scores - priors)
        metrics |= _set_metrics(question_set, scores)
    if statements:
        metrics |= _statement_metrics(statements, judged_scores, len(question_set.questions), seed)
    rows = tuple(
        Row(*(values[place, : len(unit.options)].astype(np.float32) for values in (scores, scores - priors)))
        for place, unit in enumerate(question_set.questions)
    )
    return ScoredChoices(question_set, rows, judged_scores, metrics)


class _Vectors:
    """Embeddings by name, checked once."""

    def __init__(self, names: Sequence[str], embeddings: Mapping[str, Singles], what: str) -> None:
        if missing := [name for name in names if name not in embeddings]:
            raise DataError(f"{len(missing)} of {len(names)} {what}s have no embedding; first: {missing[0][:80]!r}")
        self._place = {name: place for place, name in enumerate(names)}
        self.table = require_unit_length(np.stack([embeddings[name] for name in names]), f"{what}s")

    def rows(self, names: Sequence[str]) -> Floats:
        """Return the vectors of these names, shape (n, D)."""
        return self.table[[self._place[name] for name in names]]


def _cosines(images: _Vectors, refs: Sequence[str], words: _Vectors, spoken: Sequence[str]) -> Floats:
    """Cosine of each image with its own text, (n,): each summed alone, so that equal pairs give equal numbers."""
    parts = [np.empty(0)]
    for start in range(0, len(refs), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        parts.append((images.rows(refs[chunk]) * words.rows(spoken[chunk])).sum(axis=1))
    return np.concatenate(parts)


def _question_scores(question_set: QuestionSet, images: _Vectors, words: _Vectors, style: TextStyle) -> Floats:
    """Cosines of each question's image with its options, (n, O), NaN where a question has fewer."""
    units = question_set.questions
    refs = [unit.image for unit in units for _ in unit.options]
    spoken = [style.text(unit.question, option) for unit in units for option in unit.options]
    return _padded(question_set, _cosines(images, refs, words, spoken))


def _question_priors(question_set: QuestionSet, images: _Vectors, words: _Vectors, style: TextStyle) -> Floats:
    """Mean cosine of each option with all images of the set, (n, O)."""
    mean_image = images.table.mean(axis=0)
    prior = dict(zip(texts(question_set, style), words.table @ mean_image, strict=True))
    flat = [prior[style.text(unit.question, option)] for unit in question_set.questions for option in unit.options]
    return _padded(question_set, np.asarray(flat))


def _padded(question_set: QuestionSet, flat: Floats) -> Floats:
    counts = np.asarray([len(unit.options) for unit in question_set.questions], dtype=np.int64)
    padded = np.full((len(counts), int(counts.max(initial=1))), np.nan)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = flat
    return padded


def _choice_metrics(question_set: QuestionSet, scores: Floats, calibrated: Floats) -> dict[str, _Metric]:
    units = question_set.questions
    answers = np.asarray([unit.answer for unit in units])
    choices = chosen(scores)
    guess = np.asarray([1 / len(unit.options) for unit in units])
    everyone = np.arange(len(units))
    metrics = {"tied": _Metric((choices < 0).astype(np.float64), everyone, 0.0)}
    for name, right in {
        "accuracy": (choices == answers).astype(np.float64),
        "accuracy_calibrated": (chosen(calibrated) == answers).astype(np.float64),
    }.items():
        metrics[name] = _Metric(right, everyone, float(guess.mean()))
        for facet, members in _by_facet(question_set, range(len(units))).items():
            metrics[f"{name}/{facet}"] = _Metric(right[members], members, float(guess[members].mean()))
    return metrics


def _set_metrics(question_set: QuestionSet, scores: Floats) -> dict[str, _Metric]:
    """Metrics of the sets of two or more questions."""
    units = question_set.questions
    sets, first = set_index([unit.set_id for unit in units])
    several = np.flatnonzero(np.bincount(sets) > 1)
    if not len(several):
        return {}
    answers = np.asarray([unit.answer for unit in units])
    choices = chosen(scores)
    guesses = np.asarray([1 / len(unit.options) for unit in units])
    guess = np.exp(np.bincount(sets, weights=np.log(guesses)))
    right = all_of_set(choices == answers, sets).astype(np.float64)
    metrics = {"set_accuracy": _Metric(right[several], first[several], float(guess[several].mean()))}
    for facet, rows in _by_facet(question_set, first[several].tolist()).items():
        members = sets[rows]
        metrics[f"set_accuracy/{facet}"] = _Metric(right[members], rows, float(guess[members].mean()))
    if _same_options(question_set, sets):
        # All of a set by chance the same: one of O options, for each question after the first.
        metrics["confusion"] = _Metric(
            same_choice(choices, sets)[several],
            first[several],
            float((guess[several] / guesses[first[several]]).mean()),
        )
    matched = pairs_matched(scores, answers, sets)
    if not np.isnan(matched).all():
        metrics["pair_matching"] = _Metric(matched[several], first[several], 0.5)
    return metrics


def _same_options(question_set: QuestionSet, sets: Ints) -> bool:
    options: dict[int, tuple[str, ...]] = {}
    pairs = zip(sets.tolist(), question_set.questions, strict=True)
    return all(options.setdefault(number, unit.options) == unit.options for number, unit in pairs)


def _by_facet(question_set: QuestionSet, rows: Sequence[int] | range) -> dict[str, Ints]:
    """Rows by "facet=value", sorted by name; a question may have several values of a facet."""
    found: dict[str, list[int]] = {}
    for row in rows:
        for facet, values in question_set.questions[row].facets.items():
            for value in values:
                found.setdefault(f"{facet}={value}", []).append(row)
    return {name: np.asarray(found[name], dtype=np.int64) for name in sorted(found)}


def _statement_metrics(statements: Sequence[Statement], scores: Floats, offset: int, seed: int) -> dict[str, _Metric]:
    categories = np.asarray([unit.category for unit in statements])
    truths = np.asarray([unit.true for unit in statements])
    half = halves([unit.group for unit in statements], seed)
    right = judged(scores, truths, categories.tolist(), half)
    everyone = np.arange(len(statements), dtype=np.int64)
    pairs = _together([unit.pair for unit in statements], right, minimum=2)
    probes = [unit.probe for unit in statements]
    units = {
        "accuracy": (right, everyone, np.full(len(right), 0.5)),
        "pair_accuracy": pairs,
        "probe_accuracy": _together(probes, right),
        "affirmed_only": _together(probes, np.where(truths, right, np.nan), ignore_nan=True),
    }
    metrics: dict[str, _Metric] = {}
    for name, (values, rows, chance) in units.items():
        for label, members in _groups_of(categories[rows]).items():
            if len(members):
                metrics[f"yes_no/{name}{label}"] = _Metric(
                    values[members], rows[members] + offset, float(chance[members].mean())
                )
    return metrics


def _groups_of(categories: npt.NDArray[np.str_]) -> dict[str, Ints]:
    """All places, then those of each category."""
    found = {"": np.arange(len(categories), dtype=np.int64)}
    for name in np.unique(categories):
        found[f"/category={name}"] = np.flatnonzero(categories == name).astype(np.int64)
    return found


def _together(
    ids: Sequence[str], right: Floats, *, minimum: int = 1, ignore_nan: bool = False
) -> tuple[Floats, Ints, Floats]:
    """Return, for units of one id, whether all are right (NaN if one is unknown), a row of each, and chance by coin.

    Units of fewer rows than `minimum` are left out. With `ignore_nan`, unknown rows do not count, and a unit of such
    alone is left out.
    """
    index, first = set_index(ids)
    kept = ~np.isnan(right) if ignore_nan else np.ones(len(right), dtype=np.bool_)
    sizes = np.bincount(index[kept], minlength=len(first))
    unknown = np.bincount(index[kept], weights=np.isnan(right[kept]), minlength=len(first))
    wrong = np.bincount(index[kept], weights=right[kept] == 0, minlength=len(first))
    values = np.where(unknown > 0, np.nan, (wrong == 0).astype(np.float64))
    units = np.flatnonzero(sizes >= minimum)
    return values[units], first[units], np.power(0.5, sizes[units].astype(np.float64))
