from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from train.config import GradCacheConfig, ParallelConfig
from train.estimate import estimate, lines, make_estimate
from train.facts import (
    DataFacts,
    GraphBytes,
    ModelFacts,
    _WithoutAttentionDropout,
    build_for_counting,
    data_facts,
    model_facts,
)
from train.flops import ModelFlops
from train.loop import train
from train.memory import GraphBudget
from train.recipes import RECIPES
from train.step import Encoders

MODEL = ModelFacts(
    flops=ModelFlops(image=1000, text_fixed=10, text_linear=4, text_square=1),
    parameters={"image": 600, "text": 400},
    trained={"image": 600, "text": 400},
    graphs={"image": GraphBytes(500, 20), "text": GraphBytes(300, 3)},
    dimension=8,
    image_side=32,
    context_length=16,
)
# 10 + 4 n + n² at n = 2 and n = 16 is 22 and 330: 176 on average
DATA = DataFacts(samples=100, lengths=torch.tensor([2, 16]), sample_ms=2.0, stored_bytes=50_000)


def sized(config, **jobs):
    """Ten steps of 64 pairs, images by eight and texts by 64 tokens."""
    return replace(
        config,
        data=replace(config.data, batch_size=64, workers=2),
        optim=replace(config.optim, steps=10),
        gradcache=GradCacheConfig(image_micro_batch=8, text_tokens=64),
        jobs=JobsConfig(executor="inline", **jobs),
    )


def test_batch_steps_and_tokens_by_hand(config):
    made = make_estimate(sized(config, nodes=2, gpus_per_node=2), MODEL, DATA)
    assert (made.nodes, made.processes, made.local_batch) == (2, 4, 16)
    assert (made.steps, made.pairs, made.epochs) == (10, 640, 6.4)
    # of a process's 16 texts, eight are cut to 8 columns, which fits 64 tokens, and eight have 16, four at a time
    assert made.micro_batches == {"image": 2, "text": 3}
    assert made.mean_tokens == 9
    assert made.cut_share == 0.5
    assert made.padding_share == pytest.approx(1 - (8 * 2 + 8 * 16) / (64 + 128))


def test_flops_and_hours_by_hand(config):
    made = make_estimate(sized(config, nodes=2, gpus_per_node=2), MODEL, DATA)
    assert made.step_flops == 64 * 3 * (1000 + 176)
    # one micro-batch of each tower is kept: half of the images and two thirds of the texts pay a second pass
    assert made.done_flops - made.step_flops == pytest.approx(64 * (1000 / 2 + 176 * 2 / 3))
    per_second = 4 * 1e6 * 0.5 / (3 * 1176)
    assert made.pairs_per_s(1e6, 0.5) == pytest.approx(per_second)
    assert made.hours(1e6, 0.5) == pytest.approx(640 / per_second / 3600)
    assert made.loader_cores(1000) == 2


def test_memory_by_hand(config):
    base = sized(config, nodes=2, gpus_per_node=2)
    made = make_estimate(base, MODEL, DATA)
    # weights, gradients and AdamW's two means, four bytes each
    assert made.state_bytes == 1000 * 16
    assert made.checkpoint_bytes == made.snapshot_bytes == 1000 * 12
    assert made.disk_bytes == (base.checkpoint.keep + 1) * 12_000
    assert made.graph_bytes == {"image": 500 + 8 * 20, "text": 300 + 64 * 3}
    sample = 3 * 32 * 32 + 8 * 16
    assert made.batches_bytes == (3 * 16 + 2 * 4 * 256) * sample
    assert made.host_bytes == made.batches_bytes + made.snapshot_bytes + 40 * 100
    # eight vectors of 8 numbers for an own row, six for every row, and three tiles of 16 x 64
    assert made.loss_bytes == 4 * (8 * (8 * 16 + 6 * 64) + 3 * 16 * 64)
    assert made.device_bytes == made.state_bytes + 660 + 492 + made.loss_bytes


def test_traffic_by_hand(config):
    made = make_estimate(sized(config, nodes=2, gpus_per_node=2), MODEL, DATA)
    # two towers, gathered and scattered; a ring sends the share of the other processes
    assert made.embeddings_sent == 2 * 2 * 64 * 8 * 4 * 3 / 4
    assert made.gradients_sent == 2 * 1000 * 4 * 3 / 4
    assert made.weights_sent == 0
    alone = make_estimate(sized(config), MODEL, DATA)
    assert alone.sent_bytes == 0


def test_sharding_divides_the_state_and_gathers_weights_for_every_pass(config):
    base = sized(config, nodes=2, gpus_per_node=2)
    base = replace(
        base, parallel=ParallelConfig(shard_weights=True), checkpoint=replace(base.checkpoint, format="sharded")
    )
    made = make_estimate(base, MODEL, DATA)
    assert made.state_bytes == 1000 * 16 / 4
    assert made.snapshot_bytes == 1000 * 12 / 4
    assert made.gradients_sent == 1000 * 4 * 3 / 4
    # images: one micro-batch of two passes and one of three; texts: one of two and two of three
    assert made.weights_sent == (600 * 5 + 400 * 8) * 4 * 3 / 4


def test_a_running_mean_and_a_best_checkpoint_take_room(config):
    base = sized(config)
    more = replace(
        base,
        optim=replace(base.optim, ema_decay=0.99),
        checkpoint=replace(base.checkpoint, best_metric="image_to_text_r5"),
    )
    made, before = make_estimate(more, MODEL, DATA), make_estimate(base, MODEL, DATA)
    assert made.state_bytes - before.state_bytes == 4000
    assert made.disk_bytes == (base.checkpoint.keep + 2) * 16_000


