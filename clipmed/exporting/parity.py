"""What an export is held to: the same embeddings as the checkpoint's, on images and texts made for the purpose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipmed.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from clipmed.towers import TwoTower

TOLERANCE = 1e-5  # of unit-length embeddings in float32, element by element
REPORT_FILE = "export.json"

# Sides as medical images have them, (height, width); with odd margins, where centre crops are rounded.
_SIZES = ((480, 640), (1024, 833), (301, 301), (97, 640))
PROBE_TEXTS = (
    "A chest radiograph.",
    "H&E stain of the colon, 40x: adenocarcinoma (grade 2).",
    "Axial CT of a 63-year-old's abdomen; arrow = 2.5 cm mass in the left kidney!",
    "T2-weighted “FLAIR” MRI – the patient’s left temporal lobe\n\nwith a ﬂuid level",
    "Fundus image with p &lt; 0.05 &amp; no drusen",
    "β-catenin staining at 37 °C, 5 µm sections, naïve Müller glia",
    "one word " * 300,
)


def probe_images() -> list[Image.Image]:
    """Return RGB images of different shapes, the same ones every time: a smooth field with fine grain."""
    images = []
    for number, (height, width) in enumerate(_SIZES):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        field = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 12, (height, width, 1)).astype(np.float32)
        images.append(Image.fromarray(np.clip(field + grain, 0, 255).astype(np.uint8)))
    return images


def probe_pixels(two_tower: TwoTower) -> torch.Tensor:
    """Return the probe images as the checkpoint sees them, float32 of shape (N, 3, H, W)."""
    import torch

    from clipmed.pixels import image_pixels

    return torch.stack([image_pixels(image, two_tower.pixels) for image in probe_images()])


def require_replaceable(out: Path) -> None:
    """Raise a ConfigError unless an export may be written here: at a new place, or instead of another export."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not (out / REPORT_FILE).is_file():
        raise ConfigError(
            f"out: {out} is there already, and is no export (it has no {REPORT_FILE}); it would be replaced: give "
            "another folder"
        )


def largest_difference(first: torch.Tensor | npt.NDArray[Any], second: torch.Tensor | npt.NDArray[Any]) -> float:
    """Return the largest absolute difference of two arrays of one shape."""
    return float(np.abs(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)).max())


def require_parity(what: str, difference: float, tolerance: float = TOLERANCE) -> float:
    """Return the difference, or raise a ConfigError if it is above the tolerance or not a number."""
    if not difference <= tolerance:
        raise ConfigError(
            f"the export's {what} differ from the checkpoint's by {difference:.3g}, at most {tolerance:g} is allowed; "
            "nothing was written: please report it with the checkpoint's open_clip_config.json"
        )
    return difference
