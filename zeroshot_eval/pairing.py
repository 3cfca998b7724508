"""Stored answers of two checkpoints brought side by side: the folders' files by task, then their rows by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipmed.configuration import nearest
from clipmed.errors import ConfigError, DataError
from zeroshot_eval.predictions import Predictions, list_predictions, read_predictions, slug
from zeroshot_eval.rescoring import take

NAMED = 5  # samples that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The answers of two checkpoints to the same samples, in the same order; what one alone answered is counted."""

    first: Predictions
    second: Predictions
    only_first: tuple[str, ...]
    """keys of samples that the first alone answered"""
    only_second: tuple[str, ...]


def read_answers(folder: Path, checkpoint: str = "") -> list[Predictions]:
    """Read a checkpoint's answers to all tasks of an evaluation's folder, in the order of their names.

    Args:
        folder: what `python -m zeroshot_eval score … --out` wrote.
        checkpoint: the checkpoint's name; may be left out where the folder holds one.

    Raises:
        DataError: no answers there.
        ConfigError: several checkpoints and no name, or a name that is not there.
    """
    found = list_predictions(folder)
    if not found or not any(found.values()):
        raise DataError(f"{folder} holds no predictions; give a folder that `python -m zeroshot_eval score` wrote")
    if not checkpoint and len(found) > 1:
        raise ConfigError(f"{folder} holds answers of {len(found)} checkpoints; name one of: {', '.join(found)}")
    name = slug(checkpoint) if checkpoint else next(iter(found))
    if name not in found:
        raise ConfigError(
            f"{folder} holds no answers of {checkpoint!r}{nearest(name, list(found))} Allowed: {', '.join(found)}"
        )
    return [read_predictions(path) for path in found[name]]


def pair(first: Predictions, second: Predictions) -> Pair:
    """Pair the rows of two checkpoints' answers to one task by sample.

    Raises:
        DataError: another kind of task, other classes, other data, other truths, or no sample in common.
    """
    _check_headers(first, second)
    place_of_first, place_of_second = ({name: at for at, name in enumerate(_names(one))} for one in (first, second))
    common = [name for name in place_of_first if name in place_of_second]
    if not common:
        raise DataError(f"task {first.header.task!r}: no sample was answered by both; compare scores of the same data")
    one = take(first, np.asarray([place_of_first[name] for name in common]))
    other = take(second, np.asarray([place_of_second[name] for name in common]))
    for column in ("target", "num_correct", "group"):
        if column in one.table.column_names and not one.table[column].equals(other.table[column]):
            raise DataError(
                f"task {first.header.task!r}: the two folders hold different values of {column!r} for the same "
                "samples; score both checkpoints on the same data"
            )
    return Pair(
        first=one,
        second=other,
        only_first=tuple(name[1] for name in place_of_first if name not in place_of_second),
        only_second=tuple(name[1] for name in place_of_second if name not in place_of_first),
    )


def named(keys: Sequence[str]) -> str:
    """Return the first of some keys, and how many follow."""
    rest = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + rest


def _check_headers(first: Predictions, second: Predictions) -> None:
    one, other = first.header, second.header
    for what in ("kind", "classes", "data_digest"):
        values = [getattr(header, what) for header in (one, other)]
        if values[0] != values[1]:
            shown = [", ".join(value) if isinstance(value, tuple) else str(value) for value in values]
            raise DataError(
                f"task {one.task!r}: {what.replace('_', ' ')}: got {shown[0]} of {one.checkpoint} and {shown[1]} of "
                f"{other.checkpoint}; allowed: the same; score both checkpoints on the same data and suite"
            )


def _names(predictions: Predictions) -> list[tuple[str, str, int]]:
    """Return what identifies each row: its direction of retrieval, its key, and which of the key's rows it is."""
    keys = predictions.column("key")
    is_retrieval = predictions.header.kind == "retrieval"
    directions = predictions.column("direction") if is_retrieval else [""] * len(keys)
    seen: Counter[tuple[str, str]] = Counter()
    names = []
    for direction, key in zip(directions, keys, strict=True):
        names.append((direction, key, seen[direction, key]))
        seen[direction, key] += 1
    return names
