"""Pixels as a checkpoint wants them: OpenCLIP's evaluation transform, every setting of it honoured."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from PIL import Image

from clipmed.errors import CheckpointError
from clipmed.images import to_rgb8

if TYPE_CHECKING:
    import torch

ResizeMode: TypeAlias = Literal["shortest", "longest", "squash"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelConfig:
    """How an image becomes the pixels that an image tower takes, float32 of shape (3, H, W)."""

    size: tuple[int, int]
    """height and width in pixels"""
    mean: tuple[float, ...] = OPENAI_MEAN
    """subtracted from values of 0 to 1, by channel"""
    std: tuple[float, ...] = OPENAI_STD
    """divided by, by channel"""
    resize_mode: ResizeMode = "shortest"
    """shortest: the image covers the size, and its middle is cut out; longest: it fits into it, between bars; squash:
    both sides are scaled"""
    interpolation: Interpolation = "bicubic"
    """both antialiased"""
    fill_color: int = 0
    """level of the bars, 0 to 255"""

    def preprocess_cfg(self) -> dict[str, Any]:
        """Return OpenCLIP's `preprocess_cfg`. The size is the model's, and not part of it."""
        return {
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_mode": self.resize_mode,
            "interpolation": self.interpolation,
            "fill_color": self.fill_color,
        }

    def words(self) -> str:
        """Return the settings as one line, which names all that decides an image's pixels."""
        height, width = self.size
        fit = {"shortest": "centre-crop", "longest": f"pad {self.fill_color}", "squash": "no crop"}[self.resize_mode]
        mean, std = (",".join(str(value) for value in values) for values in (self.mean, self.std))
        return f"openclip:{height}x{width}:{self.resize_mode}:{self.interpolation}:{fit}:mean={mean}:std={std}:v1"


def pixel_config(preprocess_cfg: Mapping[str, Any] | None, size: int | Sequence[int], where: str) -> PixelConfig:
    """Return what a checkpoint's `preprocess_cfg` asks for, with OpenCLIP's defaults.

    Args:
        preprocess_cfg: of the checkpoint's config; what it does not say, or says as null, is OpenCLIP's default.
        size: the image tower's input, a side or (height, width).
        where: whose config it is, for messages.

    Raises:
        CheckpointError: a setting that OpenCLIP does not know, or statistics that are no three numbers.
    """
    given = {key: value for key, value in (preprocess_cfg or {}).items() if value is not None}
    sides = (size, size) if isinstance(size, int) else tuple(size) * (2 if len(size) == 1 else 1)
    mode, interpolation = given.get("resize_mode", "shortest"), given.get("interpolation", "bicubic")
    fill, colours = given.get("fill_color", 0), given.get("mode", "RGB")
    if (
        mode not in get_args(ResizeMode)
        or interpolation not in (*get_args(Interpolation), "random")
        or colours != "RGB"
        or fill not in range(256)
    ):
        raise CheckpointError(
            f"{where}: preprocess_cfg has resize_mode {mode!r}, interpolation {interpolation!r}, mode {colours!r}, "
            f"fill_color {fill!r}; allowed: {', '.join(get_args(ResizeMode))}; {', '.join(get_args(Interpolation))} or "
            "random (bicubic here); RGB; 0 to 255"
        )
    return PixelConfig(
        size=(int(sides[0]), int(sides[1])),
        mean=_statistic(given.get("mean", OPENAI_MEAN), "mean", where),
        std=_statistic(given.get("std", OPENAI_STD), "std", where),
        resize_mode=mode,
        interpolation="bicubic" if interpolation == "random" else interpolation,
        fill_color=int(fill),
    )


def eval_pixels(data: bytes, config: PixelConfig) -> torch.Tensor:
    """Return pixels as evaluation sees them, float32 of shape (3, H, W), from encoded image bytes."""
    with Image.open(io.BytesIO(data)) as image:
        return image_pixels(image, config)


def image_pixels(image: Image.Image, config: PixelConfig) -> torch.Tensor:
    """Return the same as `eval_pixels` for an opened image of any mode."""
    return _transform(config)(image if image.mode == "RGB" else to_rgb8(image))


@lru_cache(maxsize=8)
def _transform(config: PixelConfig) -> Callable[[Image.Image], torch.Tensor]:
    from open_clip import image_transform

    height, width = config.size
    transform: Callable[[Image.Image], torch.Tensor] = image_transform(
        height if height == width else config.size,
        is_train=False,
        mean=config.mean,
        std=config.std,
        resize_mode=config.resize_mode,
        interpolation=config.interpolation,
        fill_color=config.fill_color,
    )
    return transform


def _statistic(value: Any, name: str, where: str) -> tuple[float, ...]:
    """Return a mean or standard deviation by channel; one number is that of all three."""
    values = value if isinstance(value, list | tuple) else [value] * 3
    is_sound = len(values) == 3 and all(isinstance(one, int | float) and math.isfinite(one) for one in values)
    if not is_sound or (name == "std" and not all(one > 0 for one in values)):
        raise CheckpointError(
            f"{where}: preprocess_cfg has {name} {value!r}; allowed: three numbers{' above 0' if name == 'std' else ''}"
        )
    return tuple(float(one) for one in values)
