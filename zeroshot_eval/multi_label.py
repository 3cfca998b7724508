"""Arithmetic of zero-shot classification where an image may have several classes, and some are not known.

Legend: n images, C classes, B sets of weights. Targets are (n, C): 1 present, 0 absent, -1 unknown; an unknown one is
left out of its class alone. Scores are (n, C): cosines with the prompts of a class, or, for pairs of prompts, the
cosine with the affirming ones less that with the denying ones. The softmax over such a pair is above one half where the
difference is above 0, and rises with it, whatever the learned scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from clipmed.errors import DataError
from zeroshot_eval.ranking import divide, expected_average_precision, mean_defined, rank, rank_areas, rank_by_position

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]
Statistic = Callable[[Floats], dict[str, Floats]]


def multi_label_statistic(targets: Labels, scores: Singles, *, pairs: bool = False) -> Statistic:
    """Return the function from weights (B, n) to macro metrics {name: (B,)}; images are sorted once, here.

    - auroc, average_precision (mAP): the mean over the classes that the weights leave with known positives and known
      negatives. `undefined_classes` names the others. CLIP_benchmark counts a class without positives as 0 instead.
    - macro_f1, for pairs of prompts only: present where the difference is above 0; the mean over the classes with
      known positives. Cosines alone have no threshold.

    Args:
        targets: 1, 0 or -1 for unknown, shape (n, C).
        scores: shape (n, C).
        pairs: scores are differences of the cosines with affirming and with denying prompts.

    Raises:
        DataError: targets of another kind or shape, scores that are not finite.
    """
    by_class = class_statistic(targets, scores, pairs=pairs)
    return lambda weights: {_MACRO[name]: mean_defined(values) for name, values in by_class(weights).items()}


def class_statistic(targets: Labels, scores: Singles, *, pairs: bool = False) -> Statistic:
    """Return the function from weights (B, n) to the metrics of each class {auroc, average_precision, f1: (B, C)}.

    NaN where the weights leave the class without known positives, or, but for f1, without known negatives.
    """
    _check(targets, scores)
    rankings = [rank(column == 1, score, column >= 0) for column, score in zip(targets.T, scores.T, strict=True)]

    def statistic(weights: Floats) -> dict[str, Floats]:
        rocs, precisions = rank_areas(rankings, weights)
        found = {"auroc": rocs, "average_precision": precisions}
        return found | {"f1": f1_scores(targets, scores > 0, weights)} if pairs else found

    return statistic


def f1_scores(targets: Labels, said: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Return the F1 of each class over its known images, shape (B, C); NaN where it has no known positives.

    Args:
        targets: 1, 0 or -1 for unknown, shape (n, C).
        said: whether a class is said to be present, shape (n, C).
        weights: weights of the images, shape (B, n).
    """
    true, claimed = (targets == 1).astype(np.float64), (said & (targets >= 0)).astype(np.float64)
    positives = weights @ true
    return np.where(positives > 0, divide(2 * (weights @ (true * claimed)), positives + weights @ claimed), np.nan)


def undefined_classes(targets: Labels, classes: Sequence[str]) -> dict[str, str]:
    """Return the classes that no ranking can be told of, each with the reason."""
    found = {}
    for name, column in zip(classes, targets.T, strict=True):
        missing = [what for what, value in (("positives", 1), ("negatives", 0)) if not (column == value).any()]
        if missing:
            found[name] = f"no known {' and no known '.join(missing)} among {len(column)} images"
    return found


def chance_levels(targets: Labels) -> dict[str, float]:
    """Return what knowing nothing scores, by metric: random scores, and for macro_f1 a fair coin for every class.

    average_precision is the expectation over all orders of the known images. macro_f1 is a ratio of expectations, exact
    for many images. NaN where no class has known positives and negatives.
    """
    positives, known = (targets == 1).sum(axis=0), (targets >= 0).sum(axis=0)
    ranked = [(int(some), int(all_)) for some, all_ in zip(positives, known, strict=True) if 0 < some < all_]
    shares = [some / all_ for some, all_ in zip(positives, known, strict=True) if some]
    return {
        "auroc": 0.5 if ranked else float("nan"),
        "average_precision": _mean([expected_average_precision(some, all_) for some, all_ in ranked]),
        "macro_f1": _mean([share / (share + 0.5) for share in shares]),
    }


def clip_benchmark_average_precision(targets: Labels, scores: Singles) -> float:
    """Return the mean average precision by the rules of CLIP_benchmark 1.6.2, to compare with its figures.

    A class without positives counts 0, equal scores keep the order of the images, and every target must be known.
    """
    _check(targets, scores)
    if (targets < 0).any():
        raise DataError("CLIP_benchmark's mean average precision knows no unknown targets; got -1; allowed: 0 and 1")
    rankings = [rank_by_position(column == 1, score) for column, score in zip(targets.T, scores.T, strict=True)]
    precisions = rank_areas(rankings, np.ones((1, len(targets))))[1][0]
    one_sided = np.where((targets == 1).all(axis=0), 1.0, 0.0)
    return float(np.where(np.isnan(precisions), one_sided, precisions).mean())


_MACRO = {"auroc": "auroc", "average_precision": "average_precision", "f1": "macro_f1"}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _check(targets: Labels, scores: Singles) -> None:
    if targets.ndim != 2 or targets.shape != scores.shape or not targets.size:
        raise DataError(
            f"got targets of shape {targets.shape} and scores of shape {scores.shape}; allowed: both (n, C)"
        )
    if not np.isin(targets, (-1, 0, 1)).all():
        raise DataError(f"targets: got {targets.min()} to {targets.max()}; allowed: 1, 0, and -1 for unknown")
    if bad := int((~np.isfinite(scores)).any(axis=1).sum()):
        raise DataError(
            f"scores of {bad} of {len(scores)} images are not finite; embed them again, or train a checkpoint that has "
            "not diverged"
        )