def test_kept_graphs_trade_memory_for_passes(config):
    base = sized(config, gpus_per_node=4)
    made = {
        kept: make_estimate(replace(base, gradcache=replace(base.gradcache, kept_graphs=kept)), MODEL, DATA)
        for kept in (0, 1, 2, 9)
    }
    assert made[0].graph_bytes == made[1].graph_bytes
    assert made[2].graph_bytes["image"] == 2 * made[1].graph_bytes["image"]
    assert made[0].done_flops == made[0].step_flops + 64 * 1176
    assert made[9].done_flops == made[9].step_flops


def test_recomputing_costs_a_pass_and_a_locked_tower_none(config):
    base = sized(config, gpus_per_node=4)
    again = make_estimate(replace(base, parallel=ParallelConfig(recompute_activations=True)), MODEL, DATA)
    assert again.done_flops - make_estimate(base, MODEL, DATA).done_flops == pytest.approx(64 * 1176)
    locked = make_estimate(replace(base, optim=replace(base.optim, locked=("image",))), MODEL, DATA)
    assert locked.done_flops - locked.step_flops == pytest.approx(64 * 176 * 2 / 3)


def test_facts_of_the_model_are_measured_on_it(config):
    two_tower = build_for_counting(config)
    found = model_facts(config, two_tower)
    assert sum(found.parameters.values()) == sum(each.numel() for each in two_tower.model.parameters()) - 1
    assert found.trained == found.parameters
    budget = GraphBudget(None, torch.device("cpu"), two_tower.model.parameters())
    with budget.measuring("image", 5):
        Encoders(two_tower, nullcontext).images(torch.zeros((5, 32, 32, 3), dtype=torch.uint8))
    assert found.graphs["image"].of(5) == pytest.approx(5 * budget.bytes_per_unit("image"))


def graphs_of(config, **changes):
    return model_facts(replace(config, **changes), build_for_counting(config)).graphs


def test_recomputed_and_locked_towers_hold_less(config):
    whole = graphs_of(config)
    recomputed = graphs_of(config, parallel=ParallelConfig(recompute_activations=True))
    locked = graphs_of(config, optim=replace(config.optim, locked=("image",)))
    assert recomputed["image"].of(8) < whole["image"].of(8) * 2 / 3
    assert recomputed["text"].of(96) < whole["text"].of(96) * 2 / 3
    assert locked["image"].of(8) < whole["image"].of(8) * 2 / 3
    assert locked["text"] == whole["text"]


def test_weights_that_lie_in_bf16_for_a_pass_are_counted_once_a_micro_batch(config):
    in_bf16 = graphs_of(config, precision="bf16")
    assert in_bf16["image"].fixed - graphs_of(config)["image"].fixed > 2 * 16 * 16 * 8  # bytes; the MLP alone has more
    assert in_bf16["image"].per_unit < graphs_of(config)["image"].per_unit


def test_attention_with_dropout_is_counted_as_cuda_does_it():
    torch.manual_seed(0)
    query = torch.randn(1, 1, 64, 8, requires_grad=True)

    def attend(dropout):
        return torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=dropout)

    with _WithoutAttentionDropout():
        assert torch.equal(attend(0.5), attend(0.0))
    assert not torch.equal(attend(0.5), attend(0.0))


def test_facts_of_the_data_are_those_of_the_first_samples(config):
    two_tower = build_for_counting(config)
    found = data_facts(config, two_tower)
    assert found.samples == 72  # of 96, every fourth validates
    assert len(found.lengths) == 256
    assert 5 <= float(found.lengths.double().mean()) <= 9  # three to six words, a comma, start and end
    assert found.sample_ms > 0
    shards = [path.stat().st_size for path in Path(config.data.sets[0]).glob("*.tar")]
    assert 0 < found.stored_bytes < sum(shards) / 96


def test_checkpoints_are_as_large_as_estimated(config):
    config = replace(config, optim=replace(config.optim, ema_decay=0.9, locked=("image",)))
    made = estimate(config)
    train(config)
    newest = max((config.out / "checkpoints").glob("step_*"))
    assert sum(path.stat().st_size for path in newest.iterdir()) == pytest.approx(made.checkpoint_bytes, rel=0.01)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_smoke")])
def test_every_smoke_recipe_is_planned_without_a_network(name, shard_set, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("a plan opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    config = RECIPES[name]()
    printed = dict(lines(estimate(replace(config, data=replace(config.data, sets=(shard_set,))))))
    assert printed["steps"] == "6: 96 pairs, 1.33 epochs of 72 samples"
    assert printed["global batch"] == "16 pairs, 16 a process"
    assert {"device memory", "host memory", "disk", "sent a step", "on H100s", "loading"} <= printed.keys()


def test_what_cannot_run_is_not_planned(config):
    with pytest.raises(ConfigError, match=r"data\.sets: got none"):
        estimate(replace(config, data=replace(config.data, sets=())))
    with pytest.raises(ConfigError, match=r"data\.batch_size: got 16 for 3 processes"):
        estimate(replace(config, jobs=JobsConfig(executor="inline", gpus_per_node=3)))


def test_long_and_short_runs_are_said_in_fitting_units(config):
    printed = dict(lines(make_estimate(sized(config), MODEL, DATA)))
    assert printed["on H100s"].startswith("under a minute at 25% MFU")
    model = replace(MODEL, flops=replace(MODEL.flops, image=1e15))
    printed = dict(lines(make_estimate(sized(config), model, DATA)))
    assert printed["on H100s"].startswith("2.16 h at 25% MFU (0.08242 pairs/s), 1.2 h at 45% MFU")
