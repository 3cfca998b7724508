"""What a row of the log says of the steps since the one before: means by source, rates over all of the time."""

from __future__ import annotations

import pytest
import torch

from tests.train.gradients import small_batch
from train.meters import Meter
from train.step import StepLoss


def test_losses_and_shares_of_sources_by_hand() -> None:
    meter = Meter(source_names=["ct", "web", "never"], world_size=1, device=torch.device("cpu"), peak=None)
    for sources, rows in (([0, 0, 1], [1.0, 3.0, 10.0]), ([1, 1, 1], [20.0, 20.0, 30.0])):
        batch = small_batch(3)
        batch.sources = torch.tensor(sources)
        loss = StepLoss(torch.tensor(0.0), torch.tensor(rows), tokens=50)
        meter.add(batch, loss, 0.0, seconds=2.0, wait_seconds=0.5)
    row = meter.take()
    assert row["loss/ct"] == 2.0
    assert row["loss/web"] == 20.0
    assert "loss/never" not in row
    assert (row["share/ct"], row["share/web"], row["share/never"]) == pytest.approx((2 / 6, 4 / 6, 0.0))
    assert (row["pairs_per_s"], row["tokens_per_s"], row["data_wait"]) == (1.5, 25.0, 0.25)
    assert row["mfu"] is None
    assert row["peak_memory_gb"] > 0.05
    assert meter.take()["share/ct"] == 0.0


def test_utilisation_is_real_work_over_what_the_device_could_do() -> None:
    meter = Meter(source_names=["ct"], world_size=1, device=torch.device("cpu"), peak=100.0)
    batch = small_batch(3)
    meter.add(batch, StepLoss(torch.tensor(0.0), torch.zeros(3), 9), 50.0, seconds=2.0, wait_seconds=0.0)
    assert meter.take()["mfu"] == 0.25
