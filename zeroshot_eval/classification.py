"""Arithmetic of zero-shot classification on cosines. Legend: n images, C classes, B sets of weights, P prompts.

Every figure is a function of weights (B, n): a row of ones gives the value, a row of counts the value where images are
repeated so often, those of weight 0 left out. NaN stands for what the weights leave undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError, DataError
from clipmed.probabilities import CALIBRATION_BINS, confidence_bins, negative_log_likelihoods, softmax
from zeroshot_eval.ranking import Ranking, divide, expected_average_precision, mean_defined, rank, rank_areas

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Statistic = Callable[[Floats], dict[str, Floats]]

TOP = 5


def prompt_ensemble(embeddings: Singles, counts: Sequence[int]) -> Singles:
    """Return unit-length classifier rows, shape (C, D): the mean of each class's unit-length prompts, normalised.

    Args:
        embeddings: unit-length prompt embeddings, shape (P, D), class after class.
        counts: prompts of each class; they sum to P.
    """
    starts = np.cumsum([0, *counts[:-1]])
    means = np.add.reduceat(embeddings, starts, axis=0) / np.asarray(counts, dtype=np.float32)[:, None]
    rows: Singles = means / np.linalg.norm(means, axis=1, keepdims=True)
    return rows


def classification_metrics(
    targets: Ints, cosines: Singles, weights: Floats, logit_scale: float, *, ordinal: bool = False
) -> dict[str, Floats]:
    """Return every metric of `classification_statistic`, each of shape (B,)."""
    return classification_statistic(targets, cosines, logit_scale, ordinal=ordinal)(weights)


def classification_statistic(
    targets: Ints,
    cosines: Singles,
    logit_scale: float,
    *,
    ordinal: bool = False,
    only: Collection[str] | None = None,
) -> Statistic:
    """Return the function from weights (B, n) to metrics {name: (B,)}; sorting and softmax are done once, here.

    The prediction is the class of the highest cosine, the first of equals.

    - accuracy; top5_accuracy, where there are more than five classes: the class is among the five highest cosines.
    - balanced_accuracy: the mean recall of the classes that the weights leave with images.
    - auroc, average_precision: macro one-vs-rest, images ranked by the class's probability, the softmax of the scaled
      cosines. The suffix _cosine ranks by the cosine alone, as some other suites do: it cannot see that an image is
      near to all classes. Classes without positives or without negatives are left out.
    - macro_f1: the mean over the classes with true or predicted images; a class never predicted rightly has 0.
    - quadratic_kappa, where classes are grades in order (`ordinal`): Cohen's, weighted by squared distance of grades.
    - ece: expected calibration error of the predicted class's probability in 15 bins of equal width, (low, high].
    - brier: squared distance of the probabilities from the one-hot truth, summed over classes, 0 … 2.
    - nll: mean negative log-probability of the true class, in nats.

    Args:
        targets: true classes, shape (n,).
        cosines: one column a class, shape (n, C).
        logit_scale: the learned scale, by which cosines become logits.
        ordinal: classes are grades in order.
        only: names of the metrics to give; all if not given.

    Raises:
        DataError: targets that are no class, cosines that are not finite.
        ConfigError: a name in `only` that this task does not have.
    """
    _check(targets, cosines)
    makers = _makers(targets, cosines, logit_scale, ordinal=ordinal)
    known = [name for names, _ in makers for name in names]
    wanted = set(known if only is None else only)
    if unknown := sorted(wanted - set(known)):
        raise ConfigError(f"metric {unknown[0]!r}: allowed for this task: {', '.join(known)}")
    parts = [make() for names, make in makers if wanted.intersection(names)]

    def statistic(weights: Floats) -> dict[str, Floats]:
        found = {name: values for part in parts for name, values in part(weights).items()}
        return {name: values for name, values in found.items() if name in wanted}

    return statistic


def chance_levels(targets: Ints, num_classes: int) -> dict[str, float]:
    """Return what knowing nothing scores, by metric; beside it stands `majority_rate`.

    Guessing each class with the same probability gives accuracy, balanced_accuracy, top5_accuracy, quadratic_kappa
    and macro_f1 (a ratio of expectations: exact for many images); random scores give auroc and, in expectation over
    their orders, average_precision; the same probability for every class gives ece, brier and nll.
    """
    counts = np.bincount(targets, minlength=num_classes)
    n, share = len(targets), counts / len(targets)
    precisions = [expected_average_precision(int(count), n) for count in counts if 0 < count < n]
    precision = float(np.mean(precisions)) if precisions else float("nan")
    return {
        "accuracy": 1 / num_classes,
        "top5_accuracy": min(TOP / num_classes, 1.0),
        "balanced_accuracy": 1 / num_classes,
        "auroc": 0.5,
        "auroc_cosine": 0.5,
        "average_precision": precision,
        "average_precision_cosine": precision,
        "macro_f1": float(np.mean(2 * share / num_classes / (share + 1 / num_classes))),
        "quadratic_kappa": 0.0,
        "ece": 0.0,
        "brier": 1 - 1 / num_classes,
        "nll": float(np.log(num_classes)),
    }


def majority_rate(targets: Ints) -> float:
    """Return the accuracy of always answering the most frequent class."""
    return float(np.bincount(targets).max() / len(targets))


def confusion_matrix(targets: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Return counts, shape (C, C): a row a true class, a column a predicted one."""
    flat = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def recalls(targets: Ints, predicted: Ints, weights: Floats, num_classes: int) -> Floats:
    """Return the recall of each class, shape (B, C); NaN where a class has no weight."""
    member = _one_hot(targets, num_classes)
    hits = member * (predicted == targets)[:, None]
    return divide(weights @ hits, weights @ member)


