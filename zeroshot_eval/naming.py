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
LOWER_IS_BETTER = ("ece", "brier", "nll", "median_rank", "mean_rank")


def metric_name(metric: str) -> str:
    """Return a metric as a reader writes it: `image_to_text/recall@5` is "image to text, recall@5"."""
    *path, name = metric.split("/")
    return ", ".join([*map(spaced, path), METRIC_NAMES.get(name, spaced(name))])


def modality_name(modality: str | None) -> str:
    """Return a modality as a reader writes it."""
    return "" if modality is None else MODALITY_NAMES.get(modality, spaced(modality).capitalize())


def spaced(name: str) -> str:
    """Return an identifier as words."""
    return name.replace("_", " ")


def lower_is_better(metric: str) -> bool:
    """Return whether a smaller value of the metric is the better one."""
    return metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER
