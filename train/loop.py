"""The run: step, log, save, validate, score, and go on after whatever ended it.

At every step's end, in this order: the log's row, the checkpoint, the stop that a signal asked for, validation, and the
scores of checkpoints that landed. A checkpoint is always saved before its step is validated or scored, so that whatever
fails there loses nothing.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from clipmed.errors import ConfigError
from train.collectives import largest_over_processes
from train.config import TrainConfig, check_runnable
from train.dataset import Batch, PortionDataset, keys_of_step, load_batches
from train.flops import device_peak
from train.guard import RefusedStep
from train.memory_errors import naming_the_knob
from train.meters import Meter
from train.profile import profiler
from train.publishing import publish, publish_for_scoring
from train.samples import sheet_of
from train.schedule import clamp_logit_scale, learning_rate, set_learning_rate
from train.session import Session, open_session, reproducible
from train.signals import StoppedBySignalError, StopSignals
from train.step import StepLoss, contrastive_backward
from train.tracking import postfix
from train.transforms import Augment
from train.validation import ValidationSamples, choose_samples, validate


def train(config: TrainConfig) -> Path:
    """Train to the last step, from the beginning or the newest checkpoint in `config.out`; return the model folder.

    Under torchrun, or as one of a Slurm job's tasks, every process calls this, and the result is that of one process.

    Raises:
        ConfigError: settings that cannot run, or a run folder that holds another run.
        StoppedBySignalError: a signal asked for it; the state is saved, and the same call goes on.
        ClipmedError: a step that the guard refuses, or memory that ran out, naming what to change.
    """
    accelerator = _accelerator(config)
    check_runnable(config, accelerator.num_processes)
    with reproducible(accelerator.device), StopSignals() as signals:
        session = open_session(config, accelerator, lambda: signals.code > 0)
        try:
            session.refresh_page("running")
            _fit(session, signals)
            folder = publish(session)
            session.refresh_page("finished")
        except StoppedBySignalError as stop:
            session.refresh_page("stopped", str(stop))
            raise
        except Exception as error:
            session.refresh_page("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            session.close()
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


def _accelerator(config: TrainConfig) -> Accelerator:
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise ConfigError("device: got 'cuda', but this machine has no CUDA device; allowed here: 'cpu' or 'auto'")
    use_cpu = config.device == "cpu" or not has_cuda
    if use_cpu and config.precision == "fp16":
        raise ConfigError("precision: got 'fp16' without a CUDA device; allowed on the CPU: 'fp32', 'bf16'")
    mixed_precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(mixed_precision=mixed_precision, cpu=use_cpu)


@dataclass(slots=True)
class _Clock:
    """When a checkpoint was last saved, for those by minutes."""

    saved: float

    def is_due(self, every_minutes: float | None) -> bool:
        return every_minutes is not None and time.monotonic() - self.saved >= 60 * every_minutes


def _fit(session: Session, signals: StopSignals) -> None:
    config = session.config
    samples = choose_samples(session.sets, config.validate.split, config.validate.samples)
    if config.validate.samples and not samples.rows:
        warnings.warn(f"the sets have no {config.validate.split!r} samples: nothing is validated", stacklevel=2)
    _evaluate(session, samples, None)  # a run that was killed between saving and validating makes it up
    augment = Augment(config.augment, session.two_tower.image_size)
    dataset = PortionDataset(
        session.sets,
        session.stream,
        config.data.batch_size,
        augment,
        session.two_tower.tokenizer,
        on_bad_sample=config.data.on_bad_sample,
    )
    clock = _Clock(time.monotonic())
    with (
        closing(load_batches(dataset, session.plan, session.step, config.optim.steps)) as batches,
        profiler(config.tracking.profile_steps, config.out, session.plan.rank) as profile,
    ):
        for batch in _steps(session, batches):
            profile.step()
            _end_of_step(session, signals, clock)
            _evaluate(session, samples, batch)
    if session.landing is not None:
        _log_scores(session, session.landing.finish())


def _steps(session: Session, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Do the steps that are left; yield each one's batch, when weights and logs are those of `session.step` steps."""
    config = session.config
    meter = Meter(
        source_names=session.stream.source_names,
        world_size=session.plan.world_size,
        device=session.accelerator.device,
        peak=device_peak(session.accelerator.device),
    )
    shown: dict[str, float | None] = {}
    with _progress(session) as bar:
        while session.step < config.optim.steps:
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            session.record_skipped(batch)
            loss, values = _one_step(session, batch)
            flops = _flops_of(session, batch)
            meter.add(batch, loss, flops, seconds=time.perf_counter() - started, wait_seconds=waited)
            session.step += 1
            if session.step % config.tracking.log_every_steps == 0 or session.step == config.optim.steps:
                row = values | meter.take() | {"skipped_steps": float(session.guard.num_skipped)}
                session.log("train", session.step, row)
                shown |= row
            bar.set_postfix(postfix(shown | values), refresh=False)
            bar.update(config.data.batch_size)
            yield batch


