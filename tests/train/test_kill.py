"""kill -9 at ten random moments, and the weights are those of the run that nobody disturbed."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace

import pytest

from tests.train.test_loop import assert_same_weights, metrics, start
from train.config import TrainConfig
from train.loop import train
from train.tracking import METRICS_FILE, read_metrics

STEPS = 60
KILLS = 10
PATIENCE_S = 120


def last_step(config: TrainConfig) -> int:
    rows = read_metrics(config.out / METRICS_FILE, "train")
    return int(rows[-1]["step"]) if rows else 0


@pytest.mark.slow
def test_kill_9_at_ten_random_moments_changes_no_bit(config: TrainConfig) -> None:
    long = replace(
        config,
        optim=replace(config.optim, steps=STEPS, ema_decay=0.9),
        data=replace(config.data, workers=1),
        checkpoint=replace(config.checkpoint, every_steps=3),
        validate=replace(config.validate, every_steps=20),
        tracking=replace(config.tracking, page=False),
    )
    whole = replace(long, out=config.out.with_name("whole"))
    train(whole)
    moments = random.Random(4)
    for target in sorted(moments.sample(range(1, STEPS - 4), KILLS)):
        process = start(long)
        deadline = time.monotonic() + PATIENCE_S
        while last_step(long) < target and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not (long.out / "model").exists()
    train(long)
    assert_same_weights(long.out, whole.out)
    assert metrics(long.out) == metrics(whole.out)
