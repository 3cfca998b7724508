"""A run on paper: batch, steps, tokens, memory, traffic and hours, from the config, the sets and the model itself.

Nothing here was measured on a GPU. Activations are those that a pass on the CPU keeps, without torch.compile, which
keeps fewer; hours are FLOPs over a share of the device's peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.config import TrainConfig, check_runnable
from train.dataset import PORTION_SAMPLES
from train.facts import TOWERS, DataFacts, ModelFacts, build_for_counting, data_facts, model_facts
from train.flops import PEAKS
from train.launch import num_processes
from train.memory import TowerName
from train.texts import TextPlan, plan_texts
from train.tiles import TILE_NUMBERS

GPUS = ("H100", "A100")
MFUS = (0.25, 0.45)
GB = 1e9
FLOAT_BYTES = 4
BATCHES_HELD = 3  # the one that trains, the next one, and the portions that it is put together from
PORTIONS_AHEAD = 4  # of each loader process
STREAM_BYTES = 40  # of a sample
TILES_HELD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will take.

    Bytes are of one process; FLOPs are of the global batch. `step_flops` counts real patches and tokens once;
    `done_flops` adds second forward passes with one micro-batch of each tower kept, or as many as the config says.
    """

    nodes: int
    processes: int
    batch_size: int
    local_batch: int
    steps: int
    samples: int
    micro_batches: dict[TowerName, int]
    parameters: dict[TowerName, int]
    trained: dict[TowerName, int]
    mean_tokens: float
    cut_share: float
    padding_share: float
    step_flops: float
    done_flops: float
    state_bytes: float
    graph_bytes: dict[TowerName, float]
    loss_bytes: float
    batches_bytes: float
    snapshot_bytes: float
    checkpoint_bytes: float
    checkpoints_kept: int
    embeddings_sent: float
    gradients_sent: float
    weights_sent: float
    sample_ms: float | None

    @property
    def pairs(self) -> int:
        """Pairs of the whole run."""
        return self.steps * self.batch_size

    @property
    def epochs(self) -> float:
        """How often each sample is seen."""
        return self.pairs / self.samples

    @property
    def device_bytes(self) -> float:
        """Least memory of a process's device, with one micro-batch's activations kept."""
        return self.state_bytes + sum(self.graph_bytes.values()) + self.loss_bytes

    @property
    def host_bytes(self) -> float:
        """Memory of a process and its loaders beside the weights' device, without what Python and its libraries take."""
        return self.batches_bytes + self.snapshot_bytes + STREAM_BYTES * self.samples

    @property
    def disk_bytes(self) -> float:
        """Room for checkpoints in the run folder, one of them being written."""
        return self.checkpoint_bytes * self.checkpoints_kept

    @property
    def sent_bytes(self) -> float:
        """What a process sends in a step, and receives as well."""
        return self.embeddings_sent + self.gradients_sent + self.weights_sent

    def pairs_per_s(self, peak: float, mfu: float) -> float:
        """Return the pairs a second of the whole run, on devices of this peak (FLOP/s) at this utilisation."""
        return self.batch_size * peak * mfu * self.processes / self.step_flops

    def hours(self, peak: float, mfu: float) -> float:
        """Return the hours of the run, without validation and scores, on devices of this peak at this utilisation."""
        return self.pairs / self.pairs_per_s(peak, mfu) / 3600

    def loader_cores(self, pairs_per_s: float) -> float | None:
        """Return how many cores load so many pairs a second, or None where loading was not measured."""
        return None if self.sample_ms is None else pairs_per_s * self.sample_ms / 1000


def estimate(config: TrainConfig) -> Estimate:
    """Work out a run without training: builds the model on the CPU and loads the first samples.

    Raises:
        ConfigError: settings that cannot run.
        DataError: sets or samples that cannot be read.
    """
    check_runnable(config, num_processes(config.jobs))
    two_tower = build_for_counting(config)
    data = data_facts(config, two_tower)
    return make_estimate(config, model_facts(config, two_tower), data)


def make_estimate(config: TrainConfig, model: ModelFacts, data: DataFacts) -> Estimate:
    """Work out a run from facts that are known."""
    processes = num_processes(config.jobs)
    local = config.data.batch_size // processes
    lengths = data.lengths.repeat(-(-local // len(data.lengths)))[:local]
    plan = plan_texts(lengths, model.context_length, config.gradcache)
    image_units = min(config.gradcache.image_micro_batch or local, local)
    parts: dict[TowerName, int] = {"image": -(-local // image_units), "text": len(plan.rows)}
    trained = sum(model.trained.values())
    mean_bytes = 0 if config.optim.ema_decay is None else FLOAT_BYTES
    saved = FLOAT_BYTES * sum(model.parameters.values()) + (2 * FLOAT_BYTES + mean_bytes) * trained
    shares = processes if config.parallel.shard_weights else 1
    sample_bytes = 3 * model.image_side**2 + 8 * model.context_length
    portions = config.data.workers * PORTIONS_AHEAD * PORTION_SAMPLES
    others = 1 - 1 / processes
    return Estimate(
        nodes=config.jobs.nodes,
        processes=processes,
        batch_size=config.data.batch_size,
        local_batch=local,
        steps=config.optim.steps,
        samples=data.samples,
        micro_batches=parts,
        parameters=model.parameters,
        trained=model.trained,
        mean_tokens=float(data.lengths.double().mean()),
        cut_share=float((data.lengths >= model.context_length).double().mean()),
        padding_share=1 - float(lengths.sum()) / sum(plan.tokens),
        step_flops=_mean_flops(config, model, data.lengths, again=False),
        done_flops=_mean_flops(config, model, data.lengths, again=True, parts=parts),
        state_bytes=(saved + FLOAT_BYTES * trained) / shares,
        graph_bytes={
            "image": model.graphs["image"].of(image_units),
            "text": model.graphs["text"].of(max(plan.tokens)),
        },
        loss_bytes=_loss_bytes(local, config.data.batch_size, model.dimension),
        batches_bytes=float((BATCHES_HELD * local + portions) * sample_bytes),
        snapshot_bytes=saved / (processes if config.checkpoint.format == "sharded" else 1),
        checkpoint_bytes=float(saved),
        checkpoints_kept=config.checkpoint.keep + 1 + (config.checkpoint.best_metric is not None),
        embeddings_sent=4 * FLOAT_BYTES * model.dimension * config.data.batch_size * others,
        gradients_sent=(1 if shares > 1 else 2) * FLOAT_BYTES * trained * others,
        weights_sent=_gathered_weights(config, model, parts) * others if shares > 1 else 0.0,
        sample_ms=data.sample_ms,
    )
