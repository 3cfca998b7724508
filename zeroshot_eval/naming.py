"""How metrics, modalities and tasks are called where people read them."""

from __future__ import annotations

METRIC_NAMES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "auroc_cosine": "AUROC of cosines",
    "average_precision": "average precision",
    "average_precision_cosine": "average precision of cosines",
    "macro_f1": "macro F1",
    "quadratic_kappa": "quadratic kappa",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
    "map": "mAP",
    "mrr": "MRR",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
}
MODALITY_NAMES = {
    "xray": "X-ray",
    "ct": "CT",
    "mri": "MRI",
    "oct": "OCT",
    "nuclear": "Nuclear imaging",
    "mixed": "Mixed modalities",
}
RULES = {"own_": "own", "same_text_": "same text"}  # which captions count as right, where a task reports both
LOWER_IS_BETTER = ("ece", "brier", "nll", "median_rank", "mean_rank")


def metric_name(metric: str) -> str:
    """Return a metric as a reader writes it: `image_to_text/own_mrr` is "image to text, own MRR"."""
    *path, name = metric.split("/")
    rule, name = _rule(name)
    words = METRIC_NAMES.get(name, spaced(name))
    return ", ".join([*map(spaced, path), f"{RULES[rule]} {words}" if rule else words])


def modality_name(modality: str | None) -> str:
    """Return a modality as a reader writes it."""
    return "" if modality is None else MODALITY_NAMES.get(modality, spaced(modality).capitalize())


def spaced(name: str) -> str:
    """Return an identifier as words."""
    return name.replace("_", " ")


def lower_is_better(metric: str) -> bool:
    """Return whether a smaller value of the metric is the better one."""
    return _rule(metric.rsplit("/", 1)[-1])[1] in LOWER_IS_BETTER


def is_other_rule(metric: str) -> bool:
    """Return whether a retrieval's metric is of the other rule of what is right than the task's own."""
    return bool(_rule(metric.rsplit("/", 1)[-1])[0])


def _rule(name: str) -> tuple[str, str]:
    rule = next((prefix for prefix in RULES if name.startswith(prefix)), "")
    return rule, name.removeprefix(rule)
