"""Everything that is open while a run goes on: opened or resumed together, saved together, closed together."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from clipmed.configuration import read_yaml, save_yaml, to_dict
from clipmed.errors import ConfigError, DataError
from clipmed.towers import TwoTower, build_two_tower
from shards.reader import ShardSet
from shards.stream import SampleStream
from train.averaging import WeightAverage
from train.checkpoints import CheckpointStore, check_same_run
from train.collectives import broadcast_weights
from train.config import TrainConfig
from train.dataset import Batch, LoadPlan
from train.flops import ModelFlops, count_flops, device_peak
from train.guard import Guard
from train.history import RunFacts, RunStatus, skipped_file
from train.landing import Landing, check_suite
from train.memory import GraphBudget
from train.memory_errors import naming_the_knob
from train.page import refresh_page
from train.parallel import TowerName, Towers, prepare_towers
from train.schedule import lock_towers, make_optimizer, set_training_mode
from train.snapshot import TrainState
from train.step import Encoders, StepSettings, StepTools
from train.tracking import Trackers, open_trackers

CONFIG_FILE = "config.yaml"
SIGLIP_SCALE = 10.0
SIGLIP_BIAS = -10.0


@dataclass(slots=True, kw_only=True)
class Session:
    """A run in this process. `step` counts finished steps."""

    config: TrainConfig
    accelerator: Accelerator
    two_tower: TwoTower
    towers: Towers
    encoders: Encoders
    optimizer: Any
    average: WeightAverage | None
    sets: list[ShardSet]
    stream: SampleStream
    plan: LoadPlan
    store: CheckpointStore
    guard: Guard
    flops: ModelFlops | None
    facts: RunFacts
    tools: StepTools
    settings: StepSettings
    landing: Landing | None = None
    step: int = 0
    saved_step: int = -1
    trackers: Trackers = field(default_factory=Trackers)
    last_validation: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The two towers."""
        return self.two_tower.model

    @property
    def is_main(self) -> bool:
        """Whether this process reports and publishes."""
        return bool(self.accelerator.is_main_process)

    @property
    def state(self) -> TrainState:
        """What a checkpoint holds."""
        ema = {} if self.average is None else self.average.tensors
        return TrainState(model=self.model, optimizer=self.optimizer, ema=ema)

    def published_weights(self) -> AbstractContextManager[None]:
        """Give the model, inside, the weights that are validated and published: their running mean where it is kept."""
        return nullcontext() if self.average is None else self.average.swapped(self.model)

    def log(self, kind: Any, step: int, values: dict[str, Any]) -> None:
        """Pass a row on to the trackers."""
        self.trackers.log(kind, step, values)

    def save(self, *, final: bool = False) -> None:
        """Save the state of the finished steps, unless it is saved already."""
        if self.saved_step == self.step:
            return
        scaler = self.accelerator.scaler
        extra = {
            "position": self.step * self.config.data.batch_size,
            "set_digests": [shard_set.digest for shard_set in self.sets],
            "scaler": None if scaler is None else scaler.state_dict(),
            "guard": self.guard.state(),
            "config": to_dict(self.config),
        }
        self.store.save(self.state, self.step, extra, final=final)
        self.saved_step = self.step

    def refresh_page(self, state: Any, reason: str = "") -> None:
        """Write run.html anew."""
        if self.is_main and self.config.tracking.page:
            refresh_page(self.config.out, RunStatus(state=state, reason=reason, facts=self.facts))

    def record_skipped(self, batch: Batch) -> None:
        """Add a batch's bad samples to this process's list of them; a full disk does not stop the run."""
        if not batch.skipped:
            return
        path = self.config.out / skipped_file(self.plan.rank)
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.skipped)
        except OSError as error:
            keys = ", ".join(row["key"] for row in batch.skipped)
            warnings.warn(f"{path} cannot be written ({error}); skipped at step {self.step}: {keys}", stacklevel=2)

    def close(self) -> None:
        """Finish what is being written, and let go of what goes on beside the run."""
        self.store.wait()
        if self.landing is not None:
            self.landing.close()
        self.trackers.close()


def open_session(config: TrainConfig, accelerator: Accelerator, stopped: Callable[[], bool]) -> Session:
    """Open a run, or resume the one in `config.out` from its newest checkpoint.

    Args:
        config: of the run.
        accelerator: device, precision and processes.
        stopped: whether a signal asks the run to stop, which waits for no scores then.

    Raises:
        ConfigError: settings that cannot run, or a folder that holds another run.
        DataError: a set that cannot be read, or other sets than the run began with.
    """
    found = _check_folder(config)
    check_suite(config)
    sets = [ShardSet(location) for location in config.data.sets]
    stream = SampleStream(sets, config.data.split, config.data.stream)
    session = _make_session(config, accelerator, sets, stream)
    if found:
        _resume(session)
    accelerator.wait_for_everyone()
    if session.is_main:
        save_yaml(config, config.out / CONFIG_FILE)
        session.trackers = open_trackers(config, session.step)
    session.landing = Landing(config, resumed_step=session.step, rank=session.plan.rank, stopped=stopped)
    return session


