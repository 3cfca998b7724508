"""The guard: what is kept, skipped and stopped, the same after a resume; and out of memory that names the setting."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipmed.errors import ClipmedError
from train.config import GradCacheConfig, GuardConfig, LossConfig, ParallelConfig, TrainConfig
from train.guard import SCALER_OVERFLOWS, Guard, RefusedStep, Verdict
from train.memory_errors import MemoryStage, is_out_of_memory, naming_the_knob
from train.recipes import recipe

NAN, INF = math.nan, math.inf


def actions(guard: Guard, losses: list[float]) -> list[str]:
    return [guard.judge(loss, 1.0).action for loss in losses]


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (2.0, NAN), (2.0, INF), (-INF, NAN)])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_is_not_finite_goes_by_the_policy(loss: float, norm: float, policy: str) -> None:
    verdict = Guard(GuardConfig(not_finite=policy)).judge(loss, norm)  # type: ignore[arg-type]
    assert verdict.action == policy
    assert verdict.trouble == "not_finite"
    assert f"loss {loss}, gradient norm {norm}; both must be finite" in verdict.reason
    assert "optim.lr" in verdict.remedy


def test_infinite_gradients_are_left_to_the_loss_scaler() -> None:
    guard = Guard(GuardConfig())
    assert guard.judge(2.0, INF, scaler_active=True) == Verdict("keep")
    assert guard.num_skipped == 1  # the scaler skips it
    assert guard.judge(NAN, INF, scaler_active=True).action == "stop"


def test_a_loss_scaler_that_never_finds_a_factor_stops_the_run() -> None:
    guard = Guard(GuardConfig(not_finite="skip"))
    for _ in range(SCALER_OVERFLOWS - 1):
        assert guard.judge(2.0, INF, scaler_active=True).action == "keep"
    verdict = guard.judge(2.0, NAN, scaler_active=True)
    assert verdict.action == "stop"
    assert "bf16" in verdict.remedy
    guard.judge(2.0, 1.0, scaler_active=True)  # one good step, and the count begins anew
    assert guard.judge(2.0, INF, scaler_active=True).action == "keep"


def test_a_spike_is_told_from_the_losses_kept_before() -> None:
    guard = Guard(GuardConfig(spike="skip", spike_deviations=3.0, window=4))
    # mean 2.5, deviation sqrt(1.25) = 1.118: a spike is above 5.854
    assert actions(guard, [1.0, 2.0, 3.0, 4.0]) == ["keep"] * 4
    assert guard.judge(5.86, 1.0).action == "skip"
    assert guard.judge(5.86, 1.0).action == "skip"  # a skipped loss does not raise the bar
    assert guard.judge(5.85, 1.0).action == "keep"
    # 2, 3, 4, 5.85: mean 3.7125, deviation 1.424: above 7.98
    verdict = guard.judge(8.0, 1.0)
    assert (verdict.action, verdict.trouble) == ("skip", "spike")
    assert "loss 8, 3.0 standard deviations above the mean 3.712 of the 4 steps before; allowed: 3" in verdict.reason
    assert guard.num_skipped == 3


def test_no_spike_is_seen_before_the_window_is_full_or_where_they_are_ignored() -> None:
    config = GuardConfig(spike="stop", window=5)
    assert actions(Guard(config), [1.0, 1.1, 1.0, 1.1, 99.0]) == ["keep"] * 5
    assert actions(Guard(config), [1.0, 1.1, 1.0, 1.1, 1.0, 99.0])[-1] == "stop"
    assert actions(Guard(replace(config, spike="ignore")), [1.0, 1.1, 1.0, 1.1, 1.0, 99.0])[-1] == "keep"
    assert actions(Guard(config), [1.0] * 5 + [1.0 + 1e-6]) == ["keep"] * 6  # equal losses, and a rounding more
    assert actions(Guard(config), [1.0, 1.1, 1.0, 1.1, 1.0, -99.0])[-1] == "keep"  # only up is a spike


def test_too_many_skipped_in_a_row_stop_the_run() -> None:
    guard = Guard(GuardConfig(not_finite="skip", max_skipped=3))
    assert actions(guard, [NAN, NAN, 1.0, NAN, NAN, NAN]) == ["skip", "skip", "keep", "skip", "skip", "stop"]
    reason = Guard(GuardConfig(not_finite="skip", max_skipped=1)).judge(NAN, 1.0).reason
    assert "guard.max_skipped" in reason


def test_a_resumed_guard_decides_as_an_uninterrupted_one() -> None:
    config = GuardConfig(not_finite="skip", spike="skip", spike_deviations=4.0, window=12, max_skipped=10)
    generator = np.random.default_rng(0)
    losses = [float(loss) for loss in generator.normal(3.0, 0.5, 300)]
    losses[50:53] = [NAN, 9.0, NAN]
    whole = Guard(config)
    wanted = [whole.judge(loss, 1.0) for loss in losses]
    assert {verdict.action for verdict in wanted} == {"keep", "skip"}
    for cut in (0, 5, 51, 52, 150):
        first, second = Guard(config), Guard(config)
        got = [first.judge(loss, 1.0) for loss in losses[:cut]]
        second.restore(json.loads(json.dumps(first.state())))
        got += [second.judge(loss, 1.0) for loss in losses[cut:]]
        assert got == wanted
        assert second.num_skipped == whole.num_skipped
        assert second.state() == whole.state()


def test_steps_skipped_in_a_row_are_counted_over_a_resume() -> None:
    config = GuardConfig(not_finite="skip", max_skipped=3)
    first, second = Guard(config), Guard(config)
    assert actions(first, [NAN, NAN]) == ["skip", "skip"]
    second.restore(first.state())
    assert actions(second, [NAN]) == ["stop"]
    overflowing, resumed = Guard(config), Guard(config)
    for _ in range(SCALER_OVERFLOWS - 1):
        overflowing.judge(2.0, INF, scaler_active=True)
    resumed.restore(overflowing.state())
    assert resumed.judge(2.0, INF, scaler_active=True).action == "stop"


def test_a_refused_step_names_its_samples_the_worst_first(tmp_path: Path) -> None:
    verdict = Guard(GuardConfig()).judge(NAN, 1.0)
    step = RefusedStep(
        step=7, rank=1, loss=NAN, grad_norm=1.0, verdict=verdict, keys=["a", "b", "c", "d"], losses=[1.0, 2.0, NAN, 0.5]
    )
    path = step.write(tmp_path)
    assert path == tmp_path / "not_finite_step_7_rank_1.json"
    content = json.loads(path.read_text())
    assert content["keys"] == ["c", "b", "a", "d"]
    assert content["losses"] == ["nan", "2.0", "1.0", "0.5"]
    assert (content["step"], content["action"], content["loss"]) == (7, "stop", "nan")
    message = str(step.error(path))
    assert message.startswith("step 7: loss nan, gradient norm 1.0; both must be finite. The weights were not changed.")
    assert "Samples: a, b, c … (all 4 keys in" in message
    assert message.endswith("the newest checkpoint stands")
    skipped = replace(step, verdict=verdict._replace(action="skip"))
    assert skipped.message(path).startswith("skipped step 7: ")
    assert "checkpoint" not in skipped.message(path)


def with_settings(gradcache: GradCacheConfig, loss: LossConfig, parallel: ParallelConfig) -> TrainConfig:
    base = recipe("demo_smoke")
    return replace(base, data=replace(base.data, batch_size=64), gradcache=gradcache, loss=loss, parallel=parallel)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("image", ["image tower", "gradcache.image_micro_batch (now 16; try 8)", "kept_graphs (now 4; try 2)"]),
        ("text", ["text tower", "gradcache.text_tokens (now 2048; try 1024)", "recompute_activations (now False"]),
        ("loss", ["in the loss", "loss.tile (now None: chosen by itself; try 1024)"]),
        ("optimizer", ["optimiser", "parallel.shard_weights (now False), on several processes; try True"]),
    ],
)
def test_running_out_of_memory_names_the_setting_and_what_to_try(stage: MemoryStage, wanted: list[str]) -> None:
    gradcache = GradCacheConfig(image_micro_batch=16, text_tokens=2048, kept_graphs=4)
    config = with_settings(gradcache, LossConfig(), ParallelConfig())
    with pytest.raises(ClipmedError, match="out of memory") as caught, naming_the_knob(stage, config):
        torch.empty(2**46)  # 256 TiB: the allocator refuses
    message = str(caught.value)
    assert all(words in message for words in wanted), message
    assert "281474976710656 bytes" in message
    assert "newest checkpoint stands" in message


def test_the_suggestion_starts_from_what_is_set() -> None:
    config = with_settings(
        GradCacheConfig(kept_graphs=1), LossConfig(tile=512), ParallelConfig(recompute_activations=True)
    )
    with pytest.raises(ClipmedError) as caught, naming_the_knob("image", config, world_size=4):
        np.empty(2**50)  # NumPy has an exception of its own
    assert "Turn one of these: gradcache.image_micro_batch (now None: all 16; try 8). The newest" in str(caught.value)
    with pytest.raises(ClipmedError, match=r"loss.tile \(now 512; try 256\)"), naming_the_knob("loss", config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape") as caught, naming_the_knob("image", recipe("demo_smoke")):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not isinstance(caught.value, ClipmedError)
    assert not is_out_of_memory(ValueError("out of memory"))