def _one_step(session: Session, batch: Batch) -> tuple[StepLoss, dict[str, float]]:
    config, model, accelerator = session.config, session.model, session.accelerator
    rate = learning_rate(session.step, config.optim)
    set_learning_rate(session.optimizer, rate)
    session.optimizer.zero_grad(set_to_none=True)
    loss = contrastive_backward(session.encoders, model, batch, session.settings, session.tools, accelerator.backward)
    value = loss.value.item()
    norm = _clip(session)
    verdict = session.guard.judge(value, norm, accelerator.scaler is not None)
    if verdict.action == "keep":
        with naming_the_knob("optimizer", config, session.plan.world_size):
            session.optimizer.step()
        clamp_logit_scale(model)
        if session.average is not None:
            session.average.update(model, session.step)
    else:
        _refuse(session, loss, value, norm, verdict)
    return loss, {
        "loss": value,
        "lr": rate,
        "logit_scale": float(model.logit_scale.detach().exp()),
        "grad_norm": norm,
        "epoch": session.stream.epoch_of((session.step + 1) * config.data.batch_size),
    }


def _clip(session: Session) -> float:
    """Scale the gradients down to the largest norm allowed; return the norm that they had."""
    if session.accelerator.scaler is not None:
        session.towers.unscale_gradients(session.accelerator.scaler, session.optimizer)
    return session.towers.clip_gradients(session.config.optim.clip_grad_norm or math.inf)


def _refuse(session: Session, loss: StepLoss, value: float, norm: float, verdict: Any) -> None:
    """Write down a step that changes nothing, and end the run where that is the policy."""
    plan = session.plan
    refused = RefusedStep(
        step=session.step,
        rank=plan.rank,
        loss=value,
        grad_norm=norm,
        verdict=verdict,
        keys=keys_of_step(session.sets, session.stream, plan, session.step),
        losses=loss.rows.tolist(),
    )
    path = refused.write(session.config.out)
    if verdict.action == "stop":
        raise refused.error(path)
    if session.accelerator.scaler is not None:
        session.accelerator.scaler.update()
    if session.is_main:
        warnings.warn(refused.message(path), stacklevel=2)


def _end_of_step(session: Session, signals: StopSignals, clock: _Clock) -> None:
    """Save where that is due, and stop where a signal asked for it; all processes decide alike."""
    config = session.config
    asked = 2 * signals.code + clock.is_due(config.checkpoint.every_minutes)
    asked = largest_over_processes(asked, session.plan.world_size, session.accelerator.device)
    is_last = session.step == config.optim.steps
    is_due = is_last or session.step % config.checkpoint.every_steps == 0 or _evaluates(session)
    if asked or is_due:
        session.save(final=is_last)
        clock.saved = time.monotonic()
    session.store.poll()
    if asked >= 2 and not is_last:
        session.store.wait()
        raise StoppedBySignalError(signals.name_of(asked // 2), session.step, config.out)


def _evaluates(session: Session) -> bool:
    return _validates(session) or (session.landing is not None and session.landing.due(session.step))


def _validates(session: Session) -> bool:
    config = session.config.validate
    is_due = config.every_steps > 0 and session.step > 0 and session.step % config.every_steps == 0
    return config.samples > 0 and (is_due or session.step == session.config.optim.steps)


def _evaluate(session: Session, samples: ValidationSamples, batch: Batch | None) -> None:
    """Validate and score the weights of this step, where that is due; log what scores have landed."""
    if _validates(session) and samples.rows:
        with session.published_weights():
            session.last_validation = validate(
                session.two_tower,
                samples,
                session.config.loss,
                session.config.data.batch_size,
                session.plan.rank,
                session.plan.world_size,
            )
        session.log("validation", session.step, session.last_validation)
        session.store.note_validation(session.step, session.last_validation)
        if session.is_main and batch is not None:
            sheet = sheet_of(batch, session.step, session.two_tower.tokenizer, session.stream.source_names)
            session.trackers.show(sheet)
        session.refresh_page("running")
    if session.landing is not None:
        if session.landing.due(session.step):
            session.landing.score(session.step, publish_for_scoring(session, session.landing))
        _log_scores(session, session.landing.collect())


def _log_scores(session: Session, landed: dict[int, Any]) -> None:
    for step, scores in landed.items():
        session.log("scores", step, scores)


def _flops_of(session: Session, batch: Batch) -> float:
    if session.flops is None:
        return 0.0
    return session.flops.step(len(batch.tokens), session.encoders.text_tower.lengths(batch.tokens))


def _progress(session: Session) -> Any:
    size = session.config.data.batch_size
    return tqdm(
        total=session.config.optim.steps * size,
        initial=session.step * size,
        desc=f"train {session.config.out.name}",
        unit="pair",
        unit_scale=True,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        disable=not session.is_main,
    )
