"""Results of probes: what is scored where classes cannot be fitted, and what is said of splits that share patients."""

import numpy as np
import pytest

from zeroshot_eval.bootstrap import BootstrapConfig
from zeroshot_eval.probe_scoring import ProbeData, score_probe
from zeroshot_eval.scoring import TaskResult
from zeroshot_eval.selection import Item, Selection, Skipped
from zeroshot_eval.suite import ProbeTask

CLASSES = ("fluid", "mass", "never")


def items(prefix: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(0, row, f"{prefix}-{row}", "clinic", "xray", f"clinic/{prefix}-{row // 2}", {}, (), "", {})
        for row in range(count)
    )


def split(prefix: str, count: int, targets: np.ndarray, seed: int) -> tuple[Selection, np.ndarray]:
    """Features that show the first two classes."""
    rng = np.random.default_rng(seed)
    shown = targets if targets.ndim == 2 else np.eye(3)[targets]
    features = np.concatenate([shown[:, :2] * 3.0, np.zeros((count, 2))], axis=1) + rng.normal(0, 0.3, (count, 4))
    return Selection(items(prefix, count), targets), features.astype(np.float32)


def several(count: int, seed: int) -> np.ndarray:
    targets = np.zeros((count, 3), dtype=np.int8)
    targets[:, :2] = np.random.default_rng(seed).integers(0, 2, (count, 2))
    return targets


def probe(kind: str = "single", **changes) -> ProbeTask:
    return ProbeTask(name="p", task="t", modality="xray", kind=kind, classes=CLASSES, **changes)


def test_a_class_that_no_training_image_has_is_named_and_left_out_of_a_multi_label_probe():
    test = several(40, 3)
    test[:5, 2] = 1
    data = ProbeData(
        train=split("train", 60, several(60, 1), 1),
        val=split("val", 30, several(30, 2), 2),
        test=split("test", 40, test, 3),
    )
    found = score_probe("s", probe("multi_label"), data, BootstrapConfig(samples=100))
    assert isinstance(found, TaskResult)
    assert found.classes == ("fluid", "mass")
    assert found.details["unfitted_classes"] == ["never"]
    assert found.measures["auroc"].value > 0.95
    assert "auroc/never" not in found.measures
    assert found.columns["scores"][0].as_py() == pytest.approx(found.scores[0].tolist())
    assert len(found.columns["target"][0].as_py()) == 2


def test_patients_that_are_fitted_on_and_tested_are_counted():
    targets = np.arange(60) % 3
    data = ProbeData(train=split("all", 60, targets, 1), test=split("all", 60, targets, 2))
    found = score_probe("s", probe(), data, None)
    assert isinstance(found, TaskResult)
    assert found.details["test_groups_fitted_on"] == 30


def test_a_single_label_probe_without_images_of_a_class_is_not_fitted():
    targets = np.arange(60) % 2
    data = ProbeData(train=split("train", 60, targets, 1), test=split("test", 60, np.arange(60) % 3, 2))
    found = score_probe("s", probe(), data, None)
    assert isinstance(found, Skipped)
    assert found.reason == "class 2 of 3 has no training image"


def test_few_shot_values_are_means_over_draws():
    targets = np.arange(60) % 3
    data = ProbeData(train=split("train", 60, targets, 1), test=split("test", 60, targets, 2))
    found = score_probe("s", probe(shots=(2,), repeats=3), data, BootstrapConfig(samples=100))
    assert isinstance(found, TaskResult)
    one = found.measures["2_shot/accuracy"]
    assert one.chance == pytest.approx(1 / 3)
    assert len(one.replicates) == 100
    assert found.details["2_shot"]["draws"] == 3
    assert len(found.details["2_shot"]["chosen_c"]) == 3
    assert 0 <= found.details["2_shot"]["deviation_over_draws"]["accuracy"] < 0.5
