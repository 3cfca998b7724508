"""The fused kernels: the numbers of torch's operations, interpreted on the CPU and on a GPU, and code for one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.train.dense_losses import LOSSES, part, unit_rows, whole
from train.config import LossConfig
from train.losses import contrastive_loss

pytest.importorskip("triton")

COUNT = 150


def results_of(config: LossConfig, world_size: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Value, rows and gradients; blocks are cut off by the tiles' ends, and tiles by the batch's."""
    image, text = (unit_rows(COUNT, seed, 16, dtype).to(device).requires_grad_() for seed in (0, 1))
    scale, bias = (torch.tensor(number, dtype=dtype, device=device, requires_grad=True) for number in (14.0, -10.0))
    meanings = torch.randint(0, 40, (COUNT,), generator=torch.Generator().manual_seed(2)).to(device)
    embeddings = whole(image, text, meanings) if world_size == 1 else part(image, text, meanings, 1, world_size)
    loss = contrastive_loss(config, embeddings, scale, bias)
    loss.value.backward()
    return [loss.value.detach(), loss.rows, *(tensor.grad for tensor in (image, text, scale, bias))]  # type: ignore[list-item]


def largest_difference(name: Any, equals: Any, world_size: int, device: str, dtype: torch.dtype) -> float:
    """Return the largest difference of the kernels' results, relative to the largest number of each result."""
    fused, plain = (
        results_of(LossConfig(name=name, equals=equals, tile=70, kernel=kernel), world_size, device, dtype)
        for kernel in ("triton", "torch")
    )
    differences = [((one - other).abs().max(), other.abs().max()) for one, other in zip(fused, plain, strict=True)]
    return max((difference / size if size > 0 else difference).item() for difference, size in differences)


def sigmoid_loss_of_strangers(device: str) -> float:
    """Return SigLIP's loss of four orthogonal pairs at scale 50 and bias -25, in float32."""
    axes = torch.eye(4, device=device)
    scale, bias = torch.tensor(50.0, device=device), torch.tensor(-25.0, device=device)
    return contrastive_loss(LossConfig(name="siglip", kernel="triton"), whole(axes, axes), scale, bias).value.item()


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """Differences on the CPU, by loss, and the loss of strangers.

    The interpreter is chosen when triton is imported, hence the process.
    """
    code = (
        "import json, torch, tests.train.test_triton_tiles as t\n"
        "found = {f'{name} {equals} {world}': t.largest_difference(name, equals, world, 'cpu', torch.float64)"
        " for name, equals in t.LOSSES for world in (1, 3)}\n"
        "print(json.dumps(found | {'strangers': t.sigmoid_loss_of_strangers('cpu')}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    differences: dict[str, float] = json.loads(done.stdout)
    return differences


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_interpreted_kernels_give_the_numbers_of_torchs_operations(
    interpreted: dict[str, float], name: str, equals: str, world_size: int
) -> None:
    assert interpreted[f"{name} {equals} {world_size}"] < 1e-12


def test_interpreted_kernels_keep_small_sigmoid_losses(interpreted: dict[str, float]) -> None:
    assert interpreted["strangers"] == pytest.approx(4 * math.exp(-25), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("name", "equals"), LOSSES)
def test_kernels_on_a_gpu_give_the_numbers_of_torchs_operations(name: str, equals: str, world_size: int) -> None:
    assert largest_difference(name, equals, world_size, "cuda", torch.float64) < 1e-12
    assert largest_difference(name, equals, world_size, "cuda", torch.float32) < 1e-5
    assert sigmoid_loss_of_strangers("cuda") == pytest.approx(4 * math.exp(-25), rel=1e-5)


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    # The interpreter takes Python that the compiler does not.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from train import triton_tiles as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for equals in ("negatives", "masked", "positives"):
        for kernel in (kernels._log_sums_kernel, kernels._softmax_gradient_kernel, kernels._sigmoid_kernel):
            meanings = "*fp32" if equals == "negatives" else "*i64"
            constants = {"equals": equals, "of_columns": True, "block": kernels.BLOCK}
            constants = {name: constants[name] for name in kernel.arg_names if name in constants}
            types = {"row_meanings": meanings, "column_meanings": meanings} | dict.fromkeys(
                ("height", "width", "shift"), "i32"
            )
            signature = {
                name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names
            }
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS).asm["cubin"]
