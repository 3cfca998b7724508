"""A run on paper: batch, steps, tokens, memory, traffic and hours, from the config, the sets and the model itself.

Nothing here was measured on a GPU. Activations are those that a pass on the CPU keeps, without torch.compile, which
keeps fewer; hours are FLOPs over a share of the device's peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.charts import compact
from train.config import TrainConfig, check_runnable
from train.dataset import PORTION_SAMPLES
from train.facts import TOWERS, DataFacts, ModelFacts, build_for_counting, data_facts, model_facts
from train.flops import PEAKS
from train.launch import num_processes
from train.memory import TowerName
from train.texts import plan_texts
from train.tiles import TILE_NUMBERS

GPUS = ("H100", "A100")
MFUS = (0.25, 0.45)
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
    sample_ms: float
    stored_bytes: float

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
        """Host memory of a process and its loaders, without what Python and its libraries take."""
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

    def loader_cores(self, pairs_per_s: float) -> float:
        """Return how many cores of all nodes load so many pairs a second."""
        return pairs_per_s * self.sample_ms / 1000


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
    step_flops = config.data.batch_size * model.flops.step(len(data.lengths), data.lengths) / len(data.lengths)
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
        step_flops=step_flops,
        done_flops=step_flops + _flops_again(config, model, data.lengths, parts),
        state_bytes=(saved + FLOAT_BYTES * trained) / shares,
        graph_bytes={
            "image": max(1, _kept(config, "image", parts)) * model.graphs["image"].of(image_units),
            "text": max(1, _kept(config, "text", parts)) * model.graphs["text"].of(max(plan.tokens)),
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
        stored_bytes=data.stored_bytes,
    )


def lines(made: Estimate) -> list[tuple[str, str]]:
    """Return the estimate as names and values to print."""
    return [
        ("nodes x processes", f"{made.nodes} x {made.processes // made.nodes} = {made.processes}"),
        ("global batch", f"{made.batch_size:,} pairs, {made.local_batch:,} a process"),
        ("micro-batches", f"{_of_towers(made.micro_batches)}, a process"),
        ("steps", f"{made.steps:,}: {made.pairs:,} pairs, {made.epochs:.2f} epochs of {made.samples:,} samples"),
        ("parameters", f"{_of_towers(made.parameters)}; that train: {_of_towers(made.trained)}"),
        (
            "tokens",
            f"{compact(made.pairs * made.mean_tokens)}: {made.mean_tokens:.0f} a caption, {made.cut_share:.0%} of "
            f"the captions fill the context, {made.padding_share:.1%} padding after sorting",
        ),
        ("FLOPs a step", f"{made.step_flops:.3g} real, up to {made.done_flops:.3g} with second forward passes"),
        *_memory_lines(made),
        (
            "sent a step",
            f"{_bytes(made.sent_bytes)} by each process: embeddings {_bytes(made.embeddings_sent)}, gradients "
            f"{_bytes(made.gradients_sent)}, sharded weights {_bytes(made.weights_sent)}",
        ),
        *(line for gpu in GPUS for line in _speed_lines(made, gpu)),
    ]


def _memory_lines(made: Estimate) -> list[tuple[str, str]]:
    graphs = ", ".join(f"{tower} {_bytes(made.graph_bytes[tower])}" for tower in TOWERS)
    return [
        (
            "device memory",
            f"{_bytes(made.device_bytes)} at least, a process: weights, gradients, optimiser "
            f"{_bytes(made.state_bytes)}; activations of a micro-batch: {graphs}; loss {_bytes(made.loss_bytes)}",
        ),
        (
            "host memory",
            f"{_bytes(made.host_bytes)} a process: batches {_bytes(made.batches_bytes)}, checkpoint being written "
            f"{_bytes(made.snapshot_bytes)}, sample order {_bytes(STREAM_BYTES * made.samples)}",
        ),
        ("disk", f"{_bytes(made.disk_bytes)} for {made.checkpoints_kept} checkpoints, one of them being written"),
    ]


def _speed_lines(made: Estimate, gpu: str) -> list[tuple[str, str]]:
    """Return hours, and the cores and the reading that loading takes at that speed, on paper."""
    speeds, loaders = [], []
    for mfu in MFUS:
        rate = made.pairs_per_s(PEAKS[gpu], mfu)
        speeds.append(f"{_duration(made.hours(PEAKS[gpu], mfu))} at {mfu:.0%} MFU ({compact(rate)} pairs/s)")
        cores = compact(made.loader_cores(rate) / made.processes)
        loaders.append(f"{cores} cores a process and {_bytes(rate * made.stored_bytes)}/s from storage at {mfu:.0%}")
    return [
        (f"on {gpu}s", f"{', '.join(speeds)}; on paper, peak {PEAKS[gpu] / 1e12:.0f} TFLOP/s"),
        ("loading", f"{', '.join(loaders)}; a sample took {made.sample_ms:.2f} ms of a core here"),
    ]


def _of_towers(values: dict[TowerName, int]) -> str:
    return ", ".join(f"{tower} {compact(values[tower])}" for tower in TOWERS)


def _bytes(count: float) -> str:
    return f"{compact(count)}B"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "under a minute"


def _kept(config: TrainConfig, tower: TowerName, parts: dict[TowerName, int]) -> int:
    """Return how many micro-batches of a tower keep their graph, where no more fit than must."""
    if config.gradcache.kept_graphs is not None:
        return min(config.gradcache.kept_graphs, parts[tower])
    return parts[tower] if tower in config.optim.locked else 1  # of a locked tower, graphs hold next to nothing


def _flops_again(config: TrainConfig, model: ModelFacts, lengths: torch.Tensor, parts: dict[TowerName, int]) -> float:
    """Return the FLOPs of a step's second forward passes, and of those that recomputed activations cost."""
    forward: dict[TowerName, float] = {
        "image": model.flops.image,
        "text": model.flops.texts(lengths) / len(lengths),
    }
    total = 0.0
    for tower in TOWERS:
        times = 1 - _kept(config, tower, parts) / parts[tower]
        times += config.parallel.recompute_activations and tower not in config.optim.locked
        total += times * forward[tower]
    return total * config.data.batch_size


def _loss_bytes(local: int, batch_size: int, dimension: int) -> float:
    """Return about what the loss holds: of each tower embeddings, their gradients and sums of those, and some tiles."""
    rows = 8 * local + (6 * batch_size if batch_size > local else 0)
    tile = min(TILE_NUMBERS["cuda"], local * batch_size)
    return float(FLOAT_BYTES * (dimension * rows + TILES_HELD * tile))


def _gathered_weights(config: TrainConfig, model: ModelFacts, parts: dict[TowerName, int]) -> float:
    """Return the bytes of sharded weights that a step's passes need: each pass of a micro-batch gathers its tower's."""
    passes = {tower: 3 * parts[tower] - _kept(config, tower, parts) for tower in TOWERS}
    return float(FLOAT_BYTES * sum(passes[tower] * model.parameters[tower] for tower in TOWERS))
