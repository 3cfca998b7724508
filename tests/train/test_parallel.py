"""Sharded, compiled and recomputing towers give the gradients of plain ones."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor.debug import CommDebugMode

from clipmed.errors import ConfigError
from clipmed.towers import TwoTower, assemble
from tests.train.gradients import gradients, part_of, settings_of
from tests.train.states import whole
from tests.train.test_gradcache import CONTEXT, bert_config, padded_batch, relative_error
from tests.train.test_loop import metrics, start, weights
from train import memory
from train.averaging import WeightAverage
from train.collectives import broadcast_weights
from train.config import OptimConfig, ParallelConfig, TrainConfig
from train.dataset import Batch
from train.loop import train
from train.memory import GraphBudget
from train.parallel import full_weights, prepare_towers
from train.schedule import TowerName, lock_towers, make_optimizer, set_training_mode
from train.step import Encoders, StepSettings, StepTools, contrastive_backward

CPU = torch.device("cpu")
WORLD = 2
COUNT = 12
SHARE = COUNT // WORLD
LAYERS = 3
GROUPS = 2 * (LAYERS + 1)  # blocks and what is around them, in both towers
CLIP = 0.05
PLAIN = ParallelConfig()
SHARDED = ParallelConfig(shard_weights=True)
OWN_TEXT = {"context_length": CONTEXT, "vocab_size": 60, "width": 16, "heads": 2, "layers": LAYERS}
OWN_VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": LAYERS, "head_width": 8, "patch_dropout": 0.5}


def bert_text(folder: Path) -> dict[str, Any]:
    """A Hugging Face tower with dropout."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    return bert_config(folder)


def make_tower(
    text: dict[str, Any], vision: dict[str, Any] = OWN_VISION, locked: tuple[TowerName, ...] = ()
) -> TwoTower:
    torch.manual_seed(0)
    tower = assemble({"embed_dim": 8, "custom_text": True, "vision_cfg": vision, "text_cfg": text})
    tower.model.double()
    lock_towers(tower.model, locked)
    set_training_mode(tower.model, locked)
    return tower


def batch_of(step: int, is_padded: bool) -> Batch:
    batch = padded_batch(COUNT)
    if not is_padded:
        batch.tokens[:, :] = torch.arange(COUNT * CONTEXT).reshape(COUNT, CONTEXT) % 50 + 5
    return Batch(
        step=step, pixels=batch.pixels.roll(step, 0), tokens=batch.tokens, meanings=batch.meanings,
        sources=batch.sources,
    )  # fmt: skip


