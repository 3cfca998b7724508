"""Running means by hand, swapping them in and out, and points between initial and trained weights."""

from __future__ import annotations

import pytest
import torch

from train.averaging import WeightAverage, interpolate


def layer(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(made.weight, value)
    made.bias.requires_grad_(False)
    return made


def test_the_mean_of_three_steps_by_hand() -> None:
    model = layer(0.0)
    average = WeightAverage(model, 0.15)
    torch.nn.init.constant_(model.weight, 1.0)
    average.update(model, 0)  # decay min(0.15, 1/10)
    torch.testing.assert_close(average.tensors["weight"], torch.full((1, 2), 0.9))
    torch.nn.init.constant_(model.weight, 2.0)
    average.update(model, 1)  # decay min(0.15, 2/11)
    torch.testing.assert_close(average.tensors["weight"], torch.full((1, 2), 0.15 * 0.9 + 0.85 * 2.0))
    assert average.tensors.keys() == {"weight"}


def test_the_mean_is_swapped_in_and_out_again() -> None:
    model = layer(3.0)
    average = WeightAverage(model, 0.5)
    torch.nn.init.constant_(model.weight, 7.0)
    with average.swapped(model):
        assert model.weight[0, 0].item() == 3.0
    assert model.weight[0, 0].item() == 7.0
    assert average.tensors["weight"][0, 0].item() == 3.0


def test_statistics_are_averaged_and_what_is_not_saved_is_left_alone() -> None:
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.full((2,), -torch.inf), persistent=False)
    average = WeightAverage(model, 0.5)
    model(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))  # running mean 0 + 0.1 x (2, 0)
    average.update(model, 100)
    assert average.tensors.keys() == {"weight", "bias", "running_mean", "running_var"}
    torch.testing.assert_close(average.tensors["running_mean"], torch.tensor([0.1, 0.0]))
    with average.swapped(model):
        torch.testing.assert_close(model.running_mean, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(model.running_mean, torch.tensor([0.2, 0.0]))
    assert model.mask.tolist() == [-torch.inf, -torch.inf]


def test_the_own_weights_come_back_after_an_error() -> None:
    model = layer(3.0)
    average = WeightAverage(model, 0.5)
    torch.nn.init.constant_(model.weight, 7.0)
    with pytest.raises(RuntimeError, match="validation"), average.swapped(model):
        raise RuntimeError("validation")
    assert model.weight[0, 0].item() == 7.0


def test_interpolation_takes_a_share_of_the_way_and_leaves_integers() -> None:
    initial = {"w": torch.zeros(2), "n": torch.tensor(1)}
    trained = {"w": torch.ones(2), "n": torch.tensor(5)}
    assert interpolate(initial, trained, 0.25)["w"].tolist() == [0.25, 0.25]
    assert interpolate(initial, trained, 0.25)["n"].item() == 5
    assert torch.equal(interpolate(initial, trained, 1.0)["w"], trained["w"])
