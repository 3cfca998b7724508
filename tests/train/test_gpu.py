"""On a CUDA device: mixed precision, compiled blocks, activations computed again, and sharded weights over NCCL."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from clipmed.towers import TwoTower, assemble
from tests.train.gradients import gradients, settings_of
from tests.train.states import whole
from tests.train.test_gradcache import CONTEXT, padded_batch, relative_error
from train.config import OptimConfig, ParallelConfig
from train.dataset import Batch
from train.memory import GraphBudget
from train.parallel import Towers, prepare_towers
from train.schedule import make_optimizer
from train.step import Encoders, StepTools, contrastive_backward

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

COUNT = 12
ROUNDING = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MODEL = {
    "embed_dim": 16, "custom_text": True,
    "vision_cfg": {
        "image_size": 16, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32, "patch_dropout": 0.5,
    },
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 60, "width": 64, "heads": 2, "layers": 3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def make_tower() -> TwoTower:
    torch.manual_seed(0)
    tower = assemble(MODEL)
    tower.model.train()
    return tower


def step_on_gpu(
    precision: str, kept: int | None, parallel: ParallelConfig, scaler: Any = None, towers: Any = None
) -> tuple[torch.nn.Module, Towers]:
    """Give a model the gradients of a batch, in micro-batches."""
    device = torch.device("cuda")
    tower = make_tower()
    tower.model.to(device)
    autocast = partial(torch.autocast, "cuda", dtype=DTYPES.get(precision, torch.float32), enabled=precision in DTYPES)
    encoders = Encoders(tower, autocast)
    prepared = towers(tower) if towers else prepare_towers(tower, parallel, device, 1)
    budget = GraphBudget(kept, device, tower.model.parameters())
    batch: Batch = padded_batch(COUNT)
    settings = settings_of("infonce", 5, None, kept, text_tokens=100)

    def backward(loss: torch.Tensor) -> None:
        (loss if scaler is None else scaler.scale(loss)).backward()

    contrastive_backward(encoders, tower.model, batch, settings, StepTools(budget=budget, towers=prepared), backward)
    return tower.model, prepared


def assert_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], largest: float) -> None:
    assert got.keys() == wanted.keys()
    total = math.sqrt(sum(float(gradient.norm()) ** 2 for gradient in wanted.values()))
    for name, gradient in wanted.items():
        if gradient.norm() > 1e-3 * total:
            assert relative_error(whole(got[name]).float(), gradient) < largest, name


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    """In float32, every graph kept, nothing compiled or computed again."""
    torch.set_float32_matmul_precision("highest")
    return gradients(step_on_gpu("fp32", 99, ParallelConfig())[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kept", [0, 1, None])
@pytest.mark.parametrize("again", [False, True])
def test_cached_gradients_are_those_of_kept_graphs(
    wanted: dict[str, torch.Tensor], precision: str, kept: int | None, again: bool
) -> None:
    model, _ = step_on_gpu(precision, kept, ParallelConfig(recompute_activations=again))
    assert_close(gradients(model), wanted, ROUNDING[precision])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("again", [False, True])
def test_compiled_blocks_give_the_same_gradients(wanted: dict[str, torch.Tensor], precision: str, again: bool) -> None:
    model, _ = step_on_gpu(precision, 1, ParallelConfig(compile=True, recompute_activations=again))
    assert_close(gradients(model), wanted, ROUNDING[precision])


def test_scaled_losses_give_the_same_gradients_and_norm(wanted: dict[str, torch.Tensor]) -> None:
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    model, towers = step_on_gpu("fp16", 1, ParallelConfig(), scaler)
    towers.unscale_gradients(scaler, make_optimizer(model, OptimConfig()))
    assert_close(gradients(model), wanted, ROUNDING["fp16"])
    norm = math.sqrt(sum(float(gradient.norm()) ** 2 for gradient in wanted.values()))
    assert towers.clip_gradients(math.inf) == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_sharded_weights_train_over_nccl(wanted: dict[str, torch.Tensor], precision: str, tmp_path: Path) -> None:
    """One device holds all shards here; the calls are those of many, the optimiser's fused step among them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cuda", (1,))

        def sharded(tower: TwoTower) -> Towers:
            model: Any = tower.model
            for part in (model.visual, model.text):
                for module in (*part.transformer.resblocks, part):
                    fully_shard(module, mesh=mesh, reshard_after_forward=True)
            return Towers(model, {"image": model.visual, "text": model.text}, 1)

        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, enabled=precision == "fp16")
        model, towers = step_on_gpu(precision, 1, ParallelConfig(), scaler, sharded)
        optimizer = make_optimizer(model, OptimConfig())
        assert optimizer.defaults["fused"]
        if precision == "fp16":
            towers.unscale_gradients(scaler, optimizer)
        assert_close(gradients(model), wanted, ROUNDING[precision])
        towers.clip_gradients(1.0)
        before = {name: whole(parameter).detach().clone() for name, parameter in model.named_parameters()}
        scaler.step(optimizer)
        moved = [name for name, item in model.named_parameters() if not torch.equal(whole(item), before[name])]
        assert {"logit_scale", "visual.proj"} <= set(moved)
    finally:
        dist.destroy_process_group()
