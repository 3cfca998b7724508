"""Values of any depth to 8-bit levels: linear between the two values that become black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clipmed.rejects import RejectReason
from clipmed.scans.config import HOUNSFIELD_WINDOWS, Pixels, ScanConfig, WindowName, rejected

Values = npt.NDArray[Any]
_SAMPLE = 4_000_000  # percentiles of more values are those of an even sample of about as many
_FOREGROUND_LEVEL = 255 // 20


def limits(values: Values, window: WindowName, config: ScanConfig) -> tuple[float, float]:
    """Return the values that become black and white.

    Args:
        values: numbers of any shape: the image, or the volume that its window is taken from. NaN and infinities are
            left out.
        window: any but `stored`, which only the file's reader knows.
        config: percentiles, center and width.

    Raises:
        ItemRejectedError: no finite value.
    """
    if window in HOUNSFIELD_WINDOWS or window == "custom":
        center, width = HOUNSFIELD_WINDOWS.get(window, (config.center, config.width))
        return center - width / 2, center + width / 2
    finite = _finite(values if window == "range" else _sampled(values))
    if finite.size == 0:
        raise rejected(RejectReason.IMAGE_BLANK, "no finite value")
    if window == "range":
        return float(finite.min()), float(finite.max())
    low, high = np.percentile(finite, config.percentiles)
    return float(low), float(high)


def to_levels(values: Values, low: float, high: float) -> Pixels:
    """Return values of any shape as 8-bit levels: `low` and below is 0, `high` and above 255, NaN 0."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.asarray(values, np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 255.0)).astype(np.uint8)


def check_foreground(levels: Pixels, config: ScanConfig) -> None:
    """Raise ItemRejectedError where too few pixels lie above a twentieth of the window."""
    share = float((levels > _FOREGROUND_LEVEL).mean())
    if share < config.min_foreground:
        detail = f"{share:.4f} of the pixels are foreground; allowed: {config.min_foreground:g} or more"
        raise rejected(RejectReason.IMAGE_BLANK, detail)


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values.reshape(-1)


def _sampled(values: Values) -> Values:
    """Return every n-th value, n odd and so seldom a divisor of the sides, where there are very many."""
    step = values.size // _SAMPLE
    return values if step < 2 else values.reshape(-1)[:: step | 1]
