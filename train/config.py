"""The settings of a training run: one frozen dataclass a component, checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from clipmed.towers import ModelConfig
from shards.stream import StreamConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is trained on, and in what batches."""

    sets: tuple[str, ...] = ()
    """shard sets that `python -m shards pack` wrote, as folders or URLs (s3://, https://); several are mixed"""
    split: str = "train"
    """the split to train on"""
    batch_size: int = 256
    """image-caption pairs of one step, over all processes together"""
    workers: int = 1
    """loader processes of each training process; 0 decodes in the training process. Does not change the samples"""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """a missing, cut off or damaged shard or image stops the run, or is skipped for another sample and recorded"""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """order and mixture of the samples"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", tuple(str(path) for path in self.sets))
        _at_least("data.batch_size", self.batch_size, 2, "a pair needs another to be told from")
        _at_least("data.workers", self.workers, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How training images are varied. Mirroring is off: it can change what an image says."""

    min_scale: float = 0.6
    """smallest part of the image's area that a random crop keeps; 1 keeps the whole image's shorter side"""
    max_ratio: float = 1.25
    """longest side ratio of a random crop; 1 crops squares"""
    brightness: float = 0.15
    """largest relative change of brightness"""
    contrast: float = 0.15
    """largest relative change of contrast"""
    saturation: float = 0.1
    """largest relative change of saturation"""
    hue: float = 0.02
    """largest turn of the hue, as part of the colour circle; stains and lesions are told apart by hue"""
    horizontal_flip: float = 0.0
    """chance of mirroring left and right; off, since captions name sides and a mirrored chest is another diagnosis"""
    vertical_flip: float = 0.0
    """chance of mirroring top and bottom; for sets without an upright direction, such as histopathology"""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "horizontal_flip", "vertical_flip"):
            _between(f"augment.{name}", getattr(self, name), 0.0, 1.0)
        _between("augment.hue", self.hue, 0.0, 0.5)
        _between("augment.min_scale", self.min_scale, 0.01, 1.0)
        _between("augment.max_ratio", self.max_ratio, 1.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW, with the learning rate warmed up linearly and decayed to zero by a cosine."""

    lr: float = 1e-3
    """peak learning rate"""
    betas: tuple[float, float] = (0.9, 0.98)
    """decay rates of AdamW's running means"""
    eps: float = 1e-6
    """AdamW's epsilon"""
    weight_decay: float = 0.2
    """weight decay of matrices; biases, norms, position embeddings, class tokens and the temperature have none"""
    warmup_steps: int = 50
    """steps of linear warm-up"""
    steps: int = 500
    """optimiser steps of the whole run"""
    clip_grad_norm: float | None = 1.0
    """largest gradient norm; larger gradients are scaled down"""
    image_lr_factor: float = 1.0
    """the image tower's learning rate as a multiple of lr"""
    text_lr_factor: float = 1.0
    """the text tower's learning rate as a multiple of lr"""
    layer_decay: float = 1.0
    """each layer's learning rate as a multiple of that of the layer above it, towards the inputs; 1 for equal rates"""
    locked: tuple[Literal["image", "text"], ...] = ()
    """towers whose weights stay as they are (LiT locks the image tower); the projections into the joint space train"""
    ema_decay: float | None = None
    """keep a running mean of the weights with this decay a step, and validate and publish it; None keeps none"""
    wise_ft: float | None = None
    """publish initial weights + this share of the way to the trained ones (WiSE-FT); None publishes the trained ones"""

    def __post_init__(self) -> None:
        _at_least("optim.steps", self.steps, 1)
        if not 0 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"optim.warmup_steps: got {self.warmup_steps}; allowed: 0 to {self.steps - 1}, fewer than optim.steps"
            )
        if self.lr <= 0 or self.eps <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"optim: got lr={self.lr}, eps={self.eps}, weight_decay={self.weight_decay}; "
                "allowed: lr and eps above 0, weight_decay 0 or more"
            )
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise ConfigError(
                f"optim.clip_grad_norm: got {self.clip_grad_norm}; allowed: above 0, or None for no limit"
            )
        self._check_parts()

    def _check_parts(self) -> None:
        for beta in self.betas:
            _between("optim.betas", beta, 0.0, 0.99999)
        for name in ("image_lr_factor", "text_lr_factor"):
            _between(f"optim.{name}", getattr(self, name), 0.0, 100.0)
        _between("optim.layer_decay", self.layer_decay, 0.01, 1.0)
        if {"image", "text"} <= set(self.locked):
            raise ConfigError("optim.locked: got both towers, which leaves nothing to train; allowed: one of them")
        for name in ("ema_decay", "wise_ft"):
            value = getattr(self, name)
            if value is not None:
                _between(f"optim.{name}", value, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The contrastive loss over the global batch, computed by tiles: memory O(B x D)."""

    name: Literal["infonce", "siglip"] = "infonce"
    """InfoNCE (softmax over the batch, both ways) or SigLIP's sigmoid loss"""
    equals: Literal["negatives", "masked", "positives"] = "negatives"
    """pairs of samples with equal caption facts: negatives as in CLIP, masked (left out), or positives as well"""
    tile: int | None = None
    """columns of the logits held at once; None chooses. Does not change the result but for rounding"""
    kernel: Literal["auto", "torch", "triton"] = "auto"
    """what computes the tiles; triton needs CUDA"""

    def __post_init__(self) -> None:
        if self.tile is not None:
            _at_least("loss.tile", self.tile, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCacheConfig:
    """Big batches in little memory: each tower in micro-batches of its own size, gradients those of the whole batch."""

    image_micro_batch: int | None = None
    """images encoded at once by each process; None encodes all of a step together, without a second forward pass"""
    text_micro_batch: int | None = None
    """texts encoded at once by each process, at most; None for no limit"""
    text_tokens: int | None = None
    """tokens encoded at once by each process, at most, padding counted; texts are sorted by length, so that there is
    hardly any. None for no limit"""
    kept_graphs: int | None = None
    """micro-batches of each tower whose activations are kept, so that only the others pay a second forward pass; None
    keeps as many as fit into the memory that the first step left free. Does not change the result"""

    def __post_init__(self) -> None:
        for name in ("image_micro_batch", "text_micro_batch", "text_tokens"):
            value = getattr(self, name)
            if value is not None:
                _at_least(f"gradcache.{name}", value, 1)
        if self.kept_graphs is not None:
            _at_least("gradcache.kept_graphs", self.kept_graphs, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """What lets larger models and batches run, and run faster."""

    shard_weights: bool = False
    """FSDP2: weights, gradients and optimiser states divided over the processes"""
    compile: bool = False
    """torch.compile both towers; the first steps take minutes"""
    recompute_activations: bool = False
    """activation checkpointing in both towers: less memory, one more forward pass"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When the state of the run is saved; a killed run goes on from the newest checkpoint."""

    every_steps: int = 100
    """steps between checkpoints; the last step is always one"""
    every_minutes: float | None = None
    """minutes between checkpoints, besides those by steps"""
    keep: int = 2
    """checkpoints kept; older ones are removed"""
    best_metric: str | None = None
    """validation metric, such as image_to_text_r5; its best checkpoint is kept besides, and published as best/"""
    background: bool = True
    """write while training goes on; the next checkpoint waits for the one before"""
    format: Literal["whole", "sharded"] = "whole"
    """whole: one file of weights. sharded: every process writes its own part (torch's distributed checkpoint, as
    safetensors). Either is read by any number of processes"""

    def __post_init__(self) -> None:
        _at_least("checkpoint.every_steps", self.every_steps, 1)
        _at_least("checkpoint.keep", self.keep, 1)
        if self.every_minutes is not None and self.every_minutes <= 0:
            raise ConfigError(f"checkpoint.every_minutes: got {self.every_minutes}; allowed: above 0, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """What happens to steps that would harm the weights. Their samples' keys are written to the run folder."""

    not_finite: Literal["stop", "skip"] = "stop"
    """a loss or gradient that is not finite stops the run, or its step changes nothing"""
    spike: Literal["ignore", "skip", "stop"] = "ignore"
    """a loss far above those before: train on, let the step change nothing, or stop"""
    spike_deviations: float = 6.0
    """a spike is a loss this many standard deviations above the mean of the losses before"""
    window: int = 100
    """losses that the mean and the deviation are of; no spike is seen before there are so many"""
    max_skipped: int = 10
    """skipped steps in a row that stop the run"""

    def __post_init__(self) -> None:
        _at_least("guard.window", self.window, 2)
        _at_least("guard.max_skipped", self.max_skipped, 1)
        if self.spike_deviations <= 0:
            raise ConfigError(f"guard.spike_deviations: got {self.spike_deviations}; allowed: above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Zero-shot scores of checkpoints as they land. A failure is logged and never stops the run."""

    suite: str | None = None
    """suite of `python -m zeroshot_eval`, by name or path; None scores nothing"""
    sets: tuple[str, ...] = ()
    """shard sets with the suite's test samples; empty takes the training sets"""
    every_steps: int = 1000
    """steps between scores; the last step is always scored"""
    executor: Literal["wait", "background", "slurm", "submitit-local"] = "background"
    """wait: the run waits for the scores. background: a process beside it. slurm: a job of its own"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", tuple(str(path) for path in self.sets))
        _at_least("score.every_steps", self.every_steps, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateConfig:
    """Retrieval and loss on the validation split during training."""

    every_steps: int = 100
    """steps between validations; 0 validates only after the last step"""
    samples: int = 512
    """validation samples used, taken evenly from the split; 0 never validates"""
    split: str = "val"
    """the split to validate on"""

    def __post_init__(self) -> None:
        _at_least("validate.every_steps", self.every_steps, 0)
        _at_least("validate.samples", self.samples, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where the curves go. metrics.jsonl in the run folder is always written."""

    log_every_steps: int = 10
    """steps between rows of metrics.jsonl and points of the curves"""
    tensorboard: bool = True
    """write TensorBoard events to the run folder"""
    wandb: bool = False
    """report to Weights & Biases; WANDB_MODE=offline keeps it on this machine"""
    wandb_project: str = "clipmed"
    """Weights & Biases project"""
    page: bool = True
    """write run.html, with curves, mixture and images as the model saw them, at every validation"""
    profile_steps: int = 0
    """trace this many steps, after the third, into profile/ of the run folder (chrome://tracing); 0 for none"""

    def __post_init__(self) -> None:
        _at_least("tracking.log_every_steps", self.log_every_steps, 1)
        _at_least("tracking.profile_steps", self.profile_steps, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train a two-tower model on shard sets."""

    out: Path = Path("build/run")
    """run folder; a run that began there goes on from its newest checkpoint"""
    seed: int = 0
    """seed of the weights, the sample order, augmentation and dropout"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """arithmetic of the towers; weights, loss and optimiser stay fp32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """the two towers"""
    data: DataConfig = field(default_factory=DataConfig)
    """shard sets, batch and order"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """variation of training images"""
    loss: LossConfig = field(default_factory=LossConfig)
    """the contrastive loss"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """optimiser and schedule"""
    gradcache: GradCacheConfig = field(default_factory=GradCacheConfig)
    """micro-batches"""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """sharding, compiling, recomputing"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """saving and resuming"""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """steps that are not finite, and spikes"""
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    """validation during training"""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """zero-shot scores of checkpoints"""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """logs and curves"""
    jobs: JobsConfig = field(default_factory=lambda: JobsConfig(executor="inline"))
    """where the run executes: inline (this process), slurm or submitit-local"""

    def __post_init__(self) -> None:
        _between("seed", self.seed, 0, 2**31 - 1)
        if self.jobs.executor == "processes":
            raise ConfigError(
                "jobs.executor: got 'processes'; allowed here: 'inline', 'slurm', 'submitit-local'; for several "
                "processes on this machine use torchrun --nproc-per-node N -m train …"
            )
        if self.precision == "fp16" and self.device == "cpu":
            raise ConfigError("precision: got 'fp16' with device 'cpu'; allowed on the CPU: 'fp32', 'bf16'")


def check_runnable(config: TrainConfig, world_size: int) -> None:
    """Check what only matters once a run starts: that there is data, and that the batch divides over the processes.

    Raises:
        ConfigError: with the setting to change.
    """
    if not config.data.sets:
        raise ConfigError("data.sets: got none; give one shard set or more, such as --data.sets build/demo/set")
    if config.data.batch_size % world_size:
        raise ConfigError(
            f"data.batch_size: got {config.data.batch_size} for {world_size} processes; "
            f"allowed: a multiple of {world_size}"
        )


def _at_least(name: str, value: int, least: int, why: str = "") -> None:
    if value < least:
        raise ConfigError(f"{name}: got {value}; allowed: {least} or more{f' ({why})' if why else ''}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: got {value}; allowed: {low} to {high}")