def build_model(config: TrainConfig) -> TwoTower:
    """Return the model with the weights that the run begins with, on the CPU: a function of the config alone."""
    torch.manual_seed(config.seed)
    two_tower = build_two_tower(config.model)
    model: Any = two_tower.model
    if config.loss.name == "siglip" and model.logit_bias is None:
        # SigLIP's own start (Zhai et al. 2023): most pairs are not partners, and the bias says so from the beginning.
        two_tower.model_cfg |= {"init_logit_scale": math.log(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
        model.logit_scale.data.fill_(math.log(SIGLIP_SCALE))
        model.logit_bias = torch.nn.Parameter(torch.tensor(SIGLIP_BIAS))
    return two_tower


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
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


def _make_session(config: TrainConfig, accelerator: Accelerator, sets: list[ShardSet], stream: SampleStream) -> Session:
    rank, world_size = accelerator.process_index, accelerator.num_processes
    two_tower = _build_for_training(config, accelerator)
    encoders = Encoders(two_tower, accelerator.autocast)
    peak = device_peak(accelerator.device)
    trained: set[TowerName] = {"image", "text"}
    flops = None if peak is None else count_flops(two_tower, trained - set(config.optim.locked))
    parameters = sum(parameter.numel() for parameter in two_tower.model.parameters())
    towers = prepare_towers(two_tower, config.parallel, accelerator.device, world_size)
    optimizer = accelerator.prepare_optimizer(make_optimizer(two_tower.model, config.optim))
    plan = LoadPlan(
        batch_size=config.data.batch_size,
        rank=rank,
        world_size=world_size,
        workers=config.data.workers,
        pin=accelerator.device.type == "cuda",
    )
    return Session(
        config=config,
        accelerator=accelerator,
        two_tower=two_tower,
        towers=towers,
        encoders=encoders,
        optimizer=optimizer,
        average=_average(config, two_tower),
        sets=sets,
        stream=stream,
        plan=plan,
        store=CheckpointStore(config.out / "checkpoints", config.checkpoint, rank=rank, world_size=world_size),
        guard=Guard(config.guard),
        flops=flops,
        facts=RunFacts(
            device=_device_name(accelerator.device),
            processes=world_size,
            parameters=parameters,
            samples=stream.num_samples,
            shares=stream.expected_mixture(),
        ),
        tools=StepTools(
            budget=GraphBudget(config.gradcache.kept_graphs, accelerator.device, two_tower.model.parameters()),
            towers=towers,
            naming=partial(naming_the_knob, config=config, world_size=world_size),
        ),
        settings=StepSettings(
            loss=config.loss,
            gradcache=config.gradcache,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
            first_position=plan.first,
            equal_counts=config.parallel.shard_weights,
        ),
    )


def _build_for_training(config: TrainConfig, accelerator: Accelerator) -> TwoTower:
    two_tower = build_model(config)
    model = two_tower.model
    lock_towers(model, config.optim.locked)
    set_training_mode(model, config.optim.locked)
    _refuse_batch_norm(model, config, accelerator.num_processes)
    model.to(accelerator.device)
    broadcast_weights(model, accelerator.num_processes)
    return two_tower


def _average(config: TrainConfig, two_tower: TwoTower) -> WeightAverage | None:
    if config.optim.ema_decay is None:
        return None
    return WeightAverage(two_tower.model, config.optim.ema_decay)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _check_folder(config: TrainConfig) -> bool:
    """Return whether the run folder holds this run already."""
    path = config.out / CONFIG_FILE
    if path.exists():
        check_same_run(read_yaml(path), to_dict(config), config.out)
        return True
    if config.out.exists() and any(config.out.iterdir()):
        raise ConfigError(f"{config.out} is not empty and holds no run; give a new folder with --out")
    return False


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


def _resume(session: Session) -> None:
    newest = session.store.newest()
    if newest is None:
        return
    folder, state = newest
    digests = [shard_set.digest for shard_set in session.sets]
    if state["set_digests"] != digests:
        raise DataError(
            f"{session.config.out} was trained on other shard sets than {', '.join(session.config.data.sets)} now "
            "are (their manifests differ); give the sets it began with, or another --out"
        )
    session.store.load(folder, session.state)
    if session.accelerator.scaler is not None and state["scaler"] is not None:
        session.accelerator.scaler.load_state_dict(state["scaler"])
    session.guard.restore(state["guard"])
    session.step = session.saved_step = state["step"]
