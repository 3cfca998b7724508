"""One step's gradients: encode in micro-batches, lose over all processes' embeddings, synchronise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from clipmed.towers import TwoTower
from train.collectives import gather_rows, largest_over_processes, mean_over_processes
from train.config import GradCacheConfig, LossConfig
from train.dataset import Batch
from train.gradcache import TowerInputs, cached_backward
from train.losses import Embeddings, contrastive_loss
from train.memory import GraphBudget
from train.memory_errors import MemoryStage
from train.parallel import TowerName, Towers
from train.schedule import tower_of
from train.texts import TextPlan, TextTower, plan_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What a step needs to know besides its batch.

    `first_position` is that of the process's first sample. With `equal_counts` every process encodes the same number
    of micro-batches, as sharded weights need.
    """

    loss: LossConfig
    gradcache: GradCacheConfig
    seed: int
    rank: int = 0
    world_size: int = 1
    first_position: int = 0
    equal_counts: bool = False


class StepLoss(NamedTuple):
    """`value`: the global batch's loss, a detached scalar. `rows`: the part of each of this process's rows, (n,).

    `tokens`: text tokens that this process encoded, padding included.
    """

    value: torch.Tensor
    rows: torch.Tensor
    tokens: int


class Encoders:
    """The towers as functions of what the loader gives: unit-length embeddings in float32 (or the weights' double)."""

    def __init__(self, two_tower: TwoTower, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._model: Any = two_tower.model
        self._autocast = autocast
        weight = next(self._model.parameters())
        self.device = weight.device
        self._dtype = weight.dtype
        self.text_tower = TextTower(self._model)
        self.trainable = _trainable_towers(self._model)
        # (pixel / 255 - mean) / std as one product and one sum, over channels that come last.
        mean, std = (torch.tensor(values, dtype=self._dtype) for values in (two_tower.mean, two_tower.std))
        self._factor = (1 / (255 * std)).to(self.device)
        self._offset = (-mean / std).to(self.device)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of pixels, uint8 of shape (N, H, W, 3)."""
        scaled = pixels.to(self.device, non_blocking=True).to(self._dtype).mul_(self._factor).add_(self._offset)
        with self._autocast():
            features = self._model.encode_image(scaled.permute(0, 3, 1, 2))
        return _unit_length(features)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D) of tokens, int64 of shape (N, up to the context length)."""
        with self._autocast():
            features = self.text_tower(tokens.to(self.device, non_blocking=True))
        return _unit_length(features)


def _no_naming(_stage: MemoryStage) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTools:
    """What a run keeps between its steps: memory for activations, prepared towers, and how it speaks of memory.

    `naming` is entered with the stage around whatever may run out of memory.
    """

    budget: GraphBudget
    towers: Towers
    naming: Callable[[MemoryStage], AbstractContextManager[None]] = field(default=_no_naming)


def contrastive_backward(
    encoders: Encoders,
    model: Any,
    batch: Batch,
    settings: StepSettings,
    tools: StepTools,
    backward: Callable[[torch.Tensor], None],
) -> StepLoss:
    """Give every parameter the gradient of the global batch's loss; return that loss."""
    plan = _plan_texts(encoders, batch, settings)
    device = model.logit_scale.device
    unsorted = torch.argsort(plan.order).to(device)
    row_losses: list[torch.Tensor] = []

    def loss(images: torch.Tensor, sorted_texts: torch.Tensor) -> torch.Tensor:
        embeddings = _gather(images, sorted_texts[unsorted], batch.meanings.to(device), settings)
        with tools.naming("loss"):
            value, rows = contrastive_loss(settings.loss, embeddings, model.logit_scale.exp(), model.logit_bias)
        row_losses.append(rows)
        return value

    def loss_backward(value: torch.Tensor) -> None:
        with tools.naming("loss"):
            backward(value)

    value = cached_backward(_towers(encoders, batch, plan, settings, tools), loss, loss_backward)
    tools.budget.settle()
    tools.towers.average()
    return StepLoss(mean_over_processes(value, settings.world_size), row_losses[0], sum(plan.tokens))


def micro_batch_seed(seed: int, step: int, tower: str, position: int) -> int:
    """Return the seed of a micro-batch's random numbers: a function of the run's seed and the samples' place alone."""
    digest = hashlib.sha256(f"{seed} {step} {tower} {position}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _plan_texts(encoders: Encoders, batch: Batch, settings: StepSettings) -> TextPlan:
    lengths = encoders.text_tower.lengths(batch.tokens)
    plan = plan_texts(lengths, batch.tokens.shape[1], settings.gradcache)
    if settings.equal_counts and settings.world_size > 1:
        least = largest_over_processes(len(plan.rows), settings.world_size, encoders.device)
        plan = plan_texts(lengths, batch.tokens.shape[1], settings.gradcache, least)
    return plan


def _gather(images: torch.Tensor, texts: torch.Tensor, meanings: torch.Tensor, settings: StepSettings) -> Embeddings:
    needs_meanings = settings.loss.equals != "negatives"
    return Embeddings(
        image=images,
        text=texts,
        all_images=gather_rows(images, settings.world_size),
        all_texts=gather_rows(texts, settings.world_size),
        rank=settings.rank,
        meanings=meanings if needs_meanings else None,
        all_meanings=gather_rows(meanings, settings.world_size) if needs_meanings else None,
    )


def _towers(
    encoders: Encoders, batch: Batch, plan: TextPlan, settings: StepSettings, tools: StepTools
) -> list[TowerInputs]:
    inputs: dict[TowerName, list[torch.Tensor]] = {
        "image": list(torch.split(batch.pixels, settings.gradcache.image_micro_batch or len(batch.pixels))),
        "text": [batch.tokens[rows, :width] for rows, width in zip(plan.rows, plan.widths, strict=True)],
    }
    units: dict[TowerName, Sequence[int]] = {"image": [len(part) for part in inputs["image"]], "text": plan.tokens}
    kept = tools.budget.kept(units)
    encode: dict[TowerName, Callable[[torch.Tensor], torch.Tensor]] = {"image": encoders.images, "text": encoders.texts}

    def tower_inputs(tower: TowerName) -> TowerInputs:
        def measured(part: torch.Tensor) -> torch.Tensor:
            units = part.shape[0] if tower == "image" else part.numel()
            with tools.naming(tower), tools.budget.measuring(tower, units):
                return encode[tower](part)

        @contextmanager
        def around_backward(is_last: bool) -> Iterator[None]:
            with tools.naming(tower), tools.towers.synchronise(tower, is_last):
                yield

        return TowerInputs(
            encode=measured,
            micro_batches=inputs[tower],
            seeds=_seeds(tower, inputs[tower], batch.step, settings),
            kept_graphs=kept[tower],
            trainable=tower in encoders.trainable,
            backward_context=around_backward,
        )

    return [tower_inputs("image"), tower_inputs("text")]


def _seeds(tower: TowerName, micro_batches: Sequence[torch.Tensor], step: int, settings: StepSettings) -> list[int]:
    seeds = []
    position = settings.first_position
    for inputs in micro_batches:
        seeds.append(micro_batch_seed(settings.seed, step, tower, position))
        position += len(inputs)
    return seeds


def _trainable_towers(model: torch.nn.Module) -> set[TowerName]:
    """Return the towers of which anything trains."""
    towers = (tower_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {tower for tower in towers if tower is not None}


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    at_least_float32 = torch.promote_types(features.dtype, torch.float32)
    return torch.nn.functional.normalize(features.to(at_least_float32), dim=-1)