def f1_scores(targets: Ints, predicted: Ints, weights: Floats, num_classes: int) -> Floats:
    """Return the F1 of each class, shape (B, C); NaN where a class is neither true nor predicted."""
    true, said = _one_hot(targets, num_classes), _one_hot(predicted, num_classes)
    return divide(2 * (weights @ (true * said)), weights @ (true + said))


def quadratic_kappa(targets: Ints, predicted: Ints, weights: Floats) -> Floats:
    """Return Cohen's kappa with quadratic weights of grades, shape (B,); NaN where all grades are the same one.

    One minus the mean squared distance of true and predicted grade over that of independent draws from both margins.
    """
    true, said = targets.astype(np.float64), predicted.astype(np.float64)
    total = weights.sum(axis=1)
    observed = weights @ (true - said) ** 2 * total
    by_chance = total * (weights @ (true**2 + said**2)) - 2 * (weights @ true) * (weights @ said)
    return 1 - divide(observed, by_chance)


def aurocs(targets: Ints, scores: npt.NDArray[np.floating], weights: Floats) -> Floats:
    """Return the one-vs-rest area under the ROC curve of each class, shape (B, C).

    A tie between a positive and a negative counts one half. NaN where a class has no positives or no negatives.

    Args:
        targets: true classes, shape (n,).
        scores: one column a class, shape (n, C).
        weights: weights of the images, shape (B, n).
    """
    return rank_areas(one_vs_rest(targets, scores), weights)[0]


def average_precisions(targets: Ints, scores: npt.NDArray[np.floating], weights: Floats) -> Floats:
    """Return the one-vs-rest average precision of each class, shape (B, C), with arguments and NaN as in `aurocs`."""
    return rank_areas(one_vs_rest(targets, scores), weights)[1]


def one_vs_rest(targets: Ints, scores: npt.NDArray[np.floating]) -> list[Ranking]:
    """Return the ranking of the images by each class's score, its own images positive."""
    return [rank(targets == index, scores[:, index]) for index in range(scores.shape[1])]


def log_odds(logits: npt.NDArray[np.floating]) -> Floats:
    """Return log(p / (1 - p)) of the softmax probabilities p, shape (n, C): their order, without saturating at 1."""
    columns = []
    for index in range(logits.shape[1]):
        others = np.delete(logits, index, axis=1).astype(np.float64)
        highest = others.max(axis=1)
        columns.append(logits[:, index] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1)))
    return np.stack(columns, axis=1)


