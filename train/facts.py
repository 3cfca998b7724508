"""What an estimate is made from: the model's counts, measured on passes of one and two samples, and the first samples.

Nothing is downloaded but the config and tokenizer of a Hugging Face text tower: weights are random, since they change
no count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow.compute as pc
import torch
from torch.overrides import TorchFunctionMode

from clipmed.towers import TwoTower, build_two_tower
from shards.reader import ShardSet
from shards.stream import SampleStream
from train.config import TrainConfig
from train.dataset import Portion, PortionDataset
from train.flops import ModelFlops, count_flops
from train.memory import GraphBudget, TowerName
from train.parallel import prepare_towers
from train.schedule import lock_towers, set_training_mode, tower_of
from train.step import Encoders
from train.texts import TextTower
from train.transforms import Augment

SAMPLES_UNTIMED, SAMPLES_TIMED = 64, 192
TOWERS: tuple[TowerName, TowerName] = ("image", "text")


class GraphBytes(NamedTuple):
    """Bytes that the graph of a micro-batch holds: some at any size, and activations of each image or token."""

    fixed: float
    per_unit: float

    def of(self, units: int) -> float:
        """Return the bytes of a micro-batch of so many images or tokens."""
        return self.fixed + self.per_unit * units


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The two towers in numbers. `parameters` and `trained` are by tower; temperature and bias are of none."""

    flops: ModelFlops
    parameters: dict[TowerName, int]
    trained: dict[TowerName, int]
    graphs: dict[TowerName, GraphBytes]
    dimension: int
    image_side: int
    context_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The data in numbers.

    `lengths`, int64 (N,), are the tokens that the text tower needs of N captions. `sample_ms` is the CPU time of a core
    to load a sample: read, decode, vary, tokenise. `stored_bytes` is the mean size of a sample's image and record.
    """

    samples: int
    lengths: torch.Tensor
    sample_ms: float
    stored_bytes: float


def model_facts(config: TrainConfig, two_tower: TwoTower) -> ModelFacts:
    """Count and measure a model on the CPU; it is changed by what the config locks and recomputes.

    Raises:
        ConfigError: locked towers that leave nothing to train.
    """
    model = two_tower.model
    lock_towers(model, config.optim.locked)
    set_training_mode(model, config.optim.locked)
    flops = count_flops(two_tower, set(TOWERS) - set(config.optim.locked))
    whole = replace(config.parallel, shard_weights=False, compile=False)
    prepare_towers(two_tower, whole, torch.device("cpu"), 1)
    autocast: Any = nullcontext if config.precision == "fp32" else _autocast
    encoders = Encoders(two_tower, autocast)
    pixels = torch.zeros((2, two_tower.image_size, two_tower.image_size, 3), dtype=torch.uint8)
    tokens = torch.ones((2, two_tower.context_length), dtype=torch.int64)
    parameters = list(model.named_parameters())
    return ModelFacts(
        flops=flops,
        parameters={
            tower: sum(each.numel() for name, each in parameters if tower_of(name) == tower) for tower in TOWERS
        },
        trained={
            tower: sum(each.numel() for name, each in parameters if tower_of(name) == tower and each.requires_grad)
            for tower in TOWERS
        },
        graphs={
            "image": _graph_bytes(model, encoders.images, pixels, 1),
            "text": _graph_bytes(model, encoders.texts, tokens, tokens.shape[1]),
        },
        dimension=int(two_tower.model_cfg["embed_dim"]),
        image_side=two_tower.image_size,
        context_length=two_tower.context_length,
    )


def data_facts(config: TrainConfig, two_tower: TwoTower) -> DataFacts:
    """Load the run's first samples as its loaders would, on one core.

    Raises:
        ConfigError, DataError: sets, a split or a mixture that cannot be, or samples that cannot be read.
    """
    sets = [ShardSet(location) for location in config.data.sets]
    stream = SampleStream(sets, config.data.split, config.data.stream)
    dataset = PortionDataset(
        sets,
        stream,
        config.data.batch_size,
        Augment(config.augment, two_tower.image_size),
        two_tower.tokenizer,
        on_bad_sample=config.data.on_bad_sample,
    )
    before = dataset[Portion(0, 0, SAMPLES_UNTIMED)]
    started = time.process_time()
    timed = dataset[Portion(0, SAMPLES_UNTIMED, SAMPLES_UNTIMED + SAMPLES_TIMED)]
    seconds = time.process_time() - started
    lengths = TextTower(two_tower.model).lengths(torch.cat([before.tokens, timed.tokens]))
    return DataFacts(
        samples=stream.num_samples,
        lengths=lengths,
        sample_ms=1000 * seconds / SAMPLES_TIMED,
        stored_bytes=_mean_size(sets),
    )


def build_for_counting(config: TrainConfig) -> TwoTower:
    """Build the config's model with random weights, on the CPU.

    Raises:
        ConfigError: an unknown model.
    """
    random_weights = replace(
        config.model, pretrained=None, image_weights=None, pretrained_image=False, pretrained_text=False
    )
    return build_two_tower(random_weights)


def _mean_size(sets: Sequence[ShardSet]) -> float:
    """Return the mean bytes of a sample's image and record, over all splits."""
    columns = [each.arrow_column(name) for each in sets for name in ("jpg_size", "json_size")]
    total = sum(int(pc.sum(column).as_py()) for column in columns)
    return 2 * total / sum(len(column) for column in columns)


class _WithoutAttentionDropout(TorchFunctionMode):
    """CUDA's attention makes its dropout anew in the backward pass; the CPU's would hold all weights of all pairs."""

    def __torch_function__(
        self, func: Any, _types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention and "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def _graph_bytes(
    model: torch.nn.Module, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, units: int
) -> GraphBytes:
    """Return the bytes of the graph of (1, …) and (2, …) inputs as a straight line; `units` are those of one input."""
    found = []
    for count in (1, 2):
        budget = GraphBudget(None, torch.device("cpu"), model.parameters())
        with budget.measuring("image", 1), _WithoutAttentionDropout():
            encode(inputs[:count])
        found.append(budget.bytes_per_unit("image"))
    return GraphBytes(fixed=2 * found[0] - found[1], per_unit=(found[1] - found[0]) / units)
