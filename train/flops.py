"""Floating-point operations of a step, counted on the model itself, and the share of the device's peak that they reach.

Model FLOPs utilisation counts each real, unpadded token's and patch's forward and backward pass once (Chowdhery et al.
2022, arXiv 2204.02311, appendix B): what is computed twice, or on padding, earns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipmed.towers import TwoTower
from train.schedule import TowerName
from train.texts import TextTower

LEAST_CONTEXT = 16  # of which a half and a quarter are still lengths to count at

# Dense peak of 16-bit matrix products with 32-bit sums, FLOP/s, from the makers' data sheets.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "A10": 125e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}


def device_peak(device: torch.device) -> float | None:
    """Return the device's peak in FLOP/s at 16 bits, or None where it is not known, as for CPUs."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Return the peak in FLOP/s at 16 bits of a device called so, as CUDA calls it, or None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlops:
    """Forward passes in FLOPs: `image` each, a text of n tokens `text_fixed` + `text_linear` n + `text_square` n².

    `passes` are how often each tower's forward pass counts: 3 with its backward pass, 1 for a locked tower, of which
    hardly more than the projection is run back.
    """

    image: float
    text_fixed: float
    text_linear: float
    text_square: float
    image_passes: int = 3
    text_passes: int = 3

    def texts(self, lengths: torch.Tensor) -> float:
        """Return the FLOPs of one forward pass of texts of so many tokens, without padding, (N,)."""
        tokens = lengths.double()
        per_token = self.text_linear * float(tokens.sum()) + self.text_square * float((tokens**2).sum())
        return self.text_fixed * len(lengths) + per_token

    def step(self, num_images: int, lengths: torch.Tensor) -> float:
        """Return the FLOPs of one step.

        Args:
            num_images: images.
            lengths: tokens of each text, without padding, (N,).
        """
        return self.image_passes * self.image * num_images + self.text_passes * self.texts(lengths)


def count_flops(two_tower: TwoTower, trained: Container[TowerName]) -> ModelFlops:
    """Count a model's forward passes by running them on one image and on texts of three lengths.

    Args:
        two_tower: the model, not compiled and not sharded.
        trained: the towers that are not locked.
    """
    model: Any = two_tower.model
    weight = next(model.parameters())
    size, context = two_tower.image_size, two_tower.context_length
    text_tower = TextTower(model)
    pixels = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)

    def text(length: int) -> float:
        tokens = torch.ones((1, length), dtype=torch.int64, device=weight.device)
        return _count(lambda: text_tower(tokens), weight.device)

    fixed, linear, square = text(context), 0.0, 0.0
    if text_tower.is_trimmable and context >= LEAST_CONTEXT:
        fixed, linear, square = _parabola([(length, text(length)) for length in (context // 4, context // 2, context)])
    return ModelFlops(
        image=_count(lambda: model.encode_image(pixels), weight.device),
        text_fixed=fixed,
        text_linear=linear,
        text_square=square,
        image_passes=3 if "image" in trained else 1,
        text_passes=3 if "text" in trained else 1,
    )


def _parabola(points: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Return a, b, c of the curve a + b n + c n² through three points (n, value)."""
    (n0, v0), (n1, v1), (n2, v2) = points
    slope = (v1 - v0) / (n1 - n0)
    square = ((v2 - v1) / (n2 - n1) - slope) / (n2 - n0)
    linear = slope - square * (n0 + n1)
    return v0 - linear * n0 - square * n0**2, linear, square


def _count(run: Callable[[], Any], device: torch.device) -> float:
    # Locked parts are in evaluation mode, where attention takes a fused path that the counter does not know.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _random_numbers_kept(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return float(counter.get_total_flops())


def _random_numbers_kept(device: torch.device) -> AbstractContextManager[None]:
    """Put the random number generators back at the end: dropout and patch dropout draw from them."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
