"""NumPy arrays and tensors to pictures. What values mean is stated by their type, never guessed from their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmed.errors import ImageError
from clipmed.inputs.deep import stretched
from clipmed.inputs.formats import check_size, rgb_of

if TYPE_CHECKING:
    import torch

    from clipmed.inputs import InputLimits

_CHANNELS = (1, 3, 4)
_SEVERAL = "; several images are a list of them, as list(images) makes of (N, H, W)"


def array_image(array: npt.NDArray[Any], limits: InputLimits) -> Image.Image:
    """Return an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as RGB of 8 bits; see `clipmed.inputs.open_image`.

    Raises:
        ImageError: another shape, type or range of values.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        hint = "; channels come last: array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise ImageError(f"allowed shapes: (H, W), (H, W, 1), (H, W, 3), (H, W, 4){hint or _SEVERAL}")
    check_size(array.shape[1], array.shape[0], limits)
    if np.ma.is_masked(array):
        raise ImageError("masked values have no colour; fill them first: array.filled(0)")
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    levels = _levels(np.asarray(values))
    return rgb_of(Image.fromarray(np.ascontiguousarray(levels)), limits)


def tensor_image(tensor: torch.Tensor, limits: InputLimits) -> Image.Image:
    """Return a tensor (H, W), (1, H, W) or (3, H, W), uint8, uint16, bool or floats from 0 to 1, as RGB of 8 bits.

    Raises:
        ImageError: another shape, type or range of values.
    """
    import torch

    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3)):
        last = tensor.ndim == 3 and tensor.shape[2] in _CHANNELS
        hint = "; channels come first: tensor.permute(2, 0, 1)" if last else ""
        raise ImageError(f"allowed shapes: (H, W), (1, H, W), (3, H, W){hint or _SEVERAL}")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ImageError("allowed: dense tensors, not sparse, quantised or meta ones")
    values = tensor.detach().cpu()
    if values.dtype.is_floating_point:
        values = values.float()
    array = values.resolve_conj().resolve_neg().numpy()
    return array_image(array if array.ndim == 2 else array.transpose(1, 2, 0), limits)


def _levels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values as uint8 of the same shape; grey ones of 16 bits stay as they are."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        deep = values.astype(np.uint16)  # whatever its byte order
        return deep if deep.ndim == 2 else np.asarray(stretched(deep))
    if values.dtype.kind != "f":
        raise ImageError(
            "allowed types: uint8, uint16, bool, and floats from 0 to 1; map others to levels first, such as CT by a "
            "window"
        )
    if not np.isfinite(values).all():
        raise ImageError("it has NaN or infinite values; allowed: floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"it has floats from {low:g} to {high:g}; allowed: 0 to 1, as before normalisation; give whole levels "
            "from 0 to 255 as uint8"
        )
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
