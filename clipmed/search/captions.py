"""Captions of images from a table: CSV, JSON lines or Parquet with the columns `path` (or `image`) and `caption`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmed.errors import ConfigError, DataError
from clipmed.tables import SUFFIXES, table_rows

PATH_COLUMNS, CAPTION_COLUMN = ("path", "image"), "caption"
MAX_CAPTION = 100_000  # characters


def read_captions(file: str | Path) -> dict[str, str]:
    """Return captions by the path of their image; images without text are left out.

    Paths may be written from the table's own folder, or from the current one.

    Raises:
        ConfigError: no such file, an unknown ending, or a column is missing.
        DataError: the table cannot be read, or gives one image two captions.
    """
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"captions: no file {path}; give a {', '.join(SUFFIXES)}")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"captions: got {path.name}; allowed endings: {', '.join(SUFFIXES)}")
    captions: dict[str, str] = {}
    for where, row in table_rows(path, (*PATH_COLUMNS, CAPTION_COLUMN)):
        name, text = _path_and_caption(row, f"{path} {where}")
        beside = path.parent / name
        name = str(beside) if beside.is_file() else name
        if text and captions.setdefault(name, text) != text:
            raise DataError(f"{path} {where}: {name!r} has a second caption; allowed: one an image; join or drop one")
    return captions


def match_captions(captions: Mapping[str, str], paths: Sequence[str]) -> dict[str, str]:
    """Return captions by the paths of images: both may be written from any folder, if they lead to the same file."""
    path_at = {os.path.abspath(path): path for path in paths}  # noqa: PTH100 (Path.resolve would follow links)
    found = ((path_at.get(os.path.abspath(name)), text) for name, text in captions.items())  # noqa: PTH100
    return {path: text for path, text in found if path is not None}


def _path_and_caption(row: Any, where: str) -> tuple[str, str]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: got {type(row).__name__}; allowed: a row of names and values")
    column = next((name for name in PATH_COLUMNS if name in row), None)
    if column is None or CAPTION_COLUMN not in row:
        raise ConfigError(f"{where}: needs the columns {' or '.join(PATH_COLUMNS)}, and {CAPTION_COLUMN}")
    name, text = row[column], row[CAPTION_COLUMN]
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: {column} is {name!r:.40}; allowed: the path of an image")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: {CAPTION_COLUMN} is {type(text).__name__}; allowed: text")
    stripped = " ".join((text or "").split())
    if len(stripped) > MAX_CAPTION:
        raise DataError(f"{where}: a caption of {len(stripped)} characters; allowed: {MAX_CAPTION}")
    return name, stripped