def probability_statistic(targets: Ints, logits: npt.NDArray[np.floating]) -> Statistic:
    """Return the function from weights (B, n) to ece, brier and nll of the softmax of logits (n, C)."""
    probabilities = softmax(logits)
    confidences, correct = probabilities.max(axis=1), logits.argmax(axis=1) == targets
    gaps = _one_hot(confidence_bins(confidences), CALIBRATION_BINS) * (correct - confidences)[:, None]
    truth = _one_hot(targets, logits.shape[1])
    distances = ((probabilities - truth) ** 2).sum(axis=1)
    losses = negative_log_likelihoods(targets, logits)

    def statistic(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        return {
            "ece": divide(np.abs(weights @ gaps).sum(axis=1), total),
            "brier": divide(weights @ distances, total),
            "nll": divide(weights @ losses, total),
        }

    return statistic


def _makers(
    targets: Ints, cosines: Singles, logit_scale: float, *, ordinal: bool
) -> list[tuple[tuple[str, ...], Callable[[], Statistic]]]:
    """Return what makes the statistic of some metrics, after their names: nothing is sorted that is not asked for."""
    top = ("top5_accuracy",) if cosines.shape[1] > TOP else ()
    grades = ("quadratic_kappa",) if ordinal else ()
    logits = cosines * logit_scale
    return [
        (
            ("accuracy", *top, "balanced_accuracy", "macro_f1", *grades),
            lambda: _prediction_statistic(targets, cosines, ordinal=ordinal),
        ),
        (("auroc", "average_precision"), lambda: _area_statistic(targets, log_odds(logits), "")),
        (("auroc_cosine", "average_precision_cosine"), lambda: _area_statistic(targets, cosines, "_cosine")),
        (("ece", "brier", "nll"), lambda: probability_statistic(targets, logits)),
    ]


def _prediction_statistic(targets: Ints, cosines: Singles, *, ordinal: bool) -> Statistic:
    predicted, num_classes = cosines.argmax(axis=1).astype(np.int64), cosines.shape[1]
    correct = (predicted == targets).astype(np.float64)
    among_top = (_places(targets, cosines) < TOP).astype(np.float64)

    def statistic(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        found = {"accuracy": divide(weights @ correct, total)}
        if num_classes > TOP:
            found["top5_accuracy"] = divide(weights @ among_top, total)
        found["balanced_accuracy"] = mean_defined(recalls(targets, predicted, weights, num_classes))
        found["macro_f1"] = mean_defined(f1_scores(targets, predicted, weights, num_classes))
        if ordinal:
            found["quadratic_kappa"] = quadratic_kappa(targets, predicted, weights)
        return found

    return statistic


def _area_statistic(targets: Ints, scores: npt.NDArray[np.floating], suffix: str) -> Statistic:
    rankings = one_vs_rest(targets, scores)

    def statistic(weights: Floats) -> dict[str, Floats]:
        rocs, precisions = rank_areas(rankings, weights)
        return {f"auroc{suffix}": mean_defined(rocs), f"average_precision{suffix}": mean_defined(precisions)}

    return statistic


def _places(targets: Ints, cosines: Singles) -> Ints:
    """Return how many classes come before the true one, shape (n,); of equal cosines the first class comes first."""
    own = np.take_along_axis(cosines, targets[:, None], axis=1)
    earlier = np.arange(cosines.shape[1]) < targets[:, None]
    places: Ints = ((cosines > own) | ((cosines == own) & earlier)).sum(axis=1)
    return places


def _one_hot(indices: Ints, size: int) -> Floats:
    member: Floats = (indices[:, None] == np.arange(size)).astype(np.float64)
    return member


def _check(targets: Ints, cosines: Singles) -> None:
    if cosines.ndim != 2 or cosines.shape[1] < 2 or targets.shape != cosines.shape[:1] or not len(targets):
        raise DataError(
            f"got targets of shape {targets.shape} and cosines of shape {cosines.shape}; allowed: (n,) and (n, C) with "
            "one image or more and two classes or more"
        )
    if targets.min() < 0 or targets.max() >= cosines.shape[1]:
        raise DataError(f"targets: got {targets.min()} to {targets.max()}; allowed: 0 to {cosines.shape[1] - 1}")
    if bad := int((~np.isfinite(cosines)).any(axis=1).sum()):
        raise DataError(
            f"cosines of {bad} of {len(cosines)} images are not finite; embed them again, or train a checkpoint that "
            "has not diverged"
        )
