"""How many activations are kept: as many as the free memory holds, measured on real graphs."""

from __future__ import annotations

import pytest
import torch

from train import memory
from train.memory import GraphBudget

CPU = torch.device("cpu")


def measured(free: float, monkeypatch: pytest.MonkeyPatch) -> GraphBudget:
    """A budget whose image graphs hold 1,000 bytes an image and text graphs 100 a token."""
    budget = GraphBudget(None, CPU)
    for tower, units, size in (("image", 4, 1000), ("text", 50, 1250)):
        with budget.measuring(tower, units):  # type: ignore[arg-type]
            leaf = torch.zeros(size, requires_grad=True)
            kept = leaf.exp()  # saves its result, float32
        assert kept.requires_grad
    monkeypatch.setattr(memory, "_free_bytes", lambda _device: free)
    budget.settle()
    return budget


def test_before_anything_is_known_one_micro_batch_of_each_is_kept() -> None:
    assert GraphBudget(None, CPU).kept({"image": [8, 8, 8], "text": [64, 64]}) == {"image": 1, "text": 1}


def test_a_fixed_number_is_kept_as_far_as_there_are_so_many() -> None:
    assert GraphBudget(2, CPU).kept({"image": [8, 8, 8], "text": [64]}) == {"image": 2, "text": 1}


@pytest.mark.parametrize(
    ("free", "kept"), [(0, (1, 1)), (3999, (1, 1)), (4000, (2, 1)), (8000, (3, 1)), (13_000, (3, 2)), (10**9, (3, 4))]
)
def test_the_free_memory_is_filled_images_first(
    free: float, kept: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = measured(free, monkeypatch)
    assert budget.kept({"image": [4, 4, 4], "text": [50, 50, 50, 50]}) == {"image": kept[0], "text": kept[1]}


def test_parameters_are_no_activations() -> None:
    layer = torch.nn.Linear(100, 100)
    budget = GraphBudget(None, CPU, layer.parameters())
    with budget.measuring("image", 1):
        layer(torch.zeros(1, 100)).sum()
    assert budget._bytes_per_unit["image"] <= 100 * 4


def test_the_free_memory_of_this_machine_is_a_positive_number_of_bytes() -> None:
    assert memory._free_bytes(CPU) > 0
