"""Metrics of stored predictions: the same arithmetic as when they were scored, for any weights of the rows."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from zeroshot_eval.bootstrap import Statistic
from zeroshot_eval.choices.arithmetic import all_of_set, chosen, pairs_matched, set_index
from zeroshot_eval.classification import classification_statistic, recalls
from zeroshot_eval.predictions import Predictions
from zeroshot_eval.ranking import divide
from zeroshot_eval.retrieval import Ranks, retrieval_statistic
from zeroshot_eval.scoring import RECALL_PREFIX, multi_label_metrics

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

DIRECTIONS = ("image_to_text", "text_to_image")


def statistic_of(predictions: Predictions, only: Collection[str] | None = None) -> Statistic:
    """Return the function from weights of the rows (B, n) to {metric: (B,)}.

    Not every metric of scores.json can be made of stored answers: few-shot probes, the second rule of retrieval, and
    of choices those that ask all images or a threshold are missing.

    Args:
        predictions: the answers; n rows.
        only: names of the metrics to give, as far as there are such; all if not given.
    """
    kind = predictions.header.kind
    if kind == "retrieval":
        statistic = _retrieval(predictions)
    elif kind == "choice":
        statistic = _choice(predictions)
    elif predictions.targets.ndim == 2:
        header = predictions.header
        targets = predictions.targets.astype(np.int8)
        statistic = multi_label_metrics(targets, predictions.scores, header.classes, pairs=header.pairs)
    else:
        return _classification(predictions, only)
    return statistic if only is None else _picked(statistic, set(only))


def metric_values(predictions: Predictions) -> dict[str, float]:
    """Return every metric that stored answers give, as far as it is defined, by name."""
    values = statistic_of(predictions)(np.ones((1, len(predictions.table))))
    return {metric: float(value[0]) for metric, value in values.items() if not np.isnan(value[0])}


def answers(predictions: Predictions) -> Ints:
    """Return the class or option that each row was given, shape (n,); -1 where options tie."""
    if predictions.header.kind == "choice":
        return chosen(_padded(predictions))
    return np.asarray(predictions.scores.argmax(axis=1), dtype=np.int64)


def is_right(predictions: Predictions) -> Bools | None:
    """Return whether each row's answer is right, shape (n,); None where answers are not simply right or wrong."""
    if predictions.header.kind == "retrieval" or predictions.targets.ndim == 2:
        return None
    return np.asarray(answers(predictions) == predictions.targets)


def asked_rows(predictions: Predictions, metric: str) -> Predictions:
    """Return the rows that a metric is made of: those of its direction of retrieval, or all."""
    direction = metric.split("/", maxsplit=1)[0]
    if predictions.header.kind != "retrieval" or direction not in DIRECTIONS:
        return predictions
    return take(predictions, np.flatnonzero(np.asarray(predictions.column("direction")) == direction))


def take(predictions: Predictions, rows: npt.NDArray[np.integer]) -> Predictions:
    """Return some rows, in this order."""
    return Predictions(predictions.header, predictions.table.take(rows))


def _classification(predictions: Predictions, only: Collection[str] | None) -> Statistic:
    header, scores = predictions.header, predictions.scores
    targets = predictions.targets.astype(np.int64)

    def make(names: Collection[str] | None) -> Statistic:
        return classification_statistic(targets, scores, header.logit_scale, ordinal=header.ordinal, only=names)

    names = None if only is None else set(make(None)(np.ones((1, len(targets))))).intersection(only)
    metrics = make(names)
    predicted = scores.argmax(axis=1).astype(np.int64)
    named = {f"{RECALL_PREFIX}{name}": at for at, name in enumerate(header.classes)}
    wanted = {name: at for name, at in named.items() if only is None or name in only}

    def statistic(weights: Floats) -> dict[str, Floats]:
        by_class = recalls(targets, predicted, weights, scores.shape[1]) if wanted else np.empty(0)
        return metrics(weights) | {name: by_class[:, at] for name, at in wanted.items()}

    return statistic


def _retrieval(predictions: Predictions) -> Statistic:
    """Both directions, as far as there are queries."""
    directions = np.asarray(predictions.column("direction"))
    columns = [
        np.asarray(predictions.column(name), dtype=np.int64)
        for name in ("rank_best", "rank_worst", "num_correct", "gallery")
    ]
    parts: dict[str, tuple[Bools, Statistic]] = {}
    for direction in DIRECTIONS:
        mask = directions == direction
        if mask.any():
            parts[direction] = (mask, retrieval_statistic(Ranks(*(column[mask] for column in columns))))

    def statistic(weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for direction, (mask, part) in parts.items():
            own = weights[:, mask]
            empty = own.sum(axis=1) <= 0
            values = part(np.where(empty[:, None], 1.0, own))
            found |= {f"{direction}/{name}": np.where(empty, np.nan, value) for name, value in values.items()}
        return found

    return statistic


def _choice(predictions: Predictions) -> Statistic:
    scores, targets = _padded(predictions), predictions.targets.astype(np.int64)
    choices = chosen(scores)
    everyone = np.arange(len(targets))
    values: dict[str, tuple[Floats, Ints]] = {
        "accuracy": ((choices == targets).astype(np.float64), everyone),
        "tied": ((choices < 0).astype(np.float64), everyone),
    }
    sets, first = set_index(predictions.column("set_id"))
    several = np.flatnonzero(np.bincount(sets) > 1)
    if len(several):
        right = all_of_set(choices == targets, sets).astype(np.float64)
        values["set_accuracy"] = (right[several], first[several])
        matched = pairs_matched(scores, targets, sets)
        pairs = np.flatnonzero(~np.isnan(matched))
        if len(pairs):
            values["pair_matching"] = (matched[pairs], first[pairs])

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {
            name: divide(weights[:, rows] @ value, weights[:, rows].sum(axis=1))
            for name, (value, rows) in values.items()
        }

    return statistic


def _padded(predictions: Predictions) -> Floats:
    """Return the scores of options, shape (n, O), NaN where a question has fewer."""
    rows = predictions.option_scores
    padded = np.full((len(rows), max(map(len, rows), default=1)), np.nan)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _picked(statistic: Statistic, names: Collection[str]) -> Statistic:
    def picked(weights: Floats) -> dict[str, Floats]:
        return {name: values for name, values in statistic(weights).items() if name in names}

    return picked
