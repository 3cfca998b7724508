"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and articles: $CLIPMED_REAL_DATA, or ../shared/data; skips where there is none."""
    folder = Path(os.environ.get("CLIPMED_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CLIPMED_REAL_DATA to a folder of it")
    return folder
