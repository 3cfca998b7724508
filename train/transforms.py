"""Training images: albumentations on uint8, seeded by the draw, so that pixels depend on nothing else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.images import decode_rgb
from train.config import AugmentConfig

ImageHWC = npt.NDArray[np.uint8]


class Augment:
    """Decodes and varies one image; equal bytes and seed give equal pixels in every process."""

    def __init__(self, config: AugmentConfig, image_size: int) -> None:
        self._size = image_size
        # A crop of `min_scale` of the area has at least this side of an image decoded to `_decode_side`.
        self._decode_side = round(image_size / config.min_scale**0.5)
        self._steps = _steps(config, image_size)

    def __call__(self, jpeg: bytes, seed: int) -> ImageHWC:
        """Return pixels, uint8 of shape (size, size, 3).

        Raises:
            ItemRejectedError: the bytes do not decode.
        """
        pixels: ImageHWC = decode_rgb(jpeg, self._decode_side)
        for number, step in enumerate(self._steps):
            step.set_random_seed((seed + number) % 2**32)
            pixels = step(image=pixels)["image"]
        return pixels


def _steps(config: AugmentConfig, size: int) -> list[Any]:
    # albumentations asks the package index for its newest version when it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # one image is too small a job to share, and loader processes are the parallelism
    ratio = (1 / config.max_ratio, config.max_ratio)
    # Decoding has scaled down most of the way, over all pixels; what is left is done linearly, seven times faster than
    # by areas.
    steps: list[Any] = [
        albumentations.RandomResizedCrop(
            (size, size), scale=(config.min_scale, 1.0), ratio=ratio, interpolation=cv2.INTER_LINEAR, p=1.0
        )
    ]
    if config.horizontal_flip:
        steps.append(albumentations.HorizontalFlip(p=config.horizontal_flip))
    if config.vertical_flip:
        steps.append(albumentations.VerticalFlip(p=config.vertical_flip))
    colour = {
        name: (1 - value, 1 + value)
        for name in ("brightness", "contrast", "saturation")
        if (value := getattr(config, name)) is not None
    }
    if config.brightness or config.contrast or config.saturation or config.hue:
        steps.append(albumentations.ColorJitter(**colour, hue=(-config.hue, config.hue), p=0.8))
    return steps
