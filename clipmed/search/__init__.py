"""Search of images by text or by image: an index is built once and then answers in milliseconds.

>>> from clipmed.search import SearchIndex, build_index
>>> index = build_index(model, paths, "index")  # doctest: +SKIP
>>> index.search(model.embed_texts("a lung nodule"), k=5)[0][0].path  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmed.search.building import IndexConfig as IndexConfig
    from clipmed.search.building import build_index as build_index
    from clipmed.search.captions import read_captions as read_captions
    from clipmed.search.index import Hit as Hit
    from clipmed.search.index import SearchIndex as SearchIndex

__all__ = ["Hit", "IndexConfig", "SearchIndex", "build_index", "read_captions"]

_MODULES = {
    "Hit": "index",
    "IndexConfig": "building",
    "SearchIndex": "index",
    "build_index": "building",
    "read_captions": "captions",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that the command line starts without NumPy."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"clipmed.search.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'clipmed.search' has no attribute {name!r}")
