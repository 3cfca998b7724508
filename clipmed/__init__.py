"""clipmed: from medical-imaging archives to a published CLIP-style model.

>>> import clipmed
>>> model = clipmed.load("build/demo/run/model")  # doctest: +SKIP
>>> model.classify("image.jpg", ["a normal scan", "a scan with a mass"])[0].label  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmed.api import ClipModel as ClipModel
    from clipmed.api import load as load
    from clipmed.inputs import open_image as open_image

__version__ = "0.1.0"
__all__ = ["ClipModel", "__version__", "load", "open_image"]


def __getattr__(name: str) -> Any:
    """Import the API on first use, so that `import clipmed` is quick and does not import torch."""
    if name in {"ClipModel", "load"}:
        from clipmed import api

        return getattr(api, name)
    if name == "open_image":
        from clipmed.inputs import open_image

        return open_image
    raise AttributeError(f"module 'clipmed' has no attribute {name!r}")