class Run:
    """A model in training, prepared as the loop prepares it."""

    def __init__(self, tower: TwoTower, parallel: ParallelConfig, settings: StepSettings, *, fused: bool = False):
        self.model: Any = tower.model
        self.settings = settings
        broadcast_weights(self.model, settings.world_size)
        self.encoders = Encoders(tower, nullcontext)
        self.towers = prepare_towers(tower, parallel, CPU, settings.world_size)
        # A large eps: where a gradient is zero but for rounding, AdamW would else step by the sign of that.
        self.optimizer = make_optimizer(self.model, OptimConfig(eps=1e-3))
        for group in self.optimizer.param_groups:
            group["lr"], group["fused"] = 1e-3, fused
        self.average = WeightAverage(self.model, 0.5)
        budget = GraphBudget(settings.gradcache.kept_graphs, CPU, self.model.parameters())
        self.tools = StepTools(budget=budget, towers=self.towers)

    def backward(self, batch: Batch) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        return contrastive_backward(
            self.encoders, self.model, batch, self.settings, self.tools, torch.Tensor.backward
        ).value

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Do a step; return what came of it, by name, the same on every process."""
        loss = self.backward(batch)
        found = {f"gradient {name}": whole(gradient).clone() for name, gradient in gradients(self.model).items()}
        norm = torch.tensor(self.towers.clip_gradients(CLIP))
        self.optimizer.step()
        self.average.update(self.model, batch.step)
        found |= {f"weight {name}": tensor.clone() for name, tensor in full_weights(self.model).items()}
        found |= {f"mean {name}": whole(tensor).clone() for name, tensor in self.average.tensors.items()}
        return found | {"loss": loss, "norm": norm}


CASES: dict[str, dict[str, Any]] = {
    "texts of many lengths": {"is_padded": True, "text_tokens": 60, "kept": None},
    "dropout in a Hugging Face tower": {"bert": True, "parallel": {"recompute_activations": True}},
    "a locked tower": {"locked": ("image",), "image": 3, "kept": 0},
    "fused optimiser": {"fused": True, "kept": 99},
}
COMPILED = "compiled and recomputed"
SLOW_CASES = {
    COMPILED: {"is_padded": True, "text_tokens": 60, "parallel": {"compile": True, "recompute_activations": True}}
}


def results_of(folder: Path, name: str, rank: int, world_size: int, *, shard: bool) -> dict[str, torch.Tensor]:
    """Two steps of a case on the part of the batch that is this process's."""
    case = (CASES | SLOW_CASES)[name]
    rows = slice(rank * (COUNT // world_size), (rank + 1) * (COUNT // world_size))
    config = ParallelConfig(shard_weights=True, **case.get("parallel", {})) if shard else PLAIN
    text = None if "text_tokens" in case else 3
    more = {"text_tokens": case["text_tokens"]} if "text_tokens" in case else {}
    settings = settings_of(
        "siglip" if "fused" in case else "infonce", case.get("image", 2), text, case.get("kept", 1), rank=rank,
        world_size=world_size, first_position=rows.start, equal_counts=shard, **more,
    )  # fmt: skip
    tower = make_tower(json.loads((folder / "bert.json").read_text()) if "bert" in case else OWN_TEXT,
                       locked=case.get("locked", ()))  # fmt: skip
    if "fused" in case:
        tower.model.logit_bias = torch.nn.Parameter(torch.tensor(-2.0))
    run = Run(tower, config, settings, fused="fused" in case)
    found: dict[str, torch.Tensor] = {}
    for step in range(2):
        batch = part_of(batch_of(step, "is_padded" in case), rows)
        found |= {f"{step} {key}": value for key, value in run.step(batch).items()}
    return found


def run_of_share(rank: int, parallel: ParallelConfig, world_size: int) -> tuple[Run, Batch]:
    """A run with as many graphs kept as fit, and the share of a batch that a process has."""
    place = {"rank": rank, "world_size": world_size, "first_position": SHARE * rank}
    settings = settings_of("infonce", 2, 2, None, **place, equal_counts=True)
    batch = part_of(batch_of(0, is_padded=False), slice(rank * SHARE, (rank + 1) * SHARE))
    return Run(make_tower(OWN_TEXT), parallel, settings), batch


def facts_of(rank: int) -> dict[str, Any]:
    """What a sharded model does besides training: traffic, memory, loss scaling, publishing."""
    run, batch = run_of_share(rank, SHARDED, WORLD)
    run.backward(batch)  # the first one measures memory
    with CommDebugMode() as traffic:
        run.backward(batch)
    facts: dict[str, Any] = {
        "scattered": sum(count for call, count in traffic.get_comm_counts().items() if "reduce_scatter" in str(call)),
        "share": sum(parameter.to_local().numel() for parameter in run.model.visual.parameters()),
        "bytes": {tower: run.tools.budget.bytes_per_unit(tower) for tower in ("image", "text")},
        "exported": sorted(full_weights(run.model, rank)),
    }
    with torch.no_grad():
        run.encoders.images(batch.pixels)
        run.encoders.texts(batch.tokens)
    # What validation leaves behind is still the optimiser's and the running means' own parameters.
    facts["kept parameters"] = {id(item) for item in run.model.parameters()} == {
        id(item) for group in run.optimizer.param_groups for item in group["params"]
    }
    return facts | _scale(run, rank)


def _scale(run: Run, rank: int) -> dict[str, Any]:
    """Unscale gradients, and let one process's overflow."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))
    before = run.towers.clip_gradients(math.inf)
    run.towers.unscale_gradients(scaler, run.optimizer)
    after = run.towers.clip_gradients(math.inf)
    scaler.update()
    if rank == 1:
        run.model.visual.proj.grad.to_local().fill_(math.inf)
    run.towers.unscale_gradients(scaler, run.optimizer)
    weights = full_weights(run.model)
    scaler.step(run.optimizer)
    changed = [name for name, tensor in full_weights(run.model).items() if not torch.equal(tensor, weights[name])]
    return {"scale": before / after, "changed by overflow": changed}


def _work(rank: int, folder: str, names: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    # Memory is not equally free everywhere, and weights must be gathered equally often.
    memory._free_bytes = lambda device: 1e12 * rank
    try:
        for name in names:
            torch.save(results_of(Path(folder), name, rank, WORLD, shard=True), Path(folder) / f"{name} {rank}.pt")
        (Path(folder) / f"facts {rank}.json").write_text(json.dumps(facts_of(rank)))
    finally:
        dist.destroy_process_group()


def in_two_processes(folder: Path, names: Iterable[str]) -> Path:
    mp.start_processes(_work, (str(folder), tuple(names)), nprocs=WORLD, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that share the weights found in every case."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "bert.json").write_text(json.dumps(bert_text(folder)))
    return in_two_processes(folder, CASES)


def assert_as_whole(folder: Path, name: str) -> None:
    """Every process found the losses, gradients, weights and running means of a single one with whole weights."""
    wanted = results_of(folder, name, 0, 1, shard=False)
    for rank in range(WORLD):
        got = torch.load(folder / f"{name} {rank}.pt", weights_only=True)
        assert got.keys() == wanted.keys()
        for key, tensor in wanted.items():
            if tensor.norm() > 1e-12:  # attention does not depend on the keys' bias
                assert relative_error(got[key], tensor) < 1e-9, f"{key} on rank {rank}"


@pytest.mark.parametrize("name", CASES)
def test_sharded_weights_train_as_whole_ones_do(sharded: Path, name: str) -> None:
    assert_as_whole(sharded, name)


@pytest.mark.slow
def test_sharded_compiled_and_recomputing_towers_train_as_plain_ones_do(tmp_path: Path) -> None:
    assert_as_whole(in_two_processes(tmp_path, SLOW_CASES), COMPILED)


def test_a_process_holds_and_exchanges_its_share(sharded: Path) -> None:
    plain, batch = run_of_share(0, PLAIN, 1)
    plain.backward(batch)
    total = sum(parameter.numel() for parameter in plain.model.visual.parameters())
    facts = [json.loads((sharded / f"facts {rank}.json").read_text()) for rank in range(WORLD)]
    assert sum(found["share"] for found in facts) == total
    for found in facts:
        # Gradients once a step, and those of the embeddings that were gathered for the loss.
        assert found["scattered"] == GROUPS + 2
        assert 0.4 * total < found["share"] < 0.6 * total
        # Gathered weights are not taken for activations.
        assert found["bytes"] == {tower: plain.tools.budget.bytes_per_unit(tower) for tower in found["bytes"]}
        assert found["kept parameters"]
        assert found["scale"] == pytest.approx(8.0)
        assert found["changed by overflow"] == []
    assert facts[0]["exported"] == sorted(plain.model.state_dict())
    assert facts[1]["exported"] == []


def test_one_process_has_nobody_to_share_with() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.shard_weights: got true for one process; allowed: two or more"):
        prepare_towers(make_tower(OWN_TEXT), SHARDED, CPU, 1)


TIMM_VISION = {
    "image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token",
    "timm_drop_path": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["open_clip", "timm", "bert"])
def test_recomputed_activations_give_the_same_gradients_dropout_included(kind: str, tmp_path: Path) -> None:
    text = bert_text(tmp_path) if kind == "bert" else OWN_TEXT
    vision = TIMM_VISION if kind == "timm" else OWN_VISION
    tower = "image" if kind == "timm" else "text"
    batch = batch_of(0, is_padded=True)
    if kind == "timm":
        pixels = batch.pixels.repeat_interleave(10, 1).repeat_interleave(10, 2)
        batch = Batch(step=0, pixels=pixels, tokens=batch.tokens, meanings=batch.meanings, sources=batch.sources)
    runs = []
    for again in (False, True):
        settings = settings_of("infonce", 6, None, None, text_tokens=100)
        runs.append(Run(make_tower(text, vision), ParallelConfig(recompute_activations=again), settings))
        runs[-1].backward(batch)
    plain, recomputed = runs
    wanted, got = gradients(plain.model), gradients(recomputed.model)
    assert got.keys() == wanted.keys()
    assert [name for name, gradient in wanted.items() if not torch.equal(got[name], gradient)] == []
    for name in ("image", tower):
        kept = recomputed.tools.budget.bytes_per_unit(name)  # type: ignore[arg-type]
        assert kept < 0.6 * plain.tools.budget.bytes_per_unit(name)  # type: ignore[arg-type]


def test_a_tower_that_cannot_recompute_is_refused() -> None:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    message = r"the image tower \(ModifiedResNet\) cannot compute .*lower gradcache\.image_micro_batch"
    with pytest.raises(ConfigError, match=message):
        prepare_towers(make_tower(OWN_TEXT, vision), ParallelConfig(recompute_activations=True), CPU, 1)


def run_in_two_processes(config: TrainConfig) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    process = start(config, *launcher)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_sharded_run_is_a_plain_one_and_resumes_to_the_bit(config: TrainConfig, tmp_path: Path) -> None:
    """With validation, running means of the weights, and checkpoints of which every process writes its part."""
    checkpoint = replace(config.checkpoint, format="sharded")
    plain = replace(config, optim=replace(config.optim, ema_decay=0.9, eps=1e-3), checkpoint=checkpoint)
    train(plain)
    parallel = ParallelConfig(shard_weights=True, recompute_activations=True)
    shared = replace(plain, out=tmp_path / "shared", parallel=parallel)
    run_in_two_processes(shared)
    wanted, got = weights(plain.out), weights(shared.out)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    rows = metrics(shared.out)
    for first, second in zip(metrics(plain.out), rows, strict=True):
        assert second["kind"] == first.pop("kind")
        assert {name: second[name] for name in first} == pytest.approx(first, rel=1e-4, abs=1e-5)
    shutil.rmtree(shared.out / "model")
    shutil.rmtree(shared.out / "checkpoints" / "step_00000006")
    run_in_two_processes(shared)
    again = weights(shared.out)
    assert [name for name, tensor in got.items() if not torch.equal(again[name], tensor)] == []
    assert metrics(shared.out) == rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", ["open_clip", "bert"])
@pytest.mark.parametrize("again", [False, True])
def test_compiled_blocks_give_the_gradients_of_eager_ones(kind: str, again: bool, tmp_path: Path) -> None:
    """Dropout included, of which the passes without and with gradients must draw the same."""
    from torch._dynamo.utils import counters

    text = bert_text(tmp_path) if kind == "bert" else OWN_TEXT
    settings = settings_of("infonce", 5, None, 1, text_tokens=60)
    eager = Run(make_tower(text), PLAIN, settings)
    compiled = Run(make_tower(text), ParallelConfig(compile=True, recompute_activations=again), settings)
    for step in range(2):
        batch = batch_of(step, is_padded=True)
        wanted, got = eager.step(batch), compiled.step(batch)
        assert got.keys() == wanted.keys()  # no name says that the blocks are compiled
        for name, tensor in wanted.items():
            if tensor.norm() > 1e-12:
                assert relative_error(got[name], tensor) < 1e-9, name
        if step == 0:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs  # though there were texts of other lengths
    assert not counters["graph_break"]
