"""Search of images by text or by image: an index is built once and then answers in milliseconds.

>>> from clipmed.search import SearchIndex, build_index
>>> index = build_index(model, paths, "index")  # doctest: +SKIP
>>> index.search(model.embed_texts("a lung nodule"), k=5)[0][0].path  # doctest: +SKIP
"""

from __future__ import annotations

from clipmed.search.building import IndexConfig, build_index
from clipmed.search.captions import read_captions
from clipmed.search.index import Hit, SearchIndex

__all__ = ["Hit", "IndexConfig", "SearchIndex", "build_index", "read_captions"]
