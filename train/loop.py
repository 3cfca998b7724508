"""The run: open or resume it, step, log, save, validate, and write the checkpoint that others load."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from clipmed.checkpoints import save_checkpoint
from clipmed.configuration import read_yaml, save_yaml, to_dict
from clipmed.errors import ClipmedError, ConfigError, DataError
from clipmed.files import write_json
from clipmed.towers import TwoTower, build_two_tower
from shards.reader import ShardSet
from shards.stream import SampleStream
from train.card import model_card
from train.checkpoints import check_same_run, load_state, newest_state, remove_old, save_state, step_folder
from train.collectives import broadcast_weights
from train.config import TrainConfig, check_runnable
from train.dataset import LoadPlan, PortionDataset, keys_of_step, load_batches
from train.schedule import clamp_logit_scale, learning_rate, make_optimizer, set_learning_rate
from train.step import Encoders, StepSettings, contrastive_backward
from train.tracking import Tracker, open_trackers
from train.transforms import Augment
from train.validation import choose_samples, validate

CONFIG_FILE = "config.yaml"
SIGLIP_SCALE = 10.0
SIGLIP_BIAS = -10.0


def train(config: TrainConfig) -> Path:
    """Train to the last step, from the beginning or the newest checkpoint in `config.out`; return the model folder.

    Under torchrun every process calls this, and the result is that of one process.

    Raises:
        ConfigError: settings that cannot run, or a run folder that holds another run.
        ClipmedError: a loss or gradient that is not finite, naming the step and where the samples' keys were written.
    """
    accelerator = _accelerator(config)
    check_runnable(config, accelerator.num_processes)
    with _reproducible(accelerator.device):
        run = _open_run(config, accelerator)
        try:
            _fit(run)
        finally:
            for tracker in run.trackers:
                tracker.close()
        model_folder = config.out / "model"
        if accelerator.is_main_process:
            save_checkpoint(model_folder, run.two_tower, model_card(config, run.sets, run.last_validation))
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return model_folder


@dataclass(slots=True, kw_only=True)
class _Run:
    """Everything that is open while a run goes on. `step` counts finished steps."""

    config: TrainConfig
    accelerator: Accelerator
    two_tower: TwoTower
    optimizer: Any
    sets: list[ShardSet]
    stream: SampleStream
    plan: LoadPlan
    step: int = 0
    trackers: list[Tracker] = field(default_factory=list)
    last_validation: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Meter:
    """Rates since the last row of the log."""

    seconds: float = 0.0
    wait_seconds: float = 0.0
    steps: int = 0

    def rates(self, batch_size: int) -> dict[str, float]:
        """Return pairs a second and the share of time spent waiting for data, and begin anew."""
        seconds = max(self.seconds, 1e-9)
        rates = {"pairs_per_s": self.steps * batch_size / seconds, "data_wait": self.wait_seconds / seconds}
        self.seconds = self.wait_seconds = 0.0
        self.steps = 0
        return rates


def _accelerator(config: TrainConfig) -> Accelerator:
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise ConfigError("device: got 'cuda', but this machine has no CUDA device; allowed here: 'cpu' or 'auto'")
    use_cpu = config.device == "cpu" or not has_cuda
    if use_cpu and config.precision == "fp16":
        raise ConfigError("precision: got 'fp16' without a CUDA device; allowed on the CPU: 'fp32', 'bf16'")
    mixed_precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(mixed_precision=mixed_precision, cpu=use_cpu)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """On the CPU, let every operation be deterministic, so that a resumed run ends with the same bits."""
    before = torch.are_deterministic_algorithms_enabled()
    fill_before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill_before  # type: ignore[attr-defined]


def _open_run(config: TrainConfig, accelerator: Accelerator) -> _Run:
    found = _check_folder(config)
    sets = [ShardSet(path) for path in config.data.sets]
    two_tower = _build_model(config, accelerator)
    run = _Run(
        config=config,
        accelerator=accelerator,
        two_tower=two_tower,
        optimizer=accelerator.prepare_optimizer(make_optimizer(two_tower.model, config.optim)),
        sets=sets,
        stream=SampleStream(sets, config.data.split, config.data.stream),
        plan=LoadPlan(
            batch_size=config.data.batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            workers=config.data.workers,
        ),
    )
    if found:
        _resume(run)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_yaml(config, config.out / CONFIG_FILE)
        run.trackers = open_trackers(config, run.step)
    return run


def _check_folder(config: TrainConfig) -> bool:
    """Return whether the run folder holds this run already."""
    path = config.out / CONFIG_FILE
    if path.exists():
        check_same_run(read_yaml(path), to_dict(config), config.out)
        return True
    if config.out.exists() and any(config.out.iterdir()):
        raise ConfigError(f"{config.out} is not empty and holds no run; give a new folder with --out")
    return False


def _build_model(config: TrainConfig, accelerator: Accelerator) -> TwoTower:
    torch.manual_seed(config.seed)
    two_tower = build_two_tower(config.model)
    model: Any = two_tower.model
    if config.loss == "siglip" and model.logit_bias is None:
        # SigLIP's own start (Zhai et al. 2023): most pairs are not partners, and the bias says so from the beginning.
        two_tower.model_cfg |= {"init_logit_scale": math.log(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
        model.logit_scale.data.fill_(math.log(SIGLIP_SCALE))
        model.logit_bias = torch.nn.Parameter(torch.tensor(SIGLIP_BIAS))
    _refuse_batch_norm(model, config, accelerator.num_processes)
    model.to(accelerator.device).train()
    broadcast_weights(model, accelerator.num_processes)
    return two_tower


def _refuse_batch_norm(model: torch.nn.Module, config: TrainConfig, world_size: int) -> None:
    cut = config.gradcache.image_micro_batch or config.gradcache.text_micro_batch or world_size > 1
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if cut and names:
        raise ConfigError(
            f"the model has batch normalisation ({names[0]} and {len(names) - 1} more), whose statistics depend on how "
            "a batch is cut; allowed: a model without it, or one process without gradcache micro-batches"
        )


def _resume(run: _Run) -> None:
    newest = newest_state(run.config.out / "checkpoints")
    if newest is None:
        return
    folder, state = newest
    digests = [shard_set.digest for shard_set in run.sets]
    if state["set_digests"] != digests:
        raise DataError(
            f"{run.config.out} was trained on other shard sets than {', '.join(map(str, run.config.data.sets))} now "
            "are (their manifests differ); give the sets it began with, or another --out"
        )
    load_state(folder, run.two_tower.model, run.optimizer)
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.step = state["step"]


def _fit(run: _Run) -> None:
    config = run.config
    samples = choose_samples(run.sets, config.validate.split, config.validate.samples)
    if config.validate.samples and not samples.rows:
        warnings.warn(f"the sets have no {config.validate.split!r} samples: nothing is validated", stacklevel=2)

    def validate_if_due() -> None:
        every = config.validate.every_steps
        due = run.step == config.optim.steps or (every > 0 and run.step > 0 and run.step % every == 0)
        if due and samples.rows:
            world_size = run.accelerator.num_processes
            rank = run.accelerator.process_index
            run.last_validation = validate(
                run.two_tower, samples, config.loss, config.data.batch_size, rank, world_size
            )
            _log(run, "validation", run.last_validation)

    validate_if_due()  # a run that was killed between saving and validating makes it up
    augment = Augment(config.augment, run.two_tower.image_size)
    dataset = PortionDataset(run.sets, run.stream, config.data.batch_size, augment, run.two_tower.tokenizer)
    batches = load_batches(dataset, run.plan, run.step, config.optim.steps)
    for _ in _steps(run, batches):
        if run.step % config.checkpoint.every_steps == 0 or run.step == config.optim.steps:
            _save(run)
        validate_if_due()


def _steps(run: _Run, batches: Iterator[Any]) -> Iterator[int]:
    """Do the steps that are left; yield after each, when weights and logs are those of `run.step` finished steps."""
    config, accelerator = run.config, run.accelerator
    encoders = Encoders(run.two_tower, accelerator.autocast)
    settings = StepSettings(
        loss=config.loss,
        gradcache=config.gradcache,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        first_position=run.plan.first,
    )
    meter = _Meter()
    with _progress(run) as bar:
        while run.step < config.optim.steps:
            started = time.perf_counter()
            batch = next(batches)
            meter.wait_seconds += time.perf_counter() - started
            values = _one_step(run, encoders, batch, settings)
            meter.seconds += time.perf_counter() - started
            meter.steps += 1
            run.step += 1
            bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            bar.update(config.data.batch_size)
            if run.step % config.tracking.log_every_steps == 0 or run.step == config.optim.steps:
                _log(run, "train", values | meter.rates(config.data.batch_size))
            yield run.step


def _one_step(run: _Run, encoders: Encoders, batch: Any, settings: StepSettings) -> dict[str, float]:
    config, model = run.config, run.two_tower.model
    rate = learning_rate(run.step, config.optim)
    set_learning_rate(run.optimizer, rate)
    run.optimizer.zero_grad(set_to_none=True)
    loss = contrastive_backward(encoders, model, batch, settings, run.accelerator.backward).item()
    norm = run.accelerator.clip_grad_norm_(model.parameters(), config.optim.clip_grad_norm or math.inf)
    norm_value = float(norm)
    # fp16's loss scaler skips steps with infinite gradients by itself and lowers its factor.
    if not math.isfinite(loss) or (not math.isfinite(norm_value) and run.accelerator.scaler is None):
        _stop_not_finite(run, loss, norm_value)
    run.optimizer.step()
    clamp_logit_scale(model)
    scale: Any = model.logit_scale
    return {
        "loss": loss,
        "lr": rate,
        "logit_scale": float(scale.detach().exp()),
        "grad_norm": norm_value,
        "epoch": run.stream.epoch_of((run.step + 1) * config.data.batch_size),
    }


def _stop_not_finite(run: _Run, loss: float, norm: float) -> None:
    keys = keys_of_step(run.sets, run.stream, run.plan, run.step)
    path = run.config.out / f"not_finite_step_{run.step}_rank_{run.plan.rank}.json"
    write_json(path, {"step": run.step, "loss": str(loss), "grad_norm": str(norm), "keys": keys})
    raise ClipmedError(
        f"step {run.step}: loss {loss}, gradient norm {norm}; both must be finite. The weights were not changed. "
        f"Samples: {', '.join(keys[:3])} … (all {len(keys)} keys in {path}). Lower optim.lr, lengthen "
        "optim.warmup_steps or set optim.clip_grad_norm, and look at these samples; the newest checkpoint stands"
    )


def _save(run: _Run) -> None:
    checkpoints = run.config.out / "checkpoints"
    if run.accelerator.is_main_process:
        scaler = run.accelerator.scaler
        state = {
            "step": run.step,
            "position": run.step * run.config.data.batch_size,
            "set_digests": [shard_set.digest for shard_set in run.sets],
            "scaler": None if scaler is None else scaler.state_dict(),
            "config": to_dict(run.config),
        }
        save_state(step_folder(checkpoints, run.step), run.two_tower.model, run.optimizer, state)
        remove_old(checkpoints, run.config.checkpoint.keep)
    run.accelerator.wait_for_everyone()


def _log(run: _Run, kind: Any, values: dict[str, float]) -> None:
    for tracker in run.trackers:
        tracker.log(kind, run.step, values)


def _progress(run: _Run) -> Any:
    size = run.config.data.batch_size
    return tqdm(
        total=run.config.optim.steps * size,
        initial=run.step * size,
        desc=f"train {run.config.out.name}",
        unit="pair",
        unit_scale=True,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        disable=not run.accelerator.is_main_process,
    )
